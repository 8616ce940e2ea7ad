"""Shards over a real local Dask cluster: tried again on their own, refused in one line, stopped as a whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import distributed
import pytest

from data_specs.recipes import Recipe
from pipelines.errors import RunError, RunStopped
from pipelines.execution.dask_cluster import ATTEMPTS, IN_FLIGHT, dask_client, map_shards
from pipelines.execution.worker import Attempt, attempt, one_line
from pipelines.stages.h264_cache import Folders
from pipelines.stages.tasks import ShardPlan, ShardReport
from tests.support.saboteurs import wait_until

PLAN = ShardPlan("motion", 0, "store", Folders("source", "work"), "build", 0, ())


class AwkwardTrouble(OSError):
    """Cannot be unpickled: it takes two arguments and keeps one."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} at {where}")


def report(plan: ShardPlan) -> ShardReport:
    return ShardReport(plan.stage, plan.shard, 1, 1, 0.0)


def tried(folder: Path, plan: ShardPlan) -> int:
    """How often a shard has been tried, this time included."""
    with (folder / f"{plan.shard}").open("a") as file:
        file.write("x")
        return file.tell()


def fails_once(folder: Path, plan: ShardPlan, recipe: Recipe) -> ShardReport:
    if tried(folder, plan) == 1 and plan.shard == 1:
        raise AwkwardTrouble("a passing trouble", "shard 1")
    return report(plan)


def always_fails(folder: Path, plan: ShardPlan, recipe: Recipe) -> ShardReport:
    tried(folder, plan)
    if plan.shard == 1:
        raise AwkwardTrouble("a lasting\ntrouble", "shard 1")
    return report(plan)


def dies_once(folder: Path, plan: ShardPlan, recipe: Recipe) -> ShardReport:
    if tried(folder, plan) == 1 and plan.shard == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return report(plan)


def notes_apart(folder: Path, plan: ShardPlan, recipe: Recipe) -> ShardReport:
    if plan.apart:
        (folder / f"{plan.shard} apart").touch()
    return dies_once(folder, plan, recipe)


def disk_is_full(plan: ShardPlan, recipe: Recipe) -> ShardReport:
    raise RunStopped("No space left on device (/data); fix this and run the same command again")


@pytest.fixture(scope="module")
def client() -> Iterator[distributed.Client]:
    with dask_client(workers=2) as client:
        yield client


def plans(count: int) -> list[ShardPlan]:
    return [replace(PLAN, shard=shard) for shard in range(count)]


def test_a_shard_that_fails_once_is_tried_again_by_itself(client: distributed.Client, tmp_path: Path) -> None:
    reports: list[ShardReport] = []
    work = partial(attempt, recipe=Recipe(), work=partial(fails_once, tmp_path))
    assert map_shards(client, plans(4), work, reports.append) == {}
    assert sorted(report.shard for report in reports) == [0, 1, 2, 3]
    assert [(tmp_path / f"{shard}").stat().st_size for shard in range(4)] == [1, 2, 1, 1]


def test_a_shard_that_keeps_failing_is_named_and_the_others_are_done(
    client: distributed.Client, tmp_path: Path
) -> None:
    reports: list[ShardReport] = []
    work = partial(attempt, recipe=Recipe(), work=partial(always_fails, tmp_path))
    failed = map_shards(client, plans(3), work, reports.append)
    assert failed == {1: "AwkwardTrouble: a lasting trouble at shard 1"}
    assert sorted(report.shard for report in reports) == [0, 2]
    assert (tmp_path / "1").stat().st_size == ATTEMPTS


def test_a_process_that_dies_is_replaced_and_its_shard_done(client: distributed.Client, tmp_path: Path) -> None:
    reports: list[ShardReport] = []
    work = partial(attempt, recipe=Recipe(), work=partial(dies_once, tmp_path))
    assert map_shards(client, plans(3), work, reports.append) == {}
    assert sorted(report.shard for report in reports) == [0, 1, 2]
    client.wait_for_workers(2, timeout=600)


def test_after_a_worker_died_only_the_shards_that_were_in_flight_are_sent_alone(
    client: distributed.Client, tmp_path: Path
) -> None:
    in_flight: list[int] = []
    work = partial(attempt, recipe=Recipe(), work=partial(notes_apart, tmp_path))
    assert map_shards(client, plans(300), work, lambda report: in_flight.append(len(client.futures))) == {}
    assert len(in_flight) == 300
    assert 1 <= len(list(tmp_path.glob("* apart"))) <= 4
    assert max(in_flight[150:]) >= 2 * IN_FLIGHT - 1, "as many shards are sent as before"
    client.wait_for_workers(2, timeout=600)


def test_the_scheduler_holds_a_few_shards_a_thread_however_many_are_left(
    client: distributed.Client, tmp_path: Path
) -> None:
    held: list[int] = []

    def look(done: ShardReport) -> None:
        tasks = list(client.cluster.scheduler.tasks.values())
        held.append(sum(task.state in ("processing", "waiting", "queued", "no-worker") for task in tasks))

    work = partial(attempt, recipe=Recipe(), work=partial(fails_once, tmp_path))
    assert map_shards(client, plans(100), work, look) == {}
    assert len(held) == 100
    assert 1 <= max(held) <= 2 * IN_FLIGHT


def waits_for_others(folder: Path, plan: ShardPlan, recipe: Recipe) -> ShardReport:
    """Note the process; from shard 4 on, wait until a test says that others have joined."""
    with (folder / "processes").open("a") as file:
        file.write(f"{os.getpid()}\n")
    assert plan.shard < 4 or wait_until((folder / "joined").exists, 60)
    return report(plan)


def test_workers_that_join_get_shards_and_those_that_leave_lose_none(tmp_path: Path) -> None:
    done: list[int] = []

    with dask_client(workers=1) as own:

        def join_and_leave(report: ShardReport) -> None:
            done.append(report.shard)
            if len(done) == 4:
                own.cluster.scale(2)
                own.wait_for_workers(2, timeout=600)
                (tmp_path / "joined").touch()
            elif len(done) == 30:
                own.cluster.scale(1)

        work = partial(attempt, recipe=Recipe(), work=partial(waits_for_others, tmp_path))
        assert map_shards(own, plans(60), work, join_and_leave) == {}
        assert wait_until(lambda: len(own.nthreads()) == 1)
    assert sorted(done) == list(range(60))
    assert len(set((tmp_path / "processes").read_text().split())) == 2


def test_workers_run_without_prefect_in_groups_of_their_own(client: distributed.Client, tmp_path: Path) -> None:
    missing = [replace(PLAN, store=str(tmp_path / f"none{number}")) for number in range(2)]
    for worker, plan in zip(client.nthreads(), missing, strict=True):
        assert client.submit(attempt, plan, Recipe(), workers=[worker]).result().error, "there is no such store"
    assert list(client.run(eval, "'pipelines.stages.shard_task' in __import__('sys').modules").values()) == [True] * 2
    assert list(client.run(eval, "'prefect' in __import__('sys').modules").values()) == [False] * 2
    assert client.run(os.getpgrp) == client.run(os.getpid)


def test_every_port_is_on_loopback_and_every_process_has_one_thread(client: distributed.Client) -> None:
    information = client.scheduler_info(n_workers=-1)
    addresses = [information["address"], *information["workers"]]
    assert len(addresses) == 3
    assert all(address.startswith("tls://127.0.0.1:") for address in addresses)
    assert set(client.nthreads().values()) == {1}


def test_a_full_disk_stops_the_run_in_one_line_and_the_environment_is_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Dask sets OMP_NUM_THREADS=1 for its workers; left in ours, a training after the run would use one core."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = dict(os.environ)
    work = partial(attempt, recipe=Recipe(), work=disk_is_full)
    with dask_client(workers=1) as own, pytest.raises(RunError, match=r"^motion: No space left on device"):
        map_shards(own, plans(3), work, lambda report: pytest.fail("nothing was done"))
    assert dict(os.environ) == before


def test_an_address_where_nothing_answers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.execution.dask_cluster.CONNECT_SECONDS", 1.0)
    with (
        pytest.raises(RunError, match=r"dask_address 'tcp://127\.0\.0\.1:9'"),
        dask_client(address="tcp://127.0.0.1:9"),
    ):
        pytest.fail("connected to nothing")


def test_an_attempt_tells_its_error_in_one_line() -> None:
    assert attempt(PLAN, Recipe(), disk_is_full).stop
    assert attempt(PLAN, Recipe(), lambda plan, recipe: report(plan)) == Attempt(report(PLAN))
    assert "\n" not in one_line(ValueError("two\nlines"))


def test_workers_start_without_prefect_and_dask_in_what_they_import() -> None:
    code = "import sys, pipelines.execution.worker; print([n for n in ('prefect', 'distributed') if n in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True, timeout=600)
    assert found.stdout == "[]\n"
