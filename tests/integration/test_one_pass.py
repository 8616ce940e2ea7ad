"""All stages of a shard in one task that keeps no H.264 files: the same store as from the four stages."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from data_specs.recipes import Recipe, parse_recipe
from data_specs.records import BoxRow
from data_specs.stored import open_store, zarr_store
from mocrop_core import Box
from pipelines.errors import RunError, RunStopped
from pipelines.execution import dask_cluster
from pipelines.execution.dask_cluster import check_workers, dask_client, map_shards, needs_of
from pipelines.execution.worker import Attempt, attempt, lacking
from pipelines.media import decoder
from pipelines.media.ffmpeg_binary import find_ffmpeg
from pipelines.runs.cleanup import find_waste
from pipelines.runs.estimate import plan as make_plan
from pipelines.runs.opening import open_run
from pipelines.runs.options import Options
from pipelines.stages import h264_cache
from pipelines.stages.scratch import _make_locked, _prefix, on_scratch, sweep_scratch
from pipelines.stages.shard_task import process_shard
from pipelines.stages.tasks import ONE_PASS, STAGES, ShardPlan, ShardReport
from pipelines.store.summary import summarise
from pipelines.store.verify import verify
from pipelines.store.writer import write_record
from tests.conftest import run_stages
from tests.places import SABOTAGE
from tests.support.dask_by_hand import StartWorker, Worker, cluster, scheduler
from tests.support.saboteurs import contents, do_on_dask, records, wait_until

VIEWS: list[dict[str, object]] = [{"kind": "full", "name": "full"}, {"kind": "motion", "name": "mocrop"}]
NEW: dict[str, object] = {"kind": "centre", "name": "middle", "crop_ratio": 0.5}


def recipe(*views: dict[str, object]) -> Recipe:
    """A recipe with two clips a shard and tiny crops."""
    values = {"name": "tiny", "shard_clips": 2, "transcode": {"preset": "ultrafast"}, "views": list(views)}
    return parse_recipe({**values, "frames": {"slots": 2, "size": 32}}, "tiny")


@pytest.fixture(scope="module")
def four_stages(synth_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Options, dict[str, bytes]]:
    """A run of four stages over three clips, of which one is broken, and what its store has in it."""
    folder = tmp_path_factory.mktemp("four-stages")
    clips = sorted((synth_data / "UCF-101").rglob("*.avi"))[:5:2]
    for clip in clips:
        target = folder / "source" / clip.relative_to(synth_data / "UCF-101")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, target)
    broken = folder / "source/Broken/v_Broken_g01_c01.avi"
    broken.parent.mkdir()
    broken.write_bytes(clips[0].read_bytes()[:3000])
    options = Options(str(folder / "source"), str(folder / "store.zarr"), recipe=recipe(*VIEWS))
    summary, _ = run_stages(options)
    assert (summary.done, list(summary.quarantined)) == (3, ["Broken/v_Broken_g01_c01"])
    return options, contents(Path(options.store))


@pytest.fixture
def one_pass(four_stages: tuple[Options, dict[str, bytes]], tmp_path: Path) -> tuple[Options, dict[str, bytes]]:
    """The same in one pass, into a store of its own, and what it has to hold."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    store = str(tmp_path / "store.zarr")
    return replace(four_stages[0], store=store, discard_h264=True, scratch=str(scratch)), four_stages[1]


@contextmanager
def counted_transcoding(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the source files that are transcoded meanwhile."""
    done: list[str] = []
    real = h264_cache.encoder.transcode

    def noting(source: str, *arguments: object) -> object:
        done.append(Path(source).name)
        return real(source, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(h264_cache.encoder, "transcode", noting)
        yield done


def files_below(*folders: object) -> list[Path]:
    return [path for folder in folders for path in Path(str(folder)).rglob("*")]


def test_one_pass_gives_the_bytes_of_the_four_stages_and_keeps_no_h264_file(
    one_pass: tuple[Options, dict[str, bytes]],
) -> None:
    options, expected = one_pass
    summary, done = run_stages(options)
    assert done == [ONE_PASS] * 2
    assert contents(Path(options.store)) == expected
    assert files_below(options.scratch) == []
    assert [path for path in files_below(f"{options.store}.work") if path.suffix == ".mp4"] == []
    assert (summary.done, len(summary.quarantined)) == (3, 1)
    assert summarise(options.store).stages == dict.fromkeys(STAGES, (2, 2))
    assert verify(options.store) == []
    assert find_waste(options.store) == []
    assert run_stages(options)[1] == []
    assert run_stages(replace(options, discard_h264=False, scratch=None))[1] == []


@pytest.mark.parametrize("later_in_one_pass", [True, False])
def test_a_new_view_later_says_that_it_transcodes_again_and_does_so_shard_by_shard(
    one_pass: tuple[Options, dict[str, bytes]],
    four_stages: tuple[Options, dict[str, bytes]],
    later_in_one_pass: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options, _ = one_pass
    run_stages(options)
    wider = replace(options, recipe=recipe(*VIEWS, NEW))
    if not later_in_one_pass:
        wider = replace(wider, discard_h264=False, scratch=None)
    with open_run(wider) as run:
        (notice,) = run.notices
        assert [plan.stages for plan in run.pending(ONE_PASS)] == [("boxes", "clips")] * 2
    why = "--discard-h264 keeps" if later_in_one_pass else f"{options.store}.work has"
    added = "adding to the store: middle, from the stored vectors; all clips are transcoded again, because"
    assert notice == f"{added} {why} no H.264 files"
    with counted_transcoding(monkeypatch) as transcoded:
        done = run_stages(wider)[1]
    assert len(transcoded) == 3
    assert done == ([ONE_PASS] * 2 if later_in_one_pass else ["boxes"] * 2 + ["clips"] * 2)
    assert bool([path for path in files_below(f"{options.store}.work") if path.suffix == ".mp4"]) != later_in_one_pass
    assert files_below(options.scratch) == []

    other = tmp_path / "other.zarr"
    shutil.copytree(four_stages[0].store, other)
    run_stages(replace(wider, store=str(other), discard_h264=False, scratch=None))
    assert contents(Path(options.store)) == contents(other)


def test_a_shard_that_was_done_in_part_goes_on_from_its_records(
    one_pass: tuple[Options, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """H.264 files are made again where a stage reads them, for clips that need them."""
    options, expected = one_pass
    run_stages(options)
    store = Path(options.store)
    lost = {"transcode/00001": 2, "motion/00001": 2, "boxes/full/00001": 0, "clips/mocrop/00001": 2}
    for path, transcoded_again in lost.items():
        shutil.rmtree(store / "progress" / path)
        before = records(store)
        with open_run(options) as run:
            (plan,) = run.pending(ONE_PASS)
        assert (plan.shard, plan.stages[0]) == (1, path.partition("/")[0])
        with counted_transcoding(monkeypatch) as transcoded:
            assert run_stages(options)[1] == [ONE_PASS]
        assert len(transcoded) == transcoded_again, path
        assert before.items() <= records(store).items(), "a finished stage was done again, though its inputs are equal"
        assert contents(store) == expected
    assert files_below(options.scratch) == []


def test_quarantined_clips_are_tried_again_in_one_pass(one_pass: tuple[Options, dict[str, bytes]]) -> None:
    options, expected = one_pass
    own = Path(options.store).parent / "source"
    shutil.copytree(options.source, own)
    options = replace(options, source=str(own), retry_quarantined=True)
    run_stages(options)
    summary, done = run_stages(options)
    assert (done, len(summary.quarantined)) == ([ONE_PASS], 1)
    assert contents(Path(options.store)) == expected
    whole = next(path for path in sorted(own.rglob("*.avi")) if "Broken" not in path.name)
    shutil.copy(whole, own / "Broken/v_Broken_g01_c01.avi")
    summary, done = run_stages(options)
    assert (done, summary.done, summary.quarantined) == ([ONE_PASS], 4, {})
    assert verify(options.store) == []


def test_a_box_outside_its_frame_is_chosen_again_in_one_pass(one_pass: tuple[Options, dict[str, bytes]]) -> None:
    options, expected = one_pass
    run_stages(options)
    record = open_store(options.store).records(BoxRow, "full")[0]
    outside = {id: replace(row, box=Box(0, 0, 9000, 9000)) for id, row in record.clips.items()}
    write_record(zarr_store(options.store, read_only=False), replace(record, clips=outside))
    assert run_stages(options)[1] == [ONE_PASS]
    assert contents(Path(options.store)) == expected


def test_a_shard_done_twice_and_interrupted_the_second_time_is_pending_and_not_without_its_vectors(
    one_pass: tuple[Options, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a scheduler loses a worker that had recorded stages, and the run ends during the next attempt."""
    options, expected = one_pass

    def ends(*words: object, **named: object) -> None:
        raise RunStopped("the end")

    with open_run(options) as run:
        plans = sorted(run.pending(ONE_PASS), key=lambda plan: plan.shard)
        for plan in plans:
            with on_scratch(plan) as placed:
                process_shard(placed, run.recipe)
        with monkeypatch.context() as patched, on_scratch(plans[0]) as placed:
            patched.setattr(decoder, "extract", ends)
            with pytest.raises(RunStopped):
                process_shard(placed, run.recipe)
    assert not Path(options.store, "motion/00000").exists()
    assert summarise(options.store).stages["motion"] == (1, 2)
    assert run_stages(options)[1] == [ONE_PASS]
    assert contents(Path(options.store)) == expected


def test_two_workers_give_the_bytes_of_the_four_stages(one_pass: tuple[Options, dict[str, bytes]]) -> None:
    options, expected = one_pass
    with dask_client(workers=2) as client:
        reports = do_on_dask(options, client)
    assert sorted((report.stage, report.shard) for report in reports) == [(ONE_PASS, 0), (ONE_PASS, 1)]
    assert sum(len(report.quarantined) for report in reports) == 1
    assert all(set(report.by_stage) == set(STAGES) for report in reports)
    assert contents(Path(options.store)) == expected
    assert files_below(options.scratch) == []


def test_a_second_attempt_removes_what_the_first_recorded(one_pass: tuple[Options, dict[str, bytes]]) -> None:
    """It may replace objects under those records: the source may have changed meanwhile."""
    options, _ = one_pass

    def second_time(plan: ShardPlan) -> Attempt:
        report = ShardReport(plan.stage, plan.shard, 1, 1, 0.0)
        return (
            Attempt(report=report) if plan.may_have_records else Attempt(error="OSError: [Errno 5] Input/output error")
        )

    with open_run(options) as run, dask_client(workers=1) as client:
        plans = run.pending(ONE_PASS)
        assert plans
        assert not any(plan.may_have_records for plan in plans)
        assert map_shards(client, plans, second_time, lambda report: None) == {}


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, StartWorker]]:
    """A scheduler that was started by hand: its address, and a function that starts a worker."""
    with scheduler(tmp_path_factory.mktemp("by-hand"), "--no-nanny") as (address, start):
        yield address, start


def test_a_worker_that_dies_leaves_its_shard_to_one_that_joins(
    by_hand: tuple[str, StartWorker], one_pass: tuple[Options, dict[str, bytes]]
) -> None:
    options, expected = one_pass
    address, start = by_hand
    last = sorted(Path(options.source).rglob("*.avi"))[-1].stem
    first = start("first", PYTHONPATH=str(SABOTAGE), MOCROP_SABOTAGE=f"rgb_frames dies {last}")
    left: list[str] = []
    others: list[Worker] = []

    def replace_it() -> None:
        first.wait(300)
        left.extend(path.name for path in files_below(options.scratch) if path.suffix == ".mp4")
        others.append(start("second"))

    with dask_client(address=address) as client:
        watch = threading.Thread(target=replace_it)
        watch.start()
        reports = do_on_dask(options, client)
        watch.join()
    assert sorted(report.shard for report in reports) == [0, 1]
    assert first.returncode == -signal.SIGSEGV
    assert len(left) == 2, "the H.264 files of the shard that it died on"
    assert files_below(options.scratch) == [], "the next task on the machine removes them"
    assert contents(Path(options.store)) == expected
    end(others)


def test_a_run_that_is_stopped_with_its_scheduler_says_that_it_was_stopped(
    one_pass: tuple[Options, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a batch system ends all processes of a job at once."""
    monkeypatch.setattr(dask_cluster, "CONNECT_SECONDS", 3.0)
    options, expected = one_pass

    def stop(report: ShardReport) -> None:
        os.kill(client.run_on_scheduler(os.getpid), signal.SIGKILL)
        raise KeyboardInterrupt

    with cluster(tmp_path, 1) as (address, _), dask_client(address=address) as client, pytest.raises(KeyboardInterrupt):
        do_on_dask(options, client, stop)
    run_stages(options)
    assert contents(Path(options.store)) == expected


def end(workers: list[Worker]) -> None:
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.wait(300)


WITHOUT = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pipelines", "data_specs"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Without())
"""
OTHER_BUILD = """#!/bin/sh
if [ "$1" = -version ]; then '{0}' -version | sed 's/configuration:/configuration: --enable-something/'; exit; fi
exec '{0}' "$@"
"""


def test_workers_that_lack_something_are_named_in_one_line_before_work_starts(
    by_hand: tuple[str, StartWorker], one_pass: tuple[Options, dict[str, bytes]], tmp_path: Path
) -> None:
    address, start = by_hand
    options = replace(one_pass[0], dask_address=address)
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    (tmp_path / "ffmpeg").write_text(OTHER_BUILD.format(find_ffmpeg().path))
    (tmp_path / "ffmpeg").chmod(0o755)
    workers = [start("good"), start("bare", PYTHONPATH=str(tmp_path)), start("old", MOCROP_FFMPEG=f"{tmp_path}/ffmpeg")]
    with dask_client(address=address) as client, open_run(options) as run:
        client.wait_for_workers(3, timeout=600)
        names = {worker["id"]: address for address, worker in client.scheduler_info(n_workers=-1)["workers"].items()}
        with pytest.raises(RunError) as refused:
            check_workers(client, run)
        end(workers[1:])
        assert wait_until(lambda: len(client.nthreads()) == 1)
        check_workers(client, run)
        work = partial(attempt, recipe=run.recipe)
        joined = start("joined", PYTHONPATH=str(tmp_path))
        client.wait_for_workers(2, timeout=600)
        with pytest.raises(RunError, match=r"cannot run mocrop .* on tcp://[\d.:]+$"):
            map_shards(
                client, run.pending(ONE_PASS), work, lambda report: None, on_join=partial(check_workers, client, run)
            )
    end([workers[0], joined])
    said = str(refused.value)
    assert said.startswith("Dask workers lack what the run needs: ")
    assert re.search(rf"cannot run mocrop \(.*No module named 'pipelines'.*\) on {names['bare']}", said)
    assert re.search(rf"ffmpeg build '.*' instead of '.*' on {names['old']}", said)
    assert names["good"] not in said
    assert "\n" not in said


def test_a_local_run_without_its_scratch_folder_names_no_worker(one_pass: tuple[Options, dict[str, bytes]]) -> None:
    options = replace(one_pass[0], scratch=f"{one_pass[0].scratch}/nowhere")
    with dask_client(workers=1) as client, open_run(options) as run, pytest.raises(RunError) as refused:
        check_workers(client, run)
    assert str(refused.value) == (
        f"this machine lacks what the run needs: no scratch folder {options.scratch!r} to write to"
    )


def test_what_a_worker_lacks_is_told_in_words(one_pass: tuple[Options, dict[str, bytes]], tmp_path: Path) -> None:
    options, _ = one_pass
    with open_run(options) as run:
        needs = needs_of(run)
        assert lacking(needs) == []
        assert needs.work_dir is None, "no work folder is shared"
        gone = str(tmp_path / "gone")
        assert lacking(replace(needs, source=gone)) == [f"no source folder {gone!r}"]
        assert lacking(replace(needs, store=gone)) == [f"not the run's store at {gone!r}"]
        assert lacking(replace(needs, token="of another run")) == [f"not the run's store at {options.store!r}"]
        assert lacking(replace(needs, scratch=gone)) == [f"no scratch folder {gone!r} to write to"]
        (said,) = lacking(replace(needs, work_dir=gone))
        assert said == f"no work folder {gone!r} to write to (share it, or use --discard-h264)"
        (said,) = lacking(replace(needs, version="0.0.1"))
        assert said.endswith(" instead of 0.0.1")
        (said,) = lacking(replace(needs, build="another"))
        assert said.endswith(" instead of 'another'")
        assert len(lacking(replace(needs, source=gone, scratch=gone))) == 2
    with open_run(replace(options, discard_h264=False, scratch=None)) as run:
        assert needs_of(run).work_dir == f"{options.store}.work"
        assert lacking(needs_of(run)) == []


def test_scratch_that_killed_tasks_left_is_removed_and_that_of_live_ones_kept(tmp_path: Path) -> None:
    dead, lock = _make_locked(tmp_path)
    (dead / "h264").mkdir()
    (dead / "h264/clip.mp4").write_bytes(b"half")
    os.close(lock)  # as the kernel does when a process dies
    live, lock = _make_locked(tmp_path)
    elsewhere = tmp_path / "mocrop-shard-another_host-abc"
    elsewhere.mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / f"{_prefix()}link").symlink_to(tmp_path / "target")
    assert sweep_scratch(tmp_path) == [dead]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [live.name, elsewhere.name, "target", f"{_prefix()}link"]
    )
    fcntl.flock(lock, fcntl.LOCK_UN)
    os.close(lock)
    assert sweep_scratch(tmp_path) == [live]


def test_scratch_without_discarding_is_refused(one_pass: tuple[Options, dict[str, bytes]]) -> None:
    options, _ = one_pass
    with pytest.raises(RunError, match=r"^scratch '.*': only a run with --discard-h264 uses it"):
        run_stages(replace(options, discard_h264=False))
    with pytest.raises(RunStopped, match=r"scratch '.*nowhere': No such file or directory; fix this"):
        run_stages(replace(options, scratch=f"{options.scratch}/nowhere"))
    with pytest.raises(RunError, match=r"^scratch '.*new': it is inside the source folder"):
        run_stages(replace(options, scratch=f"{options.source}/new"))


def test_a_plan_counts_the_h264_files_of_the_shards_at_work_on_the_scratch_folder(
    one_pass: tuple[Options, dict[str, bytes]],
) -> None:
    options, _ = one_pass
    whole = make_plan(replace(options, discard_h264=False, scratch=None, workers=1))
    gone = f"{options.scratch}/gone"
    passed = make_plan(replace(options, scratch=gone, workers=1))
    assert whole.work_bytes
    assert passed.work_bytes == pytest.approx(whole.work_bytes / 2, rel=0.02)  # one shard of two at a time
    assert passed.scratch == gone
    assert set(passed.free) == {"store", "scratch"}
    assert any(f"MiB at a time in {gone}" in line for line in passed.lines())
    assert passed.warnings[-1] == f"scratch: this machine has no folder {gone!r}; the workers' machines must have it"
