"""What a run saves about records while it works: after a kill the others alone are read, after a boot all of them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from data_specs.recipes import parse_recipe
from data_specs.records import Record
from data_specs.schema import VIEW_STAGES, progress_path
from data_specs.stored import StoreError
from pipelines.media.ffmpeg_binary import find_ffmpeg
from pipelines.runs import run as runs
from pipelines.runs.opening import open_run
from pipelines.runs.options import Options
from pipelines.stages import shard_task
from pipelines.stages.scratch import on_scratch
from pipelines.stages.shard_task import process_shard
from pipelines.store import lock, record_blocks, record_index
from pipelines.store.verify import verify
from tests.conftest import run_stages
from tests.support.saboteurs import SPAWN, contents

SHARDS, BLOCK, DONE = 12, 4, 10  # DONE: crops made before the kill
RECIPE = parse_recipe(
    {
        "name": "small",
        "shard_clips": 1,
        "transcode": "keep",
        "frames": {"slots": 1, "size": 16},
        "views": [{"kind": "motion", "name": "moving"}],
    },
    "small",
)


def encode(clip: Path, pattern: str = "testsrc") -> None:
    words = ["-v", "error", "-f", "lavfi", "-i", f"{pattern}=size=64x48:rate=12:duration=0.5", "-c:v", "libx264"]
    clip.unlink(missing_ok=True)
    subprocess.run([find_ffmpeg().path, *words, "-preset", "ultrafast", clip], check=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Links to one tiny clip under `SHARDS` names."""
    folder = tmp_path_factory.mktemp("source")
    first = folder / "a/000.mp4"
    first.parent.mkdir()
    encode(first)
    for number in range(1, SHARDS):
        os.link(first, first.with_name(f"{number:03}.mp4"))
    return folder


def run_until_killed(options: Options) -> None:
    runs.BLOCK, runs.SAVE_SECONDS = BLOCK, 0
    with open_run(options) as run:
        for stage in run.passes:
            for number, plan in enumerate(run.pending(stage)):
                if (stage, number) == ("clips", DONE):
                    os.kill(os.getpid(), signal.SIGKILL)
                run.finished(process_shard(plan, run.recipe))


@pytest.fixture
def killed(source: Path, tmp_path: Path) -> Options:
    options = Options(str(source), str(tmp_path / "store.zarr"), recipe=RECIPE)
    process = SPAWN.Process(target=run_until_killed, args=(options,))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    return options


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the records that are read."""
    paths: list[str] = []
    real = record_blocks.read_records

    def noted(*words: Any) -> dict[int, Record[Any]]:
        found = real(*words)
        paths.extend(record.path for record in found.values())
        return found

    monkeypatch.setattr(record_blocks, "read_records", noted)
    return paths


def test_a_run_after_a_kill_reads_the_records_of_the_last_shards_alone(
    killed: Options, source: Path, tmp_path: Path, read: list[str]
) -> None:
    saved = DONE // BLOCK * BLOCK
    with open_run(killed) as run:
        assert [len(run.pending(stage)) for stage in run.passes] == [0, 0, 0, SHARDS - DONE]
        assert {path.rpartition("/")[2] for path in read} == {f"{shard:05}" for shard in range(saved, DONE)}
    assert run_stages(killed)[1] == ["clips"] * (SHARDS - DONE)
    other = Options(str(source), str(tmp_path / "other.zarr"), recipe=RECIPE)
    run_stages(other)
    assert contents(Path(killed.store)) == contents(Path(other.store))


def test_a_run_after_a_loss_of_power_trusts_no_index_and_finds_a_file_that_is_cut_short(
    killed: Options, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "place_here", lambda: "another boot")
    monkeypatch.setattr(lock, "STALE", lock.STALE * 0)
    monkeypatch.setattr(lock, "BEAT", lock.BEAT / 100)
    frames = Path(killed.store, "views/moving/frames/c.0.0.0.0.0")
    frames.write_bytes(frames.read_bytes()[:-1])
    assert run_stages(killed)[1] == ["clips"] * (1 + SHARDS - DONE)
    assert len(read) >= 3 * SHARDS + DONE
    assert verify(killed.store) == []


def run_until_killed_before_a_record(options: Options, stage: str) -> None:
    runs.BLOCK, runs.SAVE_SECONDS = 1, 0
    real = shard_task.write_record

    def write(store: Any, record: Record[Any]) -> None:
        if record.stage == stage:
            os.kill(os.getpid(), signal.SIGKILL)
        real(store, record)

    shard_task.write_record = write
    with open_run(options) as run:
        for each in run.passes:
            for plan in run.pending(each):
                with on_scratch(plan) as placed:
                    run.finished(process_shard(placed, run.recipe))


@pytest.mark.parametrize(("stage", "one_pass"), [("boxes", False), ("clips", False), ("clips", True)])
def test_a_source_put_back_after_a_kill_does_not_keep_the_crops_of_the_other(
    stage: str, one_pass: bool, tmp_path: Path
) -> None:
    """The run of the other source was killed after it replaced an object, and before it replaced its record."""
    options = Options(str(tmp_path / "source"), str(tmp_path / "store.zarr"), recipe=RECIPE, discard_h264=one_pass)
    clip, first = tmp_path / "source/a/000.mp4", tmp_path / "first.mp4"
    clip.parent.mkdir(parents=True)
    encode(first)
    shutil.copy(first, clip)
    run_stages(options)
    expected = contents(Path(options.store))
    encode(clip, "testsrc2")
    process = SPAWN.Process(target=run_until_killed_before_a_record, args=(options, stage))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    clip.unlink()
    shutil.copy(first, clip)
    run_stages(options)
    assert contents(Path(options.store)) == expected
    assert verify(options.store) == []


def test_a_record_that_something_else_replaced_after_it_was_read_is_read_again(tmp_path: Path) -> None:
    """As a task that a killed run left on another machine would, if it ended during the next run."""
    options = Options(str(tmp_path / "source"), str(tmp_path / "store.zarr"), recipe=RECIPE)
    clip = tmp_path / "source/a/000.mp4"
    clip.parent.mkdir(parents=True)
    encode(clip)
    run_stages(options)
    record = Path(options.store, "progress/clips/moving/00000/zarr.json")
    old = record.read_bytes()
    encode(clip, "testsrc2")
    with open_run(options) as run:
        for stage in run.passes:
            for plan in run.pending(stage):
                run.finished(process_shard(plan, run.recipe))
        run.summary()
        new = record.read_bytes()
        assert new != old
        record.write_bytes(old)
    assert run_stages(options)[1] == ["clips"]
    assert record.read_bytes() == new
    assert verify(options.store) == []


def test_where_boots_cannot_be_told_apart_an_index_is_not_trusted_after_a_kill(
    killed: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = record_index.RecordIndex(killed.work_folder(), killed.location())
    assert index.load(since_boot=True)
    known = index.load()
    monkeypatch.setattr(lock, "_BOOT", tmp_path / "none")
    links, stamps = ({path: values[part] for path, values in known.items()} for part in (1, 0))
    index.save(links, record_index.Stamps(stamps, {}))
    assert index.load() == known
    assert index.load(since_boot=True) == {}


def test_records_that_cannot_be_read_while_others_are_made_are_read_when_the_stage_ends(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "BLOCK", BLOCK)
    options = Options(str(source), str(tmp_path / "store.zarr"), recipe=RECIPE)

    def fails(*words: object) -> None:
        raise StoreError("no answer")

    with open_run(options) as run:
        for stage in run.passes:
            plans = run.pending(stage)
            assert len(plans) == SHARDS
            with monkeypatch.context() as patched:
                patched.setattr(type(run.progress), "read", fails)
                for plan in plans:
                    run.finished(process_shard(plan, run.recipe))
        assert run.publish().done == SHARDS


def test_a_record_that_a_task_may_be_replacing_is_not_saved(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stamp of the new record beside the content of the old one would stay for ever."""
    monkeypatch.setattr(runs, "BLOCK", 1)
    options = Options(str(shutil.copytree(source, tmp_path / "source")), str(tmp_path / "store.zarr"), recipe=RECIPE)
    run_stages(options)
    clip = Path(options.source, "a/003.mp4")
    text = clip.read_bytes()
    clip.unlink()
    clip.write_bytes(text + b"\0" * 8)  # another file with the same frames
    index = record_index.RecordIndex(options.work_folder(), options.location())
    with open_run(options) as run:
        for stage in run.passes:
            (plan,) = run.pending(stage)
            assert plan.shard == 3
            report = process_shard(plan, run.recipe)
            path = progress_path(stage, "moving" if stage in VIEW_STAGES else None, 3)
            run._save_index()
            assert path not in index.load()
            run.finished(report)
            run._save_index()
            assert path in index.load()
    assert run_stages(options)[1] == []
