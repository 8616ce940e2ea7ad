"""Boxes that move, and the map of the method actor, in the report, the contact sheet, figures and videos."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_specs.records import BoxRow, read_records
from data_specs.stored import open_store
from pipelines.media.decoder import rgb_frames
from pipelines.report.clip_cards import grey_levels, picture_bytes, row_bytes
from pipelines.report.clip_reader import ClipReader
from pipelines.report.contact_sheet import about_sheet, contact_sheet
from pipelines.report.drawing import clip_figure, frame_picture, view_colour, write_clip_video
from pipelines.report.page import as_script_data
from pipelines.runs.options import Options
from tests.conftest import Said, made_once, run_stages
from tests.integration.test_actor_view import DISC, VIEWS, recipe
from tests.integration.test_report_file import report_of

CLIP = "a/a"


@pytest.fixture(scope="module")
def moving_run(tmp_path_factory: pytest.TempPathFactory) -> Options:
    """A store of two clips with a box that moves by a good part of its size, to be read only."""
    views = [*VIEWS[:3], {**VIEWS[3], "crop_ratio": 0.05}]

    def make(folder: Path) -> None:
        for name in ("a", "b"):
            (folder / "source" / name).mkdir(parents=True)
            shutil.copy(DISC, folder / "source" / name / f"{name}.mp4")
        run_stages(Options(str(folder / "source"), str(folder / "s.zarr"), recipe=recipe(views)))

    folder = made_once(tmp_path_factory, "moving", make)
    return Options(str(folder / "source"), str(folder / "s.zarr"), recipe=recipe(views))


@pytest.fixture(scope="module")
def reader(moving_run: Options) -> ClipReader:
    return ClipReader(open_store(moving_run.store))


@pytest.fixture(scope="module")
def document(moving_run: Options, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("report")
    tube = {"start_frame": 0, "end_frame": 25, "boxes_xywh": [[2.0 * frame, 20, 30, 30] for frame in range(25)]}
    (folder / "actors.json").write_text(json.dumps({CLIP: {"num_frames": 25, "tubes": [tube]}}))
    return report_of(Path(moving_run.store), folder, annotations=folder / "actors.json")


def test_each_frame_of_the_page_has_its_own_box(document: dict[str, Any], moving_run: Options) -> None:
    store = open_store(moving_run.store)
    boxes, frames = (store.table(f"views/moving/{name}")[0].tolist() for name in ("frame_box", "frame_index"))
    strip = document["details"]["0"]["strip"]
    assert [one["frame"] for one in strip] == frames
    assert [one["boxes"] for one in strip] == [{"moving": box} for box in boxes]
    assert document["boxes"]["moving"]["shown"][:4] == boxes[len(boxes) // 2] != boxes[0]
    assert document["boxes"]["moving"]["box"][:4] == store.table("views/moving/box")[0].tolist()
    assert "shown" not in document["boxes"]["actor"]
    path = read_records(store.zarr, BoxRow, "moving", [0])[0].clips[CLIP].path
    assert path
    assert document["details"]["0"]["places"] == {"moving": [list(box.corners) for box in path.boxes]}
    heads = {view["name"]: view for view in document["head"]["views"]}
    assert heads["moving"]["places"] == 2 * 3
    assert heads["actor"]["places"] == 2
    assert heads["moving"]["heat"] != heads["actor"]["heat"]


def test_a_page_with_moving_boxes_keeps_to_its_budget(document: dict[str, Any], moving_run: Options) -> None:
    recipe = open_store(moving_run.store).recipe
    rows = len(as_script_data([document["rows"], document["boxes"]]))
    assert 0.4 < rows / (2 * row_bytes(recipe)) <= 1
    assert max(len(as_script_data(one)) for one in document["details"].values()) <= picture_bytes(recipe)


def test_vectors_are_counted_in_the_box_of_their_frame(
    document: dict[str, Any], moving_run: Options, reader: ClipReader
) -> None:
    row = read_records(open_store(moving_run.store).zarr, BoxRow, "moving", [0])[0].clips[CLIP]
    vectors = reader.fast_vectors(0)
    inside = 0
    for x, y, frame in zip(*(vectors[name].tolist() for name in ("x", "y", "frame")), strict=True):
        x0, y0, x1, y1 = row.box_at(frame).corners
        inside += x0 <= x < x1 and y0 <= y < y1
    assert 0 < inside == sum(document["details"]["0"]["time"]["inside"]["moving"])


def test_the_head_line_counts_the_box_of_each_frame(document: dict[str, Any], moving_run: Options) -> None:
    """By hand: the share of each annotated box that is in the view's box of its frame."""
    row = read_records(open_store(moving_run.store).zarr, BoxRow, "moving", [0])[0].clips[CLIP]
    shares, static = [], []
    for frame in range(25):
        for kept, (x0, y0, x1, y1) in ((shares, row.box_at(frame).corners), (static, row.box.corners)):
            wide, high = min(2 * frame + 30, x1) - max(2 * frame, x0), min(50, y1) - max(20, y0)
            kept.append(max(wide, 0) * max(high, 0) / 900)
    series = next(one for one in document["actors"]["series"] if one["name"] == "moving")
    assert series["mean"] == pytest.approx(np.mean(shares), abs=1e-5)
    assert abs(np.mean(shares) - np.mean(static)) > 0.01


def test_the_map_of_the_page_is_the_one_that_the_store_has(document: dict[str, Any], moving_run: Options) -> None:
    density = np.asarray(open_store(moving_run.store).array("views/actor/density")[0])
    assert density.shape == (30, 40)
    assert document["boxes"]["actor"]["density"][0] == grey_levels(density)
    grids = {view["name"]: view["grid"] for view in document["head"]["views"]}
    assert grids == {"full": None, "mocrop": [6, 8], "actor": [30, 40], "moving": [30, 40]}
    assert document["head"]["stripGrid"] == [6, 8], "the density of a stretch counts vectors, as mocrop's does"


def box_drawn(picture: np.ndarray, colour: tuple[int, int, int], scale: float) -> list[int]:
    """Where a box is drawn in a colour that nothing else has: x0, y0, x1, y1 in px of the frame."""
    near = np.abs(picture.astype(int) - colour).sum(axis=2) < 90
    down, across = np.flatnonzero(near.mean(axis=1) > 0.12), np.flatnonzero(near.mean(axis=0) > 0.12)
    return [round(edge / scale) for edge in (across[0], down[0], across[-1] + 1, down[-1] + 1)]


def test_a_video_has_the_box_of_each_frame(reader: ClipReader, moving_run: Options, tmp_path: Path) -> None:
    write_clip_video(reader, CLIP, ["moving"], tmp_path / "clip.mp4")
    row = read_records(open_store(moving_run.store).zarr, BoxRow, "moving", [0])[0].clips[CLIP]
    colour, seen = view_colour(reader, "moving"), set()
    count = int(reader.tables["num_frames"][0])
    for number, picture in rgb_frames(tmp_path / "clip.mp4", [0, count // 2, count - 1]):
        expected = row.box_at(number).corners
        drawn = box_drawn(picture, colour, picture.shape[0] / reader.frame_size(0)[0])
        np.testing.assert_allclose(drawn, expected, atol=2)
        seen.add(expected)
    assert len(seen) > 1


def test_pictures_have_the_box_of_the_frame_that_they_show(reader: ClipReader, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = reader.middle_box("moving", 0)
    assert shown is not None
    assert shown != reader.box("moving", 0)
    height, width = reader.frame_size(0)
    figure = np.asarray(clip_figure(reader, CLIP, ["moving"]))[64 : 64 + 360, 24 : 24 + round(width * 360 / height)]
    np.testing.assert_allclose(box_drawn(figure, view_colour(reader, "moving"), 360 / height), shown, atol=2)
    monkeypatch.setattr(ClipReader, "main_view", "moving")
    sheet = contact_sheet(reader)
    assert isinstance(sheet, Image.Image)
    scale = min(200 / width, 150 / height)
    left, top = 8 + (200 - round(width * scale)) // 2, 8 + (150 - round(height * scale)) // 2
    tile = np.asarray(sheet)[top : top + round(height * scale), left : left + round(width * scale)]
    np.testing.assert_allclose(box_drawn(tile, view_colour(reader, "moving"), scale), shown, atol=3)
    assert "over the map of motion relative to the camera" in about_sheet(reader)


def test_two_views_of_one_colour_are_both_drawn(
    reader: ClipReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store with more motion views than there are colours, or with two views at the centre."""
    monkeypatch.setattr("pipelines.report.drawing._MOTION_COLOURS", ((47, 196, 214),))
    write_clip_video(reader, CLIP, ["actor", "moving"], tmp_path / "both.mp4")
    ((_, picture),) = rgb_frames(tmp_path / "both.mp4", [12])
    near = np.abs(picture.astype(int) - (47, 196, 214)).sum(axis=2) < 90
    for view in ("actor", "moving"):
        boxes = reader.boxes_at(view, 0, [12])
        assert boxes is not None
        _, y0, x1, y1 = 2 * boxes[0]
        assert near[y0 + 8 : y1 - 8, x1 - 6 : x1].any(axis=1).mean() > 0.9, view


def test_a_picture_of_several_views_shows_the_map_of_the_main_one(reader: ClipReader) -> None:
    box, size = (0, 0, 320, 240), (320, 240)
    assert reader.main_view == "actor"
    own, first, both = (
        np.asarray(frame_picture(reader, 0, dict.fromkeys(views, box), size))[10:-10, 10:-10]
        for views in (["actor"], ["mocrop"], ["mocrop", "actor"])
    )
    assert (both == own).all()
    assert (both != first).any()


def test_boxes_are_listed_by_cached_frame(moving_run: Options, mocrop_here: Callable[..., Said]) -> None:
    store = open_store(moving_run.store)
    said = mocrop_here("boxes", moving_run.store, "--clip", CLIP, "--frames", "--json")
    assert said.status == 0
    rows = [row for row in json.loads(said.out) if row["view"] == "moving"]
    boxes, frames = (store.table(f"views/moving/{name}")[0].tolist() for name in ("frame_box", "frame_index"))
    assert [row["frame"] for row in rows] == frames
    assert [[row[edge] for edge in ("x0", "y0", "x1", "y1")] for row in rows] == boxes
    static = [row for row in json.loads(said.out) if row["view"] == "actor"]
    assert len(static) == len(frames)
    assert len({row["x0"] for row in static}) == 1
    clips = json.loads(mocrop_here("boxes", moving_run.store, "--view", "moving", "--json").out)
    assert [row["id"] for row in clips] == ["a/a", "b/b"]
    assert "frame" not in clips[0]
