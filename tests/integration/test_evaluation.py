"""What views keep of annotated actors, beside boxes of the same area: by clip, by class, with intervals over groups."""

from __future__ import annotations

import csv
import io
import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_specs.annotation_files import read_annotations
from data_specs.annotations import Annotation, Matched, actor_boxes, match
from data_specs.recipes import FixedView, FullView, MotionView, Recipe, parse_recipe
from data_specs.records import BoxRow, Record
from data_specs.stored import StoreError, open_store
from mocrop_core import Box, BoxPath
from mocrop_core.coverage import central_box, random_shares, shares_kept
from pipelines.evaluation.coverage import Coverage, coverage, mismatches, stored_boxes
from pipelines.evaluation.evaluation import evaluate, rows_of
from pipelines.evaluation.formats import as_csv, as_json, as_markdown, problem_lines
from pipelines.evaluation.groups import groups_of
from pipelines.report import actor_coverage
from tests.benchmarks import box_coverage
from tests.conftest import Said

SIZE = (240, 320)
LEFT = Box(0, 0, 160, 240)


def annotation(*boxes: tuple[int, int, int, int]) -> Annotation:
    return Annotation(np.arange(len(boxes)), np.array(boxes, float), len(boxes))


def tables_of(recipe: Recipe, boxes: list[Box | None]) -> dict[str, np.ndarray]:
    """A store's tables with a clip for each box of its motion views; None for one that has none yet."""
    tables: dict[str, np.ndarray] = {"frame_size": np.array([SIZE] * len(boxes)), "label": np.arange(len(boxes))}
    for view in recipe.views:
        own = [box if view.kind == "motion" or box is None else Box(0, 0, 320, 240) for box in boxes]
        tables[f"views/{view.name}/box"] = np.array([box.corners if box else (0, 0, 0, 0) for box in own])
        tables[f"views/{view.name}/source"] = np.array([int(box is not None) for box in own])
    return tables


def matched(*annotations: Annotation) -> Matched:
    ids = [f"c/{i}" for i in range(len(annotations))]
    counts = np.array([len(one.frame) for one in annotations])
    return match(dict(zip(ids, annotations, strict=True)), ids, counts, np.array([SIZE] * len(ids)))


def measured(known: Matched, recipe: Recipe, tables: dict[str, np.ndarray]) -> Coverage:
    return coverage(known, recipe, tables, stored_boxes({}, recipe, [], tables))


def test_boxes_of_exactly_the_views_area_stand_beside_it() -> None:
    recipe = Recipe(views=(FullView(), MotionView()))
    crop = Box(0, 0, 240, 210)  # 0.65625 of the frame
    found = measured(matched(annotation((0, 0, 40, 40), (200, 100, 100, 40))), recipe, tables_of(recipe, [crop]))
    actors = np.array([[0, 0, 40, 40], [200, 100, 300, 140]], float)
    full, own = found.views
    assert (own.area.tolist(), own.kind) == ([0.65625], "motion")
    centre = shares_kept(actors, central_box(SIZE, 0.65625)[None])[0]
    anywhere, mostly = random_shares(actors, SIZE, 0.65625)
    assert own.mean[0] == pytest.approx([0.7, centre.mean(), anywhere.mean(), 1])
    assert own.mostly[0] == pytest.approx([0.5, (centre >= 0.9).mean(), mostly.mean(), 1])
    assert full.mean[0] == pytest.approx([1, 1, 1, 1])
    assert found.boxes == [2]


def test_a_clip_without_a_box_in_some_view_is_left_out_and_told() -> None:
    recipe = Recipe(views=(FullView(), MotionView()))
    known = matched(annotation((0, 0, 40, 40)), annotation((0, 0, 9, 9)))
    tables = tables_of(recipe, [LEFT, None])
    found = measured(known, recipe, tables)
    assert found.rows == [0]
    assert mismatches(found, recipe, ["c/0", "c/1"], tables, known) == {"c/1": ["left out: no box in full, mocrop"]}


def test_the_best_box_is_never_below_the_views_own_static_box() -> None:
    recipe = Recipe(views=(MotionView(),))
    rng = np.random.default_rng(3)
    for _ in range(20):
        x0, y0 = rng.integers(0, 150, 2)
        crop = Box(int(x0), int(y0), int(x0) + 90, int(y0) + 80)
        found = measured(matched(annotation((int(x0), int(y0), 90, 80))), recipe, tables_of(recipe, [crop]))
        assert found.views[0].mean[0, 0] == found.views[0].mean[0, 3] == 1


def test_a_box_that_moves_is_taken_in_each_frame() -> None:
    recipe = Recipe(shard_clips=16, views=(MotionView(preset="actor", crop_ratio=0.5, segments=2),))
    tables = tables_of(recipe, [LEFT])
    row = BoxRow(LEFT, 1.0, 1, BoxPath((0.0, 4.0), (Box(0, 0, 160, 240), Box(160, 0, 320, 240))))
    records = {"mocrop": {0: Record("boxes", "mocrop", 0, "", {"c/0": row}, {}, {})}}
    boxes_of = stored_boxes(lambda view, shard: records[view][shard], recipe, ["c/0"], tables)
    assert boxes_of("mocrop", 0, np.array([9, 0, 2, 4, 0]))[:, 0].tolist() == [160, 0, 80, 160, 0]
    eased = [0, 25, 80, 135, 160]  # 3 t² − 2 t³ of 160 px
    walk = annotation(*((x, 0, 160, 240) for x in eased))
    found = coverage(matched(walk), recipe, tables, boxes_of)
    assert found.views[0].mean[0, 0] == found.views[0].mostly[0, 0] == 1
    assert found.views[0].mean[0, 3] == pytest.approx((1 + 2 * 105 / 160 + 2 * 0.5) / 5)  # the middle stays
    assert found.views[0].area.tolist() == [0.5]


def test_each_clip_counts_the_same_overall_and_in_its_class() -> None:
    recipe = Recipe(views=(MotionView(),))
    long, short = annotation(*[(0, 0, 40, 40)] * 9), annotation((200, 100, 40, 40))
    found = measured(matched(long, short), recipe, tables_of(recipe, [LEFT, LEFT]))
    rows = rows_of(found, [0, 1], ["A", "all"], groups_of(["c/0", "c/1"], None))
    assert [(row["class"], row["clips"], row["kept"], row["mostly"]) for row in rows] == [
        (None, 2, 0.5, 0.5), ("A", 1, 1.0, 1.0), ("all", 1, 0.0, 0.0)
    ]  # fmt: skip
    page = actor_coverage.as_json(found, np.array([0, 1]), {}, {0: 0, 1: 1})
    first = page["series"][0]
    assert (first["mean"], first["mostly"], first["clips"], first["classes"]) == (0.5, 0.5, [1, 0], [1, 0])
    assert [(one["name"], one["way"], one["of"]) for one in page["series"]] == [
        ("mocrop", "view", "mocrop"), ("centre for mocrop", "centre", "mocrop"),
        ("random for mocrop", "random", "mocrop"), ("best for mocrop", "best", "mocrop"),
    ]  # fmt: skip
    assert page["boxes"] == [9, 1]
    assert page["classes"] == [[0, 1], [1, 1]]
    json.dumps(page, allow_nan=False)


def test_intervals_come_from_whole_groups_and_need_two() -> None:
    recipe = Recipe(views=(MotionView(),))
    wins, loses = annotation((0, 0, 40, 40)), annotation((280, 0, 40, 40))  # kept wholly and not at all; by the centre
    found = measured(matched(wins, wins, loses), recipe, tables_of(recipe, [LEFT] * 3))  # 0.0 (it begins at x 46.9)
    ids = ["X/v_X_g01_c01", "X/v_X_g01_c02", "X/v_X_g02_c01"]
    by_recording = rows_of(found, [0, 0, 0], ["X"], groups_of(ids, None))[0]
    assert by_recording["groups"] == 2
    assert by_recording["kept_minus_centre"] == pytest.approx(2 / 3)
    assert (by_recording["kept_low_95"], by_recording["kept_high_95"]) == (0, 1)  # a quarter of the draws each
    one_group = rows_of(found, [0, 0, 0], ["X"], groups_of(ids, "^X"))[0]
    assert {one_group[f"kept_{end}_{level}"] for end in ("low", "high") for level in (90, 95)} == {None}


def test_groups_are_ucf101s_recordings_or_what_a_pattern_finds() -> None:
    ucf = ["A/v_A_g01_c01", "A/v_A_g01_c04", "B/v_B_g01_c01", "odd"]
    found = groups_of(ucf, None)
    assert (found.names, found.alone) == (["v_A_g01", "v_A_g01", "v_B_g01", "clip odd"], 1)
    assert found.about == "by UCF-101's names, v_CLASS_gNN; clips without one are groups of their own: 1"
    people = ["bend/ido_bend", "run/ido_run", "run/eli_run"]
    assert groups_of(people, r"/([a-z]+)_").names == ["ido", "ido", "eli"]
    assert groups_of(people, "^[a-z]+").names == ["bend", "run", "run"]
    alone = groups_of(people, None)
    assert (alone.names, alone.about) == (people, "each clip is a group of its own")
    with pytest.raises(StoreError, match=r"--group-by '\(': not a regular expression"):
        groups_of(people, "(")
    with pytest.raises(
        StoreError, match=r"--group-by 'g\[0-9\]\+' matches none of the 3 annotated clips, such as 'bend/"
    ):
        groups_of(people, "g[0-9]+")


@pytest.fixture(scope="module")
def evaluated(ucf_store: Path, data: Path) -> object:
    return evaluate(str(ucf_store), data / "annotations" / "ucf101_24.json")


def test_a_real_store_is_evaluated_as_its_boxes_say(evaluated, ucf_store: Path, data: Path) -> None:  # type: ignore[no-untyped-def]
    counts = (evaluated.annotated, evaluated.clips, evaluated.stored, evaluated.unannotated, evaluated.groups)
    assert counts == (5, 5, 15, 10, 5)
    assert evaluated.problems == {}
    known = read_annotations(data / "annotations" / "ucf101_24.json")
    store = open_store(ucf_store)
    boxes = store.view("mocrop").table("box")
    shares = [
        shares_kept(actor_boxes(one, one.num_frames or 0, SIZE).box, boxes[None, store.row(id)])[0].mean()
        for id, one in known.items()
    ]
    whole = {row["view"]: row for row in evaluated.rows if row["class"] is None}
    assert list(whole) == ["full", "centre", "random", "mocrop"]
    assert whole["mocrop"]["kept"] == pytest.approx(np.mean(shares), abs=1e-6)
    assert whole["full"]["kept"] == whole["full"]["mostly"] == 1
    for row in evaluated.rows:
        assert row["kept_best"] >= max(row["kept"], row["kept_centre"], row["kept_random"]) - 1e-6
    low, high = whole["mocrop"]["kept_low_90"], whole["mocrop"]["kept_high_90"]
    assert whole["mocrop"]["kept_low_95"] <= low <= whole["mocrop"]["kept_minus_centre"] <= high
    centre = whole["centre"]  # whole pixels against exact ones
    assert abs(centre["kept_minus_centre"]) < 0.01


def test_every_format_has_every_number(evaluated) -> None:  # type: ignore[no-untyped-def]
    document = json.loads(json.dumps(as_json(evaluated), allow_nan=False))
    assert document["bootstrap"] == {"resamples": 10_000, "seed": 0, "levels": [0.9, 0.95], "unit": "group"}
    rows = list(csv.DictReader(io.StringIO(as_csv(evaluated))))
    assert len(rows) == len(document["rows"]) == 4 * (1 + 5)
    for row, same in zip(rows, document["rows"], strict=True):
        assert row == {key: "" if value is None else str(value) for key, value in same.items()}
    text = as_markdown(evaluated)
    whole = next(row for row in evaluated.rows if row["view"] == "mocrop")
    for number in (whole["kept"], whole["kept_centre"], whole["mostly"], whole["mostly_best"]):
        assert f" {number:.3f} |" in text
    assert ", by UCF-101's names" in text
    assert text.count("\n### ") == 4


def test_what_does_not_match_is_counted_by_kind_and_listed(ucf_store: Path, data: Path, tmp_path: Path) -> None:
    clips = json.loads((data / "annotations" / "ucf101_24.json").read_text())
    good = next(iter(clips))
    short = {id: {**clips[id], "num_frames": 9} for id in list(clips)[:2]}
    wrong = {f"Nowhere/{i:02}": clips[good] for i in range(12)} | short
    (tmp_path / "a.json").write_text(json.dumps(wrong))
    found = evaluate(str(ucf_store), tmp_path / "a.json")
    assert (found.annotated, found.clips) == (14, 2)
    lines = problem_lines(found)
    assert lines[0].startswith("12 clips: not in the store (Nowhere/00, ")
    assert lines[0].endswith("Nowhere/09 and 2 more)")
    assert lines[1:] == [f"2 clips: annotated as … frames, the clip has … ({', '.join(short)})"]
    assert len(found.problems) == 14
    assert found.problems[good] == [f"annotated as 9 frames, the clip has {clips[good]['num_frames']}"]
    (tmp_path / "a.json").write_text(json.dumps({"Nowhere/a": clips[good]}))
    with pytest.raises(StoreError, match=r"none of the 1 annotated clips .*'Nowhere/a': not in the store.*An id of"):
        evaluate(str(ucf_store), tmp_path / "a.json")


def test_a_recipes_own_centre_view_needs_no_motion_view() -> None:
    recipe = Recipe(views=(FixedView(kind="centre", name="middle"),))
    found = measured(matched(annotation((0, 0, 40, 40))), recipe, tables_of(recipe, [LEFT]))
    assert [view.name for view in found.views] == ["middle"]
    assert [one["name"] for one in actor_coverage.as_json(found, np.array([0]), {}, {0: 0})["series"]] == ["middle"]


def test_what_boxes_keep_is_measured_for_every_preset_at_every_area() -> None:
    views = parse_recipe(tomllib.loads(box_coverage.recipe_text()), "of the measurement").views
    motion = {(view.preset, view.crop_ratio) for view in views if isinstance(view, MotionView)}
    assert motion == {(preset, area) for preset in ("paper-v1", "paper-v2", "actor") for area in (0.75, 0.5, 0.25)}
    kept = json.loads(box_coverage.RESULT.read_text(encoding="utf-8"))["sets"]
    assert {name: [row["view"] for row in one["rows"]] for name, one in kept.items()} == {
        name: [view.name for view in views] for name in box_coverage.SETS
    }


# --- the command


def test_the_command_prints_text_markdown_csv_and_json(
    ucf_store: Path, data: Path, mocrop_here: Callable[..., Said]
) -> None:
    words = ("evaluate", ucf_store, "--annotations", data / "annotations" / "ucf101_24.json")
    text = mocrop_here(*words)
    assert text.status == 0
    assert "Mean share of the actor kept, by class" in text.out
    assert ", by UCF-101's names" in text.out
    assert "evaluate: 5 of 5 clips" in text.err
    document = json.loads(mocrop_here(*words, "--json").out)
    assert document == json.loads(mocrop_here(*words, "--format", "json", "--json").out)
    assert mocrop_here(*words, "--format", "csv").out.splitlines()[0] == ",".join(document["rows"][0])
    assert mocrop_here(*words, "--format", "markdown").out.count("\n| view | clips |") == 2
    by_class = json.loads(mocrop_here(*words, "--json", "--group-by", "^[^/]+").out)
    assert (by_class["groups"], by_class["grouped"]) == (5, "by '^[^/]+' in the clips' ids")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--annotations", "none.json"), "annotations 'none.json': No such file or directory"),
        (("--annotations", "a.json", "--group-by", "("), "--group-by '(': not a regular expression"),
        (("--annotations", "a.json", "--group-by", "X"), "--group-by 'X' matches none of the 1 annotated clips"),
        (("--annotations", "a.json", "--json", "--format", "csv"), "--json with --format csv: give only one of them"),
        (("--annotations", "b.json"), "none of the 0 annotated clips of 'b.json' can be evaluated"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_one_line(
    ucf_store: Path, tmp_path: Path, mocrop_here: Callable[..., Said], more: tuple[str, ...], says: str
) -> None:
    os.chdir(tmp_path)
    tube = {"start_frame": 0, "end_frame": 1, "boxes_xywh": [[1, 2, 3, 4]]}
    Path("a.json").write_text(json.dumps({"Fencing/v_Fencing_g01_c01": {"tubes": [tube]}}))
    Path("b.json").write_text("{}")
    said = mocrop_here("evaluate", ucf_store, *more)
    assert (said.status, said.out) == (1, "")
    assert says in said.err.splitlines()[-1]
