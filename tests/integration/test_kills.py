"""Runs that are killed: whatever dies and whenever, the same command completes the store with the same bytes."""

from __future__ import annotations

import random
import re
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import distributed
import pytest

from data_specs.stored import open_store
from pipelines.runs.options import Options
from pipelines.stages.tasks import STAGES
from tests.conftest import run_stages
from tests.support.rewriting import rewrite
from tests.support.saboteurs import (
    SMALL,
    contents,
    copy_clips,
    do_on_dask,
    ffmpegs,
    killing,
    records,
    start_stages,
    wait_until,
    workers_of,
)

STAGE_OF = {"density": "boxes", "frames": "clips"}
MOMENTS = 20  # of the run itself, every fifth of them in `make test`; those of workers and of ffmpeg come on top


@dataclass(frozen=True)
class Unbroken:
    """What was asked for, the store that an unbroken run made of it, and how long it took."""

    options: Options
    contents: dict[str, bytes]
    seconds: float


@pytest.fixture(scope="module")
def unbroken(ucf_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    folder = tmp_path_factory.mktemp("unbroken")
    options = Options(str(copy_clips(ucf_clips, folder / "source")), str(folder / "store.zarr"), recipe=SMALL)
    for store in (str(folder / "warm-up.zarr"), options.store):  # the first starts what all others are forked from
        begun = time.monotonic()
        run = start_stages(replace(options, store=store), folder / "done")
        run.join()
        seconds = time.monotonic() - begun
    assert open_store(options.store).table("state").tolist() == [1] * 6
    return Unbroken(options, contents(Path(options.store)), seconds)


@pytest.fixture(scope="module")
def client() -> Iterator[distributed.Client]:
    from pipelines.execution.dask_cluster import dask_client

    with dask_client(workers=2) as client:
        yield client


def kill_in_the_middle(options: Options, done: Path, seconds: float, *, made: bool) -> None:
    """Start a run and kill it after so long, ``made``: once the store is there; sooner where it had ended already."""
    for _ in range(10):
        done.write_text("")
        run = start_stages(options, done)
        if made:
            assert wait_until((Path(options.store) / "zarr.json").is_file)
        time.sleep(seconds)
        run.kill()
        run.join()
        if run.exitcode == -signal.SIGKILL:
            return
        assert run.exitcode == 0
        seconds *= 0.8
        for folder in (options.store, f"{options.store}.work"):
            shutil.rmtree(folder)
    pytest.fail("every run had ended before it was killed")


def leave_half_a_shard(store: Path, expected: dict[str, bytes], rng: random.Random) -> str:
    """Leave what a loss of power leaves: half of a file of a shard, done or not, and unfinished files; its record."""
    shards = re.compile(rf"motion/\d+/c\.|views/[\w-]+/({'|'.join(STAGE_OF)})/c\.")
    name = rng.choice(sorted(filter(shards.match, expected)))
    (store / name).parent.mkdir(parents=True, exist_ok=True)
    rewrite(store / name, expected[name][: len(expected[name]) // 2])
    (store / f"{name}.0123456789abcdef.partial").write_bytes(b"half")
    for folder in ("h264", "records", "sources", "stores"):
        work = Path(f"{store}.work", folder)
        work.mkdir(parents=True, exist_ok=True)
        (work / ".0123456789abcdef.part").write_bytes(b"half")
    kind, place, *rest = name.split("/")  # motion/00002/c.0.0.0 or views/full/frames/c.2.0.0.0.0
    return f"motion/{place}" if kind == "motion" else f"{STAGE_OF[rest[0]]}/{place}/{int(rest[1].split('.')[1]):05}"


@pytest.mark.parametrize(
    "moment", [pytest.param(moment, marks=[pytest.mark.soak] if moment % 5 else []) for moment in range(MOMENTS)]
)
def test_a_run_killed_at_any_moment_is_completed_and_no_finished_shard_is_done_again(
    moment: int, unbroken: Unbroken, tmp_path: Path
) -> None:
    rng = random.Random(moment)
    expected = unbroken.contents
    options = replace(unbroken.options, store=str(tmp_path / "store.zarr"))
    store, done = Path(options.store), tmp_path / "done"

    power_lost = bool(moment % 2)
    kill_in_the_middle(options, done, (moment + rng.random()) / MOMENTS * unbroken.seconds, made=power_lost)
    finished = records(store)
    damaged_record = leave_half_a_shard(store, expected, rng) if power_lost else ""

    done.write_text("")
    again = start_stages(options, done)
    again.join(300)
    assert again.exitcode == 0
    assert contents(store) == expected
    assert not [*Path(f"{store}.work").rglob("*.part"), *store.rglob("*.partial")]
    kept = {name for name, file in records(store).items() if finished.get(name) == file}
    assert finished.keys() - kept == ({damaged_record} & finished.keys()), "a finished shard was written again"
    executions = done.read_text().splitlines()
    assert sorted([*executions, *kept]) == sorted(records(store)), "each is done once, before the kill or after it"
    assert run_stages(options)[1] == []


@pytest.mark.parametrize(
    "moment", [pytest.param(moment, marks=[] if moment == 3 else [pytest.mark.soak]) for moment in range(8)]
)
def test_one_pass_killed_at_any_moment_is_completed_and_leaves_nothing_on_scratch(
    moment: int, unbroken: Unbroken, tmp_path: Path
) -> None:
    scratch, store, done = tmp_path / "scratch", tmp_path / "store.zarr", tmp_path / "done"
    scratch.mkdir()
    options = replace(unbroken.options, store=str(store), discard_h264=True, scratch=str(scratch))
    seconds = (moment + random.Random(moment).random()) / 8 * unbroken.seconds
    kill_in_the_middle(options, done, seconds, made=True)
    finished = records(store)
    again = start_stages(options, done)
    again.join(300)
    assert again.exitcode == 0
    assert contents(store) == unbroken.contents
    assert finished.items() <= records(store).items(), "what was recorded was done again"
    assert list(scratch.iterdir()) == []
    assert run_stages(options)[1] == []


@pytest.mark.soak
def test_workers_and_ffmpegs_killed_at_random_moments_change_no_byte(
    client: distributed.Client, unbroken: Unbroken, tmp_path: Path
) -> None:
    least, expected = 4, unbroken.contents
    pause = (0.02 * unbroken.seconds, 0.3 * unbroken.seconds)
    killed: dict[str, list[str]] = {"workers": [], "ffmpegs": []}
    victims = {"workers": lambda: workers_of(client), "ffmpegs": ffmpegs}
    for turn in range(40):
        whom = min(killed, key=lambda kind: len(killed[kind]))
        if len(killed[whom]) >= least:
            break
        options = replace(unbroken.options, store=str(tmp_path / f"{turn}.zarr"))
        with killing(victims[whom], random.Random(turn), pause, most=3) as found:
            reports = do_on_dask(options, client)
        killed[whom] += found
        assert contents(Path(options.store)) == expected
        assert sorted((report.stage, report.shard) for report in reports) == sorted(
            (stage, shard) for stage in STAGES for shard in range(3)
        )
        assert not any(report.quarantined for report in reports)
    assert min(map(len, killed.values())) >= least


@pytest.mark.soak
def test_workers_that_dask_has_given_up_are_started_anew(
    unbroken: Unbroken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.execution import dask_cluster

    options = replace(unbroken.options, store=str(tmp_path / "store.zarr"))
    monkeypatch.setitem(dask_cluster._DASK, "distributed.deploy.lost-worker-timeout", "10ms")
    with dask_cluster.dask_client(workers=1) as client:
        first = workers_of(client)
        first[0].kill()
        assert wait_until(lambda: not client.cluster.workers), "Dask drops it for good"
        do_on_dask(options, client)
    assert contents(Path(options.store)) == unbroken.contents
