"""The method actor in a store: texture beside the vectors, its boxes, boxes that move, and recipes for it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_specs.clip_motion import MotionReader
from data_specs.recipes import Recipe, RecipeError, parse_recipe
from data_specs.records import BoxRow, read_records
from data_specs.stored import VectorReader, open_store
from mocrop_core import ACTOR, KeyFrames, bars, cell_grid, choose_actor_box, in_pixels, key_frame_textures, picture_area
from pipelines.media import decoder, luma_batches
from pipelines.runs.opening import open_run
from pipelines.runs.options import Options
from pipelines.store.verify import verify
from tests.conftest import made_once, run_stages
from tests.places import GOLDEN
from tests.unit.pipelines.test_media_cropping import ffmpeg
from training.clips import read_all_clips
from training.motion import FlowMaps, MotionInput, resizing, stacks

DISC = GOLDEN / "moving_disc.mp4"
VIEWS = [
    {"kind": "full"},
    {"kind": "motion", "name": "mocrop"},
    {"kind": "motion", "name": "actor", "preset": "actor", "crop_ratio": 0.5},
    {"kind": "motion", "name": "moving", "preset": "actor", "crop_ratio": 0.1, "segments": 3},
]


def recipe(views: list[dict[str, Any]] = VIEWS) -> Recipe:
    """A small recipe that keeps the H.264 of its sources."""
    frames = {"slots": 6, "size": 64, "choose": "uniform"}
    return parse_recipe({"name": "t", "shard_clips": 4, "transcode": "keep", "frames": frames, "views": views}, "t")


@pytest.fixture(scope="session")
def actor_run(tmp_path_factory: pytest.TempPathFactory) -> Options:
    """A store of two clips in four views, to be read only."""

    def make(folder: Path) -> None:
        for name in ("a", "b"):
            (folder / "source" / name).mkdir(parents=True)
            shutil.copy(DISC, folder / "source" / name / f"{name}.mp4")
        run_stages(Options(str(folder / "source"), str(folder / "s.zarr"), recipe=recipe()))

    folder = made_once(tmp_path_factory, "actor", make)
    return Options(str(folder / "source"), str(folder / "s.zarr"), recipe=recipe())


def test_the_store_has_the_box_that_the_method_gives_for_the_file(actor_run: Options) -> None:
    blocks, textures, borders = [], [], []

    def keep(lumas: np.ndarray) -> None:
        textures.append(key_frame_textures(lumas))
        borders.extend(map(bars, lumas))

    motion = decoder.extract(DISC, blocks.append, on_key_frames=keep)
    keys = KeyFrames(motion.key_frames, np.concatenate(textures), picture_area(motion.frame_size, borders))
    vectors = [in_pixels(block, motion.motion_scale) for block in blocks]
    choice = choose_actor_box(vectors, motion.num_frames, keys, motion.frame_size, replace(ACTOR, crop_ratio=0.5))
    store = open_store(actor_run.store)
    assert store.table("views/actor/box").tolist() == [list(choice.box.corners)] * 2
    assert store.table("views/actor/score").tolist() == [np.float32(choice.score)] * 2
    np.testing.assert_array_equal(store.array("views/actor/density")[1], choice.density)
    reader = VectorReader(store.zarr, 0)
    np.testing.assert_array_equal(reader.textures(1, keys.textures.shape), keys.textures)
    assert verify(actor_run.store) == []


def test_a_box_that_moves_has_one_size_and_a_place_in_each_cached_frame(actor_run: Options) -> None:
    store = open_store(actor_run.store)
    boxes, frames = store.table("views/moving/frame_box"), store.table("views/moving/frame_index")
    static = store.table("views/moving/box")
    assert (frames >= 0).all()
    sizes = boxes[..., 2:] - boxes[..., :2]
    assert (sizes == (static[:, 2:] - static[:, :2])[:, None]).all()
    assert len(np.unique(boxes[0], axis=0)) > 1, "the disc moves, and so does its box"
    rows = read_records(store.zarr, BoxRow, "moving", [0])[0].clips
    assert boxes[0].tolist() == [list(rows["a/a"].box_at(frame).corners) for frame in frames[0].tolist()]
    (x0, y0, x1, y1), frame = boxes[0, 3].tolist(), int(frames[0, 3])
    ((_, picture),) = decoder.rgb_frames(DISC, [frame])
    kept = store.array("views/moving/frames")[0, 3].astype(float).mean(axis=(0, 1))
    np.testing.assert_allclose(kept, picture[y0:y1, x0:x1].mean(axis=(0, 1)), atol=3)


def test_vectors_of_b_frames_point_back_in_time(tmp_path: Path) -> None:
    moving = "color=gray:s=192x128:r=25:d=1,format=yuv420p[b];testsrc2=s=48x48:r=25:d=1[s];[b][s]overlay=x=3*n:y=40"
    file = tmp_path / "b.mp4"
    ffmpeg("-filter_complex", moving, "-c:v", "libx264", "-bf", 3, "-b_strategy", 0, "-refs", 1, "-g", 50, file)
    blocks: list[np.ndarray] = []
    motion = decoder.extract(file, blocks.append)
    vectors = in_pixels(np.concatenate(blocks), motion.motion_scale)
    moved = vectors[np.abs(vectors["dx"]) > 1]
    assert len(moved) > 50
    assert (moved["dx"] < 0).mean() > 0.9, "what moves to the right was further left before"


def test_luma_is_the_stream_s_own_also_where_it_has_ten_bits(tmp_path: Path) -> None:
    for pixels, name in (("yuv420p", "eight"), ("yuv420p10le", "ten"), ("gbrp", "rgb")):
        file = tmp_path / f"{name}.mp4"
        codec = "libx264rgb" if pixels == "gbrp" else "libx264"
        pixels = "rgb24" if pixels == "gbrp" else pixels
        source = "testsrc2=s=128x96:r=25:d=0.2"
        ffmpeg("-f", "lavfi", "-i", source, "-c:v", codec, "-crf", 5, "-pix_fmt", pixels, "-g", 1, file)
        lumas: list[np.ndarray] = []
        decoder.extract(file, lambda _: None, on_key_frames=lambda some, to=lumas: to.extend(some.copy()))
        assert len(lumas) == 5
        ((_, picture),) = decoder.rgb_frames(file, [0])
        grey = picture @ np.array([0.299, 0.587, 0.114])
        assert lumas[0].shape == (96, 128)
        assert np.corrcoef(lumas[0].ravel(), grey.ravel())[0, 1] > 0.98, name


def test_key_frames_that_wait_for_others_keep_their_luma(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[np.ndarray] = []

    def keep(lumas: np.ndarray) -> None:
        calls.append(lumas.copy())

    motion = decoder.extract(DISC, lambda _: None, on_key_frames=keep)
    together = np.concatenate(calls)
    assert len(calls) < len(together) == len(motion.key_frames)
    calls.clear()
    monkeypatch.setattr(luma_batches, "AT_ONCE", 1)
    decoder.extract(DISC, lambda _: None, on_key_frames=keep)
    assert [len(lumas) for lumas in calls] == [1] * len(together)
    np.testing.assert_array_equal(together, np.concatenate(calls))


@pytest.mark.parametrize(
    ("view", "said"),
    [
        ({"preset": "paper-v1", "segments": 4}, "segments 4: for the preset actor only, not paper-v1"),
        ({"preset": "paper-v2", "aspect": "square"}, "aspect square: for the preset actor only, not paper-v2"),
        ({"preset": "actor", "grid": [6, 8]}, "grid [6, 8]: the preset actor chooses its own cells; omit this key"),
        ({"preset": "actor", "segments": 0}, "segments = 0: Input should be greater than or equal to 1"),
        ({"preset": "actor", "overrides": {"tolerance": 0.1}}, "overrides: unknown tolerance; known: aspect, blur"),
        ({"preset": "actor", "overrides": {"max_speed": 2}}, "max_speed must lie in (0, 1], got 2"),
        ({"preset": "actor", "crop_ratio": 1.5}, "crop_ratio = 1.5: Input should be less than or equal to 1"),
    ],
)
def test_a_view_that_cannot_be_is_refused_with_its_key(view: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as error:
        recipe([{"kind": "motion", **view}])
    assert said in str(error.value)


def test_an_aspect_that_does_not_fit_a_frame_quarantines_the_clip_with_the_numbers(tmp_path: Path) -> None:
    (tmp_path / "source" / "a").mkdir(parents=True)
    shutil.copy(DISC, tmp_path / "source" / "a" / "a.mp4")
    wide = {"kind": "motion", "preset": "actor", "crop_ratio": 0.9, "aspect": [4, 1]}
    options = Options(str(tmp_path / "source"), str(tmp_path / "s.zarr"), recipe=recipe([wide]))
    summary, _ = run_stages(options)
    assert list(summary.quarantined) == ["a/a"]
    assert "boxes: aspect 4:1 with crop_ratio 0.9 needs a box of" in summary.quarantined["a/a"]


def test_stores_open_again_with_a_view_added(actor_run: Options, tmp_path: Path) -> None:
    options = replace(actor_run, store=str(tmp_path / "s.zarr"), recipe=recipe(VIEWS[:2]))
    run_stages(options)
    more = replace(options, recipe=recipe())
    with open_run(more) as run:
        assert [plan.stage for stage in ("transcode", "motion") for plan in run.pending(stage)] == []
    run_stages(more)
    assert (
        open_store(options.store).table("views/actor/box") == open_store(actor_run.store).table("views/actor/box")
    ).all()


def test_the_motion_stream_crops_a_moving_view_by_the_box_of_each_frame(actor_run: Options) -> None:
    clips, motion = read_all_clips(actor_run.store, "moving"), MotionInput(3)
    maps = FlowMaps(clips, motion, 24)
    found = np.empty((6, *maps.shape), np.uint8)
    maps.read(np.zeros(6, np.int64), np.arange(6), found)
    store = open_store(actor_run.store)
    boxes, index = (store.table(f"views/moving/{name}")[0] for name in ("frame_box", "frame_index"))
    assert len({tuple(box) for box in boxes.tolist()}) > 1
    vectors = MotionReader(store).read(0)
    side = cell_grid(vectors.frame_size).side
    cells = stacks(vectors, index.astype(np.int64), motion).astype(np.float32)
    for slot, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        inside = cells[slot][:, y0 // side : -(-y1 // side), x0 // side : -(-x1 // side)]
        expected = resizing(y0, y1, side, 24).numpy() @ inside @ resizing(x0, x1, side, 24).numpy().T
        assert np.abs(found[slot] - expected).max() <= 0.51
    assert found.std() > 1
