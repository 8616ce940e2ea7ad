"""Windows of a long video through all stages: what a store has of them is what it would have of the clips cut out."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

import mocrop
from data_specs.chain import transcode_inputs
from data_specs.datasets import Clip, read_dataset
from data_specs.recipes import Recipe, load_recipe
from data_specs.stored import Store, open_store
from pipelines.errors import RunError
from pipelines.evaluation.evaluation import evaluate
from pipelines.media.ffmpeg_binary import find_ffmpeg
from pipelines.report.page import collect
from pipelines.runs.cleanup import find_waste
from pipelines.runs.estimate import plan
from pipelines.runs.options import Options
from pipelines.store.verify import verify
from tests.conftest import Said, made_once, run_stages
from tests.integration.test_run import with_views
from tests.support.saboteurs import contents as files_of

TABLE = """path,label,start,end,part,group
Sport/long.mp4,archery,0,1.6,train,
Sport/long.mp4,bowling,1.6,3.2,train,
Sport/long.mp4,archery,0.8,2.4,train,
Sport/long.mp4,bowling,2.5,4.1,train,
Sport/long.mp4,bowling,90,100,train,
Sport/short.avi,archery,,,test,monday
"""
ROWS = {  # the first frame of each window in the video, and how many it has: a frame each 0.04 s, 100 in all
    "Sport/long_000000-000001.6": (0, 40),
    "Sport/long_000000.8-000002.4": (20, 40),
    "Sport/long_000001.6-000003.2": (40, 40),
    "Sport/long_000002.5-000004.1": (63, 37),
}
GONE = "Sport/long_000090-000100"


def write_source(folder: Path, long_video: Path, ucf_clips: Path) -> Options:
    """A source folder of the long video and a clip, and the table of its windows."""
    (folder / "videos/Sport").mkdir(parents=True)
    (folder / "videos/Sport/long.mp4").symlink_to(folder / "videos/.long.mp4")
    (folder / "videos/.long.mp4").write_bytes(long_video.read_bytes())
    (folder / "videos/Sport/short.avi").write_bytes((ucf_clips / "Archery/v_Archery_g01_c01.avi").read_bytes())
    (folder / "clips.csv").write_text(TABLE)
    return Options(str(folder / "videos"), str(folder / "w.zarr"), recipe="smoke", clips=str(folder / "clips.csv"))


@pytest.fixture(scope="session")
def windows(long_video: Path, ucf_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Options:
    """The request for a store of windows that was made, with a program in ffmpeg's place that notes its calls."""

    def make(folder: Path) -> None:
        options = write_source(folder, long_video, ucf_clips)
        counting, monkeypatch = folder / "ffmpeg", pytest.MonkeyPatch()
        counting.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\nexec {find_ffmpeg().path} "$@"\n')
        counting.chmod(0o755)
        with monkeypatch.context() as patched:
            patched.setenv("MOCROP_FFMPEG", str(counting))
            summary, _ = run_stages(options)
        assert (summary.done, summary.windows, summary.videos) == (5, 5, 1)

    folder = made_once(tmp_path_factory, "windows", make)
    return Options(str(folder / "videos"), str(folder / "w.zarr"), recipe="smoke", clips=str(folder / "clips.csv"))


def contents(store: Store, id: str) -> dict[str, np.ndarray]:
    """All that a store has of a clip."""
    row, opened = store.row(id), mocrop.open_store(store.location)
    arrays = [
        f"views/{view}/{name}" for view in store.views for name in ("box", "score", "source", "frame_index", "frames")
    ]
    found = {name: np.asarray(store.array(name)[row]) for name in [*arrays, "views/mocrop/density", "num_frames"]}
    motion = opened.motion_vectors(row)
    return {**found, "vectors": motion.vectors, "texture": motion.texture, "keys": np.array(motion.key_frames)}


def test_a_window_is_to_the_bit_the_clip_that_is_cut_out(windows: Options, long_video: Path, tmp_path: Path) -> None:
    (tmp_path / "cut/Sport").mkdir(parents=True)
    for id, (first, count) in ROWS.items():
        inside = rf"select=between(n\,{first}\,{first + count - 1})"
        words = ["-i", str(long_video), "-vf", inside, "-fps_mode", "passthrough", "-c:v", "ffv1"]
        command = [find_ffmpeg().path, "-v", "error", *words, str(tmp_path / f"cut/{id}.mkv")]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    run_stages(Options(str(tmp_path / "cut"), str(tmp_path / "cut.zarr"), recipe="smoke"))
    store, cut = open_store(windows.store), open_store(tmp_path / "cut.zarr")
    assert cut.ids == list(ROWS)
    for id in ROWS:
        found, expected = contents(store, id), contents(cut, id)
        assert found["vectors"].size > 0
        assert found["views/mocrop/frames"].any()
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values, err_msg=f"{name} of {id}")


def test_a_video_is_decoded_once_for_all_its_windows_in_a_shard(windows: Options) -> None:
    calls = (Path(windows.store).parent / "calls").read_text().splitlines()
    of_long = [call for call in calls if "long.mp4" in call]
    assert [call.count(" -map ") for call in of_long] == [4, 1]  # four rows in the first shard, one in the second


@pytest.mark.soak
def test_in_one_pass_too_a_video_is_decoded_once_and_once_more_for_a_new_view(
    windows: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, counting = tmp_path / "calls", tmp_path / "ffmpeg"
    counting.write_text(f'#!/bin/sh\necho "$@" >> {calls}\nexec {find_ffmpeg().path} "$@"\n')
    counting.chmod(0o755)
    monkeypatch.setenv("MOCROP_FFMPEG", str(counting))
    options = replace(windows, store=str(tmp_path / "w.zarr"), discard_h264=True)
    run_stages(options)
    assert files_of(Path(options.store)) == files_of(Path(windows.store))
    wider = with_views(load_recipe("smoke"), {"kind": "centre", "name": "middle"})
    calls.write_text("")
    summary, _ = run_stages(replace(options, recipe=wider))
    assert summary.done == 5
    of_long = [call for call in calls.read_text().splitlines() if "long.mp4" in call]
    assert [call.count(" -map ") for call in of_long] == [4], "the one in the second shard is quarantined"


def test_plain_zarr_tells_the_video_the_times_and_the_first_frame_of_a_clip(windows: Options) -> None:
    root = zarr.open_group(windows.store, mode="r")
    assert list(root["id"][:]) == [*ROWS, GONE, "Sport/short"]
    assert list(root["video"][:]) == ["Sport/long.mp4"] * 5 + [""]
    assert list(root["group"][:]) == ["Sport/long"] * 5 + ["monday"]
    assert root["window"][:5].tolist() == [[0, 1.6], [0.8, 2.4], [1.6, 3.2], [2.5, 4.1], [90, 100]]
    assert np.isnan(root["window"][5]).all()
    assert root["first_frame"][:].tolist() == [0, 20, 40, 63, 0, 0]
    assert root["num_frames"][:].tolist() == [40, 40, 40, 37, 0, 131]


def test_a_window_outside_the_video_is_quarantined_with_its_row(windows: Options) -> None:
    store = open_store(windows.store)
    reasons = dict(zip(store.ids, store.table("reason"), strict=True))
    problem = "transcode: the video has no frame from 90 s to 100 s: its last frame is shown at 3.96 s"
    assert {id: reason for id, reason in reasons.items() if reason} == {GONE: problem}


def test_a_window_of_which_the_video_lacks_too_much_is_quarantined(
    windows: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clips.csv").write_text("path,label,start,end\nSport/long.mp4,a,3,4.5\nSport/long.mp4,a,3,4.2\n")
    options = replace(windows, clips=str(tmp_path / "clips.csv"), store=str(tmp_path / "w.zarr"))
    summary, _ = run_stages(options)
    assert summary.quarantined == {
        "Sport/long_000003-000004.5": "transcode: 25 of 37 frames decoded: more are missing than max_missing 0.25 "
        "allows"
    }
    assert summary.notes["missing"] == {"Sport/long_000003-000004.2": "25 of 30 frames decoded"}


def test_a_store_of_windows_is_whole_and_needs_its_h264_files(windows: Options) -> None:
    assert verify(windows.store) == []
    assert find_waste(windows.store) == []
    assert len(list(Path(f"{windows.store}.work/h264/Sport").glob("long_*.mp4"))) == 4
    with_windows = plan(windows)
    assert (with_windows.windows, with_windows.clips_left) == (5, 0)


def test_another_window_is_another_clip_for_the_chain(windows: Options, tmp_path: Path) -> None:
    recipe = load_recipe("smoke")
    whole = Clip("a", "a.mp4", 0)
    parts = [replace(whole, video="a", start=0.0, end=end) for end in (1.0, 2.0)]
    moved = replace(parts[0], video="b")
    assert len({transcode_inputs(recipe, "build", [clip]) for clip in (whole, *parts, moved)}) == 4
    named = "path,label,start,end,id\nSport/long.mp4,a,0,{},one\nSport/short.avi,a,,,two\n"
    (tmp_path / "clips.csv").write_text(named.format(1))
    options = replace(windows, clips=str(tmp_path / "clips.csv"), store=str(tmp_path / "w.zarr"))
    run_stages(options)
    (tmp_path / "clips.csv").write_text(named.format(2))
    with pytest.raises(RunError, match="its window differs from the lists") as caught:
        run_stages(options)
    assert str(caught.value).count("\n") == 0


def test_windows_of_a_kept_video_have_its_vectors_and_frames(windows: Options, tmp_path: Path) -> None:
    values = load_recipe("smoke").model_dump()
    views = [{"name": "full", "kind": "full"}, {"name": "actor", "kind": "motion", "preset": "actor"}]
    recipe = Recipe(
        **{**values, "transcode": "keep", "views": views, "frames": {**values["frames"], "choose": "uniform"}}
    )
    run_stages(replace(windows, recipe=recipe, store=str(tmp_path / "keep.zarr")))
    store, video = mocrop.open_store(tmp_path / "keep.zarr"), Path(windows.source, "Sport/long.mp4")
    whole = mocrop.read_motion_vectors(video).vectors
    for row, (first, count) in enumerate(ROWS.values()):
        motion = store.motion_vectors(row)
        assert (motion.num_frames, store.first_frames[row]) == (count, first)
        expected = whole[(whole["frame"] >= first) & (whole["frame"] < first + count)]
        expected["frame"] -= first
        assert len(expected) > 1000
        np.testing.assert_array_equal(motion.vectors, expected)
        index = zarr.open_array(tmp_path / "keep.zarr/views/full/frame_index", mode="r")[row]
        assert len(index) == 8
        pictures = mocrop.crop(video, mocrop.Box(0, 0, 320, 240), size=96, frames=[int(first + i) for i in index])
        np.testing.assert_array_equal(store.frames("full", row), pictures)
    reasons = open_store(tmp_path / "keep.zarr").table("reason")
    assert reasons[4] == "motion: the video has no frame from 90 s to 100 s: its last frame is shown at 3.96 s"


def test_annotations_of_a_video_are_those_of_its_windows(windows: Options, tmp_path: Path) -> None:
    boxes = [[float(frame), 0.0, 60.0, 50.0] for frame in range(100)]
    whole = {"num_frames": 100, "tubes": [{"start_frame": 0, "end_frame": 100, "boxes_xywh": boxes}]}
    own = {"tubes": [{"start_frame": 0, "end_frame": 2, "boxes_xywh": boxes[:2]}]}
    (tmp_path / "actors.json").write_text(json.dumps({"Sport/long": whole, "Sport/long_000000-000001.6": own}))
    found = evaluate(windows.store, tmp_path / "actors.json")
    assert (found.annotated, found.clips, found.boxes, found.unannotated) == (4, 4, 2 + 40 + 40 + 37, 2)
    assert (found.groups, found.grouped, found.problems) == (1, "by the groups of the clip table", {})
    area = 60 * 50
    inside = (zarr.open_array(f"{windows.store}/views/centre/box", mode="r")[1]).tolist()
    x0, y0, x1, y1 = inside
    kept = [max(0, min(left + 60, x1) - max(left, x0)) * max(0, min(50, y1) - y0) / area for left in range(20, 60)]
    (row,) = [row for row in found.rows if row["view"] == "centre" and row["class"] == "archery"]
    first = [max(0, min(left + 60, x1) - max(left, x0)) * max(0, min(50, y1) - y0) / area for left in range(2)]
    assert row["kept"] == pytest.approx((np.mean(kept) + np.mean(first)) / 2, abs=1e-6)


def test_the_report_says_which_part_of_which_video_a_clip_is(windows: Options) -> None:
    document, _ = collect(open_store(windows.store), None, 6, False, [], lambda done, total: None)
    assert document["rows"]["window"][1] == ["Sport/long.mp4", "0.8 s to 2.4 s", 20]
    assert sorted(document["rows"]["window"]) == [0, 1, 2, 3, 4]


def test_the_library_and_the_commands_say_it(
    windows: Options, mocrop_here: Callable[..., Said], tmp_path: Path
) -> None:
    store = mocrop.open_store(windows.store)
    assert store.videos == ["Sport/long.mp4"] * 5 + [""]
    assert store.groups[-1] == "monday"
    assert store.windows[1].tolist() == [0.8, 2.4]
    assert store.first_frames.tolist() == [0, 20, 40, 63, 0, 0]
    said = mocrop_here("status", windows.store)
    assert "6 clips (5 windows of 1 video), 5 done" in said.out
    said = mocrop_here(
        "boxes", windows.store, "--clip", "Sport/long_000000.8-000002.4", "--view", "full", "--frames", "--json"
    )
    assert [row["video_frame"] - row["frame"] for row in json.loads(said.out)] == [20] * 4
    said = mocrop_here("export-npy", windows.store, tmp_path / "maps")
    assert said.status == 0
    assert len(list(tmp_path.glob("maps/Sport/long_*/motion_vectors_denoised_all_mc_*.npy"))) == 4


def test_index_cuts_videos_into_windows(windows: Options, mocrop_here: Callable[..., Said], tmp_path: Path) -> None:
    table = tmp_path / "clips.csv"
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    source = Path(windows.source)
    said = mocrop_here("index", source, "--windows", 2.5, "--stride", 1, "--out", table)
    assert said.status == 0, said.err
    assert "windows   5 of 2.5 s every 1 s, from 2 videos" in said.out
    assert "2 videos with an end in no window, 1.2 s in all" in said.out
    with table.open() as file:
        rows = [(row["path"], row["start"], row["end"]) for row in csv.DictReader(file)]
    assert rows == [
        ("Sport/long.mp4", "0", "2.5"), ("Sport/long.mp4", "1", "3.5"),
        ("Sport/short.avi", "0", "2.5"), ("Sport/short.avi", "1", "3.5"), ("Sport/short.avi", "2", "4.5"),
    ]  # fmt: skip
    assert [clip.video for clip in read_dataset(source, clips=table).clips] == ["Sport/long.mp4"] * 2 + [
        "Sport/short.avi"
    ] * 3
    said = mocrop_here("index", source, "--windows", 5, "--out", table, "--overwrite", "--json")
    assert json.loads(said.out)["windows"]["short"] == ["Sport/long.mp4"]
    for flags, problem in (
        (["--stride", 1], "give --windows SECONDS, too"),
        (["--windows", 0], "windows 0: give seconds"),
    ):
        said = mocrop_here("index", source, *flags, "--out", table, "--overwrite")
        assert said.status == 1
        assert problem in said.err
