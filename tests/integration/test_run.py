"""A run as a whole: what is done once, what is refused, what becomes of bad clips."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from data_specs import schema
from data_specs.recipes import Recipe, parse_recipe
from data_specs.stored import open_store
from pipelines.errors import RunError
from pipelines.media.encoder import write_video
from pipelines.media.ffmpeg_binary import find_ffmpeg
from pipelines.runs.opening import open_run
from pipelines.runs.options import Options, read_request
from pipelines.stages.shard_task import process_shard
from pipelines.stages.tasks import STAGES
from pipelines.store import record_blocks
from pipelines.store.lock import StoreLocked, locked
from pipelines.store.verify import verify
from tests.conftest import run_stages
from tests.integration.test_store import contents
from tests.support.rewriting import rewrite

SMALL = parse_recipe(
    {"name": "small", "shard_clips": 2, "transcode": {"preset": "ultrafast"}, "frames": {"slots": 4, "size": 32}},
    "small",
)


def with_views(recipe: Recipe, *views: dict[str, object]) -> Recipe:
    """The recipe with these views behind its own."""
    return parse_recipe(
        {**recipe.model_dump(mode="json"), "views": [*recipe.model_dump(mode="json")["views"], *views]}, "x"
    )


@pytest.fixture
def three_clips(ucf_clips: Path, tmp_path: Path) -> Path:
    """A source folder with three short real clips."""
    source = tmp_path / "source"
    for name in (
        "Archery/v_Archery_g01_c01",
        "VolleyballSpiking/v_VolleyballSpiking_g01_c01",
        "Biking/v_Biking_g05_c02",
    ):
        (source / name).parent.mkdir(parents=True)
        shutil.copy(ucf_clips / f"{name}.avi", source / f"{name}.avi")
    return source


@pytest.fixture
def options(three_clips: Path, tmp_path: Path) -> Options:
    """A small run on three real clips."""
    return Options(str(three_clips), str(tmp_path / "store.zarr"), recipe=SMALL)


def test_a_second_run_does_nothing(options: Options) -> None:
    summary, done = run_stages(options)
    assert summary.done == 3
    assert sorted(done) == sorted(2 * STAGES)
    before = contents(Path(options.store))
    summary, done = run_stages(options)
    assert (summary.done, done) == (3, [])
    assert contents(Path(options.store)) == before


def test_each_record_is_read_once_and_none_by_a_run_with_nothing_to_do(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    read_records = record_blocks.read_records

    def counted(store: Any, row_type: Any, view: str | None, shards: Sequence[int], *rest: Any) -> Any:
        reads.extend(schema.progress_path(row_type.stage, view, shard) for shard in shards)
        return read_records(store, row_type, view, shards, *rest)

    monkeypatch.setattr(record_blocks, "read_records", counted)
    run_stages(options)
    assert len(reads) == len(set(reads)) == 2 * 6
    reads.clear()
    assert run_stages(options)[1] == []
    assert reads == []
    record = Path(options.store, "progress/clips/mocrop/00001/zarr.json")
    rewrite(record, record.read_bytes())
    assert run_stages(options)[1] == []
    assert len(reads) == 6, "all records of a shard of which one has changed"


def test_a_data_set_that_the_caller_has_read_is_not_listed_again(options: Options) -> None:
    request = read_request(options)
    shutil.rmtree(next(Path(options.source).iterdir()))
    with open_run(options, request) as run:
        assert run.ids == [clip.id for clip in request[0].clips]
    with pytest.raises(RunError), open_run(options):
        pass


def test_tables_are_written_when_they_are_out_of_date_or_damaged_only(options: Options) -> None:
    run_stages(options)
    table = Path(options.store, "views/mocrop/box/c.0.0")
    written, content = table.stat().st_mtime_ns, table.read_bytes()
    run_stages(options)
    assert table.stat().st_mtime_ns == written
    for damage in (content[:-1] + b"x", b"", None):
        table.unlink() if damage is None else rewrite(table, damage)
        run_stages(options)
        assert table.read_bytes() == content


def test_temporary_files_are_removed_after_a_run_that_was_killed(options: Options) -> None:
    run_stages(options)
    parts = [Path(options.store, "label/c.0.12.partial"), Path(f"{options.store}.work/h264/.12.part")]
    for part in parts:
        part.write_bytes(b"half")
    run_stages(options)
    assert all(part.exists() for part in parts), "nothing is searched after a run that ended"
    kill = f"import os; from pipelines.store.lock import locked\nwith locked({options.store!r}): os._exit(1)"
    subprocess.run([sys.executable, "-c", kill], check=False, timeout=600)
    assert verify(options.store) == []
    run_stages(options)
    assert not any(part.exists() for part in parts)


def test_automatic_shards_are_recorded_as_a_number_and_spread_few_clips(options: Options, tmp_path: Path) -> None:
    automatic = SMALL.model_copy(update={"shard_clips": "auto"})
    _, done = run_stages(replace(options, recipe=automatic))
    assert sorted(done) == sorted(3 * STAGES)
    assert open_store(options.store).attrs["recipe"]["shard_clips"] == 1
    assert run_stages(replace(options, recipe=automatic))[1] == []
    other = replace(options, store=str(tmp_path / "other.zarr"), recipe=SMALL.model_copy(update={"shard_clips": 1}))
    run_stages(other)
    assert contents(Path(other.store)) == contents(Path(options.store))


def test_a_data_set_that_grew_is_refused_for_its_clips_not_for_its_automatic_shards(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_specs.recipes.AUTO_SHARDS", 1)
    automatic = replace(options, recipe=SMALL.model_copy(update={"shard_clips": "auto"}))
    run_stages(replace(automatic, limit=1))
    with pytest.raises(RunError, match=r"was created with other settings: it holds 1 clips, the source 3 "):
        run_stages(automatic)


def test_a_new_view_runs_neither_transcode_nor_motion_again(options: Options) -> None:
    run_stages(options)
    before = contents(Path(options.store))
    wider = with_views(SMALL, {"kind": "centre"}, {"kind": "motion", "name": "v2", "preset": "paper-v2"})
    with open_run(replace(options, recipe=wider)) as run:
        notice = "adding to the store: centre, v2, from the stored vectors; missing H.264 files are made again"
        assert run.notices == [notice]
    summary, done = run_stages(replace(options, recipe=wider))
    assert sorted(set(done)) == ["boxes", "clips"]
    assert summary.done == 3
    after = contents(Path(options.store))
    kept = [name for name in before if name.startswith(("motion", "views/mocrop", "views/full"))]
    assert len(kept) > 20
    assert all(after[name] == before[name] for name in kept)
    assert open_store(options.store).view("v2").table("density").shape == (3, 9, 16)


def test_a_store_gone_half_is_completed_with_the_same_bytes(options: Options, tmp_path: Path) -> None:
    run_stages(options)
    expected = contents(Path(options.store))
    other = replace(options, store=str(tmp_path / "other.zarr"))
    executed = []
    for stages in range(1, len(STAGES)):
        with open_run(other) as run:
            for stage in STAGES[:stages]:
                executed += [process_shard(plan, run.recipe).stage for plan in run.pending(stage)[:1]]
    _, done = run_stages(other)
    assert sorted(executed + done) == sorted(2 * STAGES)
    assert done
    assert contents(Path(other.store)) == expected


def test_the_h264_files_may_go_when_the_store_is_done(options: Options) -> None:
    run_stages(options)
    shutil.rmtree(f"{options.store}.work")
    shutil.rmtree(options.source)
    Path(options.source).mkdir()
    with pytest.raises(RunError, match="holds no video"):
        run_stages(options)
    assert open_store(options.store).table("state").tolist() == [1, 1, 1]


def test_damaged_h264_files_are_made_again(options: Options) -> None:
    run_stages(options)
    expected = contents(Path(options.store))
    files = sorted(Path(f"{options.store}.work").rglob("*.mp4"))
    rewrite(files[0], b"")
    files[1].unlink()
    for record in (Path(options.store) / "progress/motion").glob("0*"):
        shutil.rmtree(record)
    run_stages(options)
    assert contents(Path(options.store)) == expected


def test_a_source_file_that_changed_is_done_again(options: Options, ucf_clips: Path) -> None:
    run_stages(options)
    before = contents(Path(options.store))
    changed = Path(options.source) / "Archery/v_Archery_g01_c01.avi"
    shutil.copy(ucf_clips / "Bowling/v_Bowling_g01_c01.avi", changed)
    _, done = run_stages(options)
    assert sorted(done) == sorted(STAGES)
    after = contents(Path(options.store))
    assert after["motion/00000/c.0.0.0"] != before["motion/00000/c.0.0.0"]
    assert after["motion/00001/c.0.0.0"] == before["motion/00001/c.0.0.0"]


def empty(path: Path, clip: Path) -> None:
    path.write_bytes(b"")


def cut_off(path: Path, clip: Path) -> None:
    path.write_bytes(clip.read_bytes()[:60_000])


def text(path: Path, clip: Path) -> None:
    path.write_text("not a video\n" * 50)


def one_frame(path: Path, clip: Path) -> None:
    write_video(path, [np.full((48, 64, 3), 90, np.uint8)], 25)


def odd_sizes(path: Path, clip: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (6, 51, 67, 3)).astype(np.uint8)
    write_video(path, noise, 25)


def sound_only(path: Path, clip: Path) -> None:
    ffmpeg(f"-f lavfi -i sine=d=1 -c:a pcm_s16le -f avi {path}")


def lying_counts(path: Path, clip: Path) -> None:
    header = bytearray(clip.read_bytes())
    place = header.index(b"avih") + 8 + 16
    header[place : place + 4] = (7).to_bytes(4, "little")
    path.write_bytes(header)


def foreign_metadata(path: Path, clip: Path) -> None:
    made = path.with_suffix(".tmp.avi")
    ffmpeg(f"-i {clip} -c copy -metadata title=TITLETITLE -f avi {made}")
    path.write_bytes(made.read_bytes().replace(b"TITLETITLE", b"\xff\xfe\xe9\x80TITLE\xc3"))
    made.unlink()


def ffmpeg(arguments: str) -> None:
    subprocess.run([find_ffmpeg().path, "-v", "error", "-y", *arguments.split()], check=True)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (empty, "transcode: the source file is empty (0 bytes)"),
        (text, "transcode: "),
        (sound_only, "transcode: there is no video stream in it"),
        (cut_off, "transcode: 15 of 131 frames decoded: more are missing than max_missing 0.25 allows"),
        (one_frame, ""),
        (odd_sizes, ""),
        (lying_counts, ""),
        (foreign_metadata, ""),
    ],
)
def test_a_bad_clip_is_quarantined_with_its_reason_or_done(
    options: Options, ucf_clips: Path, make: Callable[[Path, Path], None], reason: str
) -> None:
    bad = Path(options.source) / "Biking/bad.avi"
    make(bad, ucf_clips / "Archery/v_Archery_g01_c01.avi")
    summary, _ = run_stages(options)
    if reason:
        assert list(summary.quarantined) == ["Biking/bad"]
        assert summary.quarantined["Biking/bad"].startswith(reason)
        assert "\n" not in summary.quarantined["Biking/bad"]
    assert summary.done == (3 if reason else 4)
    store = open_store(options.store)
    row = store.row("Biking/bad")
    filled = (store.view("mocrop").table("frame_index")[row] >= 0).sum()
    assert (filled == 0) == bool(reason)
    assert store.table("state")[row] == (2 if reason else 1)


def test_keep_reads_vectors_from_the_source_itself(options: Options, three_clips: Path) -> None:
    kept = parse_recipe({**SMALL.model_dump(mode="json"), "transcode": "keep"}, "kept")
    write_video(three_clips / "Biking" / "h264.mp4", noise_frames(), 25, "libx264")
    ffmpeg(f"-i {three_clips}/Biking/h264.mp4 -c:v mjpeg -f avi {three_clips}/Biking/still.avi")
    summary, _ = run_stages(replace(options, recipe=kept))
    assert list(summary.quarantined) == ["Biking/still"]
    assert summary.quarantined["Biking/still"].startswith("motion: ")
    assert "mjpeg" in summary.quarantined["Biking/still"]
    assert summary.done == 4
    assert not Path(f"{options.store}.work", "h264").exists()


def test_an_h264_file_of_fewer_frames_than_its_source_is_quarantined(options: Options) -> None:
    with open_run(options) as run:
        for plan in run.pending("transcode"):
            process_shard(plan, run.recipe)
    (note,) = Path(f"{options.store}.work").rglob("v_Archery_g01_c01-*.json")
    said = json.loads(note.read_text())
    note.write_text(json.dumps({**said, "frames": said["frames"] + 1}))
    summary, _ = run_stages(options)
    assert summary.done == 2
    assert summary.quarantined == {
        "Archery/v_Archery_g01_c01": "motion: 131 frames decoded from the H.264 file, 132 from the source"
    }


@pytest.mark.parametrize("choose", ["key", "uniform"])
@pytest.mark.parametrize("slots", [1, 4, 5, 300])
def test_the_frames_kept_are_spread_evenly_over_the_clip(options: Options, choose: str, slots: int) -> None:
    """At most so many, the first and the last among them, each within half a place of an even spread."""
    frames = {"choose": choose, "slots": slots, "size": 8}
    run_stages(replace(options, recipe=parse_recipe({**SMALL.model_dump(mode="json"), "frames": frames}, "x")))
    store = open_store(options.store)
    kept = store.view("full").table("frame_index")
    assert kept.shape == (3, slots)
    for id, indices in zip(store.ids, kept, strict=True):
        (video,) = Path(f"{options.store}.work").rglob(f"{id.split('/')[1]}-*.mp4")
        with av.open(str(video)) as container:
            keys = [frame.key_frame for frame in container.decode(video=0)]
        there = np.flatnonzero(keys) if choose == "key" else np.arange(len(keys))
        assert len(there) > 5
        count = min(slots, len(there))
        assert (indices[count:] == -1).all()
        places = np.searchsorted(there, indices[:count])
        assert (there[places] == indices[:count]).all()
        even = np.linspace(0, len(there) - 1, count) if count > 1 else np.array([(len(there) - 1) / 2])
        assert (np.abs(places - even) <= 0.5).all()
        assert count == 1 or (places[0], places[-1]) == (0, len(there) - 1)


def test_a_clip_without_key_frames_is_quarantined_where_key_frames_are_kept(options: Options, tmp_path: Path) -> None:
    write_video(tmp_path / "whole.avi", noise_frames(), 25, g=250)
    cut = Path(options.source) / "Biking/cut.avi"
    with av.open(str(tmp_path / "whole.avi")) as whole, av.open(str(cut), "w") as target:
        stream = target.add_stream_from_template(whole.streams.video[0])
        packets = [packet for packet in whole.demux(video=0) if packet.size]
        assert [packet.is_keyframe for packet in packets] == [True] + 9 * [False]
        for packet in packets[1:]:
            packet.stream = stream
            target.mux(packet)
    kept = parse_recipe({**SMALL.model_dump(mode="json"), "transcode": "keep"}, "kept")
    summary, _ = run_stages(replace(options, recipe=kept))
    assert summary.done == 3
    assert summary.quarantined == {
        "Biking/cut": 'clips: it has no key frame to keep; frames.choose = "uniform" keeps other frames'
    }


def noise_frames() -> np.ndarray:
    """Ten frames of a texture that moves by 2 px a frame."""
    texture = np.random.default_rng(1).integers(0, 255, (96, 160, 3)).astype(np.uint8)
    return np.stack([np.roll(texture, 2 * i, axis=1) for i in range(10)])


def test_quarantined_clips_are_left_alone_until_they_are_to_be_tried_again(options: Options, ucf_clips: Path) -> None:
    bad = Path(options.source) / "Biking/bad.avi"
    bad.write_text("x" * 2000)
    run_stages(options)
    shutil.copy(ucf_clips / "Bowling/v_Bowling_g01_c01.avi", bad)
    bad.write_bytes(bad.read_bytes() + b"\0")
    summary, done = run_stages(replace(options, retry_quarantined=True))
    assert (summary.done, summary.quarantined) == (4, {})
    assert len(done) == len(STAGES)


def test_what_was_made_otherwise_is_refused_with_the_difference(options: Options) -> None:
    run_stages(options)
    other = SMALL.model_dump(mode="json")
    other["frames"] = {"slots": 5, "size": 32}
    with pytest.raises(
        RunError, match=r"frames.slots is 4 in the store, 5 requested.*choose another --store, with .* --work-dir"
    ):
        run_stages(replace(options, recipe=parse_recipe(other, "x")))
    changed = SMALL.model_dump(mode="json")
    changed["views"] = [{"kind": "full"}, {"kind": "motion", "crop_ratio": 0.5}]
    with pytest.raises(RunError, match=r"view 'mocrop' crop_ratio is 0.75 in the store, 0.5 requested"):
        run_stages(replace(options, recipe=parse_recipe(changed, "x")))
    fewer = SMALL.model_dump(mode="json")
    fewer["views"] = [{"kind": "full"}]
    with pytest.raises(RunError, match="view 'mocrop' is in the store and not in the recipe"):
        run_stages(replace(options, recipe=parse_recipe(fewer, "x")))
    shutil.copytree(Path(options.source) / "Archery", Path(options.source) / "Zoo")
    with pytest.raises(RunError, match=r"it holds 3 clips, the source 4 \('Zoo/v_Archery_g01_c01' is new\)"):
        run_stages(options)


def test_a_place_with_something_else_is_refused(options: Options) -> None:
    Path(options.store).mkdir()
    (Path(options.store) / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="the location holds something else"):
        run_stages(options)
    assert (Path(options.store) / "notes.txt").read_text() == "mine"


def test_a_store_that_is_being_written_is_refused_and_a_dead_ones_lock_is_taken_over(options: Options) -> None:
    run_stages(options)
    with (
        locked(options.store),
        pytest.raises(RunError, match=f"is being written by process {os.getpid()} on .* since 20"),
    ):
        run_stages(options)
    code = f"import os; from pipelines.store.lock import locked\nwith locked({options.store!r}): os._exit(1)"
    subprocess.run([sys.executable, "-c", code], check=False)
    assert (Path(options.store) / "progress/lock/zarr.json").is_file()
    summary, done = run_stages(options)
    assert (summary.done, done) == (3, [])
    with locked(options.store), pytest.raises(StoreLocked), locked(options.store):
        pass


def test_a_disk_without_space_is_refused_before_any_work(options: Options) -> None:
    huge = parse_recipe({"frames": {"size": 4096, "slots": 1024, "codec": {"name": "raw"}}}, "huge")
    source = Path(options.source) / "Biking"
    clip = source / "v_Biking_g05_c02.avi"
    for number in range(1500):
        os.link(clip, source / f"copy{number}.avi")
    with pytest.raises(RunError, match=r"are free, but at least .* needed"):
        run_stages(replace(options, recipe=huge))
    assert not Path(options.store).exists()


def test_the_order_and_the_grouping_of_tasks_do_not_change_a_byte(options: Options, tmp_path: Path) -> None:
    run_stages(options)
    other = replace(options, store=str(tmp_path / "other.zarr"))
    with open_run(other) as run:
        for stage in STAGES:
            for plan in reversed(run.pending(stage)):
                process_shard(plan, run.recipe)
    assert contents(Path(other.store)) == contents(Path(options.store))


def test_the_box_of_a_moving_square_is_where_it_moves_within_a_cell(tmp_path: Path) -> None:
    texture = np.random.default_rng(2).integers(60, 200, (240, 320, 3)).astype(np.uint8)
    square = np.random.default_rng(3).integers(0, 255, (48, 48, 3)).astype(np.uint8)
    frames = []
    for step in range(40):
        frame = texture.copy()
        x, y = 196 + step, 150 + step // 2  # within x 196 to 284 and y 150 to 218
        frame[y : y + 48, x : x + 48] = square
        frames.append(frame)
    (tmp_path / "source/Square").mkdir(parents=True)
    write_video(tmp_path / "source/Square/clip.avi", frames, 25)
    views = [{"kind": "motion", "name": "half", "crop_ratio": 0.25, "grid": [6, 8]}]
    recipe = parse_recipe({**SMALL.model_dump(mode="json"), "views": views}, "square")
    run_stages(Options(str(tmp_path / "source"), str(tmp_path / "s.zarr"), recipe=recipe))
    x0, y0, x1, y1 = open_store(tmp_path / "s.zarr").view("half").table("box")[0]
    assert x0 <= 196 + 40
    assert y0 <= 150 + 40
    assert x1 >= 284 - 40
    assert y1 >= 218 - 40


def test_most_of_the_synthetic_actor_is_inside_its_box(synth_store: Path, synth_data: Path) -> None:
    store = open_store(synth_store)
    actors = json.loads((synth_data / "annotations/actors.json").read_text())
    boxes = dict(zip(store.ids, store.view("mocrop").table("box").tolist(), strict=True))
    kept = []
    for id, clip in actors.items():
        x0, y0, x1, y1 = boxes[id]
        for x, y, width, height in clip["tubes"][0]["boxes_xywh"]:
            across = max(0, min(x1, x + width) - max(x0, x))
            down = max(0, min(y1, y + height) - max(y0, y))
            kept.append(across * down / (width * height))
    assert len(kept) == 12 * 24
    assert np.mean(kept) > 0.9
