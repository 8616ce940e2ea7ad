"""Actor boxes: reading them, matching them to clips, and what a crop keeps of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_specs.annotations import Annotation, AnnotationError, actor_boxes, match, read_annotations
from data_specs.recipes import FixedView, FullView, MotionView, Recipe
from mocrop_core import Box, candidate_sizes, centre_box, clip_rng, pixel_box, random_box
from mocrop_core.search import Rectangle
from pipelines.report.actor_coverage import as_json, best_box, kept, mismatches, shares_kept

SIZE = (240, 320)


def annotation(num_frames: int, *tubes: tuple[int, list[list[float]]]) -> Annotation:
    found = [{"start_frame": s, "end_frame": s + len(boxes), "boxes_xywh": boxes} for s, boxes in tubes]
    return Annotation.model_validate({"num_frames": num_frames, "tubes": found})


def write(folder: Path, text: str) -> Path:
    path = folder / "actors.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_real_annotations_are_read_and_fit_their_clips(data: Path) -> None:
    found = read_annotations(data / "annotations" / "ucf101_24.json")
    assert len(found) == 5
    for one in found.values():
        boxes = actor_boxes(one, one.num_frames, SIZE)
        assert len(boxes.frame) == sum(len(tube.boxes_xywh) for tube in one.tubes)
        assert boxes.problems == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[]", "the file: Input should be a valid dictionary"),
        ('{"A/a": {"num_frames": 3}}', "A/a → tubes: Field required"),
        ('{"A/a": {"num_frames": -3, "tubes": []}}', "A/a → num_frames"),
        (
            '{"A/a": {"num_frames": 3, "tubes": [{"start_frame": 0, "end_frame": 3, "boxes_xywh": [[1, 2, 3, 4]]}]}}',
            "A/a → tubes → 0: 1 boxes for frames 0 to 3 (exclusive)",
        ),
        ('{"A/a": {"num_frames": 3, "tubes": [{"start_frame": 0, "end_frame": 1, "boxes_xywh": [["x", 2, 3, 4]]}]}}',
         "boxes_xywh → 0 → 0"),
    ],
)  # fmt: skip
def test_a_file_of_another_form_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(AnnotationError) as caught:
        read_annotations(write(tmp_path, text))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"none\.json': No such file"):
        read_annotations(tmp_path / "none.json")


def test_boxes_are_cut_at_the_edge_and_left_out_beyond_it() -> None:
    found = actor_boxes(
        annotation(5, (0, [[-10, 20, 30, 40], [400, 0, 10, 10], [10, 10, 0, 10]]), (3, [[1, 2, 3, 4]] * 3)), 5, SIZE
    )
    assert found.frame.tolist() == [0, 3, 4]
    assert found.box[0].tolist() == [0, 20, 20, 60]
    assert found.problems == (
        "1 of 6 boxes of frames after the last one left out",
        "2 of 6 boxes outside the frame of 320×240 px or empty left out",
        "1 of 6 boxes over the edge of the frame of 320×240 px cut there",
    )
    assert found.at(4).tolist() == [[1, 2, 4, 6]]


def test_another_number_of_frames_is_told_and_the_boxes_are_used() -> None:
    found = actor_boxes(annotation(7, (0, [[1, 2, 3, 4]] * 7)), 6, SIZE)
    assert len(found.frame) == 6
    assert found.problems[0] == "annotated as 7 frames, the clip has 6"


def test_what_does_not_match_the_store_is_listed_by_id() -> None:
    annotated = {
        "A/good": annotation(2, (0, [[0, 0, 10, 10]])),
        "A/none": annotation(2, (0, [[0, 0, 10, 10]])),
        "A/pending": annotation(2, (0, [[0, 0, 10, 10]])),
        "A/away": annotation(2, (0, [[900, 0, 10, 10]])),
        "A/empty": annotation(2),
    }
    ids = ["A/away", "A/empty", "A/good", "A/pending"]
    sizes = np.array([SIZE] * 3 + [(0, 0)])
    found = match(annotated, ids, np.array([2, 2, 2, 0]), sizes)
    assert list(found.boxes) == [2]
    assert found.problems == {
        "A/none": ("not in the store",),
        "A/pending": ("annotated, but the clip is not done",),
        "A/away": ("1 of 1 boxes outside the frame of 320×240 px or empty left out", "no actor box is left"),
        "A/empty": ("no actor box is left",),
    }


def test_the_share_kept_of_a_real_actor_is_as_worked_out_by_hand(data: Path) -> None:
    # SoccerJuggling g23 c01: one actor, 240 boxes, one a frame. The crop x 40–320, y 40–240 cuts only tops off: every
    # box lies in x 91–225 and ends above y 189. 172 boxes begin at y 40 or below it: kept whole. The other 68, as
    # "y: boxes", with 40 - y rows lost each:
    #   149 px high   13: 11, 17: 1, 18: 13, 19: 1, 20: 1, 21: 5, 22: 1, 23: 1, 24: 1, 28: 1, 30: 10, 31: 5, 32: 1,
    #                 33: 6, 34: 3, 38: 1
    #     rows lost   297 + 23 + 286 + 21 + 20 + 95 + 18 + 17 + 16 + 12 + 100 + 45 + 8 + 42 + 18 + 2 = 1020
    #   138 px high   38: 2, 39: 4;   rows lost 4 + 4 = 8
    # A box keeps 1 - lost/high of itself, as it loses nothing at the sides. Mean: 1 - (1020/149 + 8/138) / 240
    # = 1 - 6.903609 / 240 = 0.971235. Less than 90 % is kept where more than 14.9 (13.8) rows are lost, so from y 25
    # up: 11 + 1 + 13 + 1 + 1 + 5 + 1 + 1 + 1 = 35 boxes; 205 of 240 = 0.854167 keep 90 % or more.
    one = read_annotations(data / "annotations" / "ucf101_24.json")["SoccerJuggling/v_SoccerJuggling_g23_c01"]
    shares = shares_kept(actor_boxes(one, 240, SIZE).box, np.array([[40, 40, 320, 240]]))[0]
    assert shares.shape == (240,)
    assert shares.mean() == pytest.approx(0.971235, abs=1e-6)
    assert (shares >= 0.9).mean() == pytest.approx(205 / 240)


corners = st.tuples(st.integers(0, 300), st.integers(0, 220), st.integers(1, 20), st.integers(1, 20)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@given(st.lists(corners, min_size=1, max_size=6), st.lists(corners, min_size=1, max_size=4))
def test_shares_are_those_of_counted_pixels(actors: list[tuple[int, ...]], crops: list[tuple[int, ...]]) -> None:
    found = shares_kept(np.array(actors, float), np.array(crops))
    assert found.shape == (len(crops), len(actors))
    for i, crop in enumerate(crops):
        inside = np.zeros(SIZE, bool)
        inside[crop[1] : crop[3], crop[0] : crop[2]] = True
        for j, (x0, y0, x1, y1) in enumerate(actors):
            assert found[i, j] == pytest.approx(inside[y0:y1, x0:x1].mean())


@given(
    st.lists(corners, min_size=1, max_size=8), st.sampled_from([(6, 8), (4, 4), (3, 7)]), st.sampled_from([0.5, 0.75])
)
def test_no_rectangle_of_the_grid_keeps_more_than_the_best_box(
    actors: list[tuple[int, ...]], grid: tuple[int, int], ratio: float
) -> None:
    boxes = np.array(actors, float)
    best = best_box(boxes, MotionView(grid=grid, crop_ratio=ratio), SIZE)
    tried = [
        pixel_box(Rectangle(row, col, row + h, col + w), grid, SIZE)
        for h, w in candidate_sizes(grid, ratio)
        for row in range(grid[0] - h + 1)
        for col in range(grid[1] - w + 1)
    ]
    assert best in tried
    means = [shares_kept(boxes, np.array([box.corners]))[0].mean() for box in tried]
    assert shares_kept(boxes, np.array([best.corners]))[0].mean() == pytest.approx(max(means))


def tables_of(recipe: Recipe, box: Box) -> dict[str, np.ndarray]:
    tables: dict[str, np.ndarray] = {"frame_size": np.array([SIZE, SIZE]), "label": np.array([0, 1])}
    for view in recipe.views:
        corners = box.corners if view.kind == "motion" else (0, 0, 320, 240)
        tables[f"views/{view.name}/box"] = np.array([corners, (0, 0, 0, 0)])
        tables[f"views/{view.name}/source"] = np.array([1, 0])
    return tables


def test_fixed_boxes_of_the_same_area_stand_beside_a_view_unless_the_store_has_them() -> None:
    actor = {"A/a": annotation(2, (0, [[0, 0, 40, 40], [200, 100, 40, 40]])), "A/b": annotation(2, (0, [[0, 0, 9, 9]]))}
    recipe = Recipe(views=(FullView(), MotionView()), seed=3)
    tables = tables_of(recipe, Box(40, 40, 320, 240))
    matched = match(actor, ["A/a", "A/b"], np.array([2, 2]), tables["frame_size"])
    found = kept(matched, recipe, ["A/a", "A/b"], tables)
    assert found.rows == [0]  # the other clip has no box yet
    missing = mismatches(found, recipe, ["A/a", "A/b"], tables, matched)
    assert missing == {"A/b": ["left out: no box in full, mocrop"]}
    assert as_json(found, tables["label"], missing)["problems"] == [["A/b", "left out: no box in full, mocrop"]]
    means = {one.name: one.mean[0] for one in found.series}
    boxes = np.array([[0, 0, 40, 40], [200, 100, 240, 140]], float)
    centre = centre_box(SIZE, 0.75)
    anywhere = random_box(SIZE, 0.75, clip_rng(3, "A/a", "random-0.75"))
    assert means["full"] == 1
    assert means["mocrop"] == 0.5
    assert means["centre-0.75"] == shares_kept(boxes, np.array([centre.corners]))[0].mean()
    assert means["random-0.75"] == shares_kept(boxes, np.array([anywhere.corners]))[0].mean()
    assert means["best for mocrop"] == 1
    with_centre = Recipe(views=(FixedView(kind="centre", name="middle"), MotionView()))
    tables = tables_of(with_centre, Box(40, 40, 320, 240))
    names = [one.name for one in kept(matched, with_centre, ["A/a", "A/b"], tables).series]
    assert names == ["middle", "mocrop", "random-0.75", "best for mocrop"]


def test_each_clip_counts_the_same_overall_and_in_its_class() -> None:
    long, short = [[0, 0, 40, 40]] * 9, [[200, 100, 40, 40]]
    actor = {"A/a": annotation(9, (0, long)), "B/b": annotation(9, (0, short))}
    recipe = Recipe(views=(MotionView(),))
    tables = tables_of(recipe, Box(40, 40, 320, 240))
    tables["views/mocrop/box"][1] = (40, 40, 320, 240)
    tables["views/mocrop/source"][1] = 1
    matched = match(actor, ["A/a", "B/b"], np.array([9, 9]), tables["frame_size"])
    found = as_json(kept(matched, recipe, ["A/a", "B/b"], tables), tables["label"], {})
    first = found["series"][0]
    assert (first["mean"], first["mostly"], first["clips"], first["classes"]) == (0.5, 0.5, [0, 1], [0, 1])
    assert found["boxes"] == [9, 1]
    assert found["classes"] == [[0, 1], [1, 1]]
    json.dumps(found, allow_nan=False)
