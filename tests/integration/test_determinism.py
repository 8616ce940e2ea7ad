"""The same bytes from one, two and four workers, in any order, and from a Dask cluster reached by its address."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pipelines.errors import RunError
from pipelines.execution.dask_cluster import dask_client
from pipelines.runs.opening import open_run
from pipelines.runs.options import Options
from pipelines.runs.run import Run
from pipelines.stages.shard_task import process_shard
from pipelines.stages.tasks import STAGES, ShardPlan
from tests.conftest import run_stages
from tests.places import SABOTAGE
from tests.support.dask_by_hand import cluster
from tests.support.saboteurs import SMALL, contents, copy_clips, do_on_dask
from tests.support.soak import record


@pytest.fixture(scope="module")
def in_order(ucf_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Options, dict[str, bytes]]:
    """What is asked for, and the store that one process makes of it, a shard after the other."""
    folder = tmp_path_factory.mktemp("in-order")
    source = copy_clips(ucf_clips, folder / "source")
    (source / "Biking/broken.avi").write_bytes((source / "Biking/v_Biking_g05_c02.avi").read_bytes()[:3000])
    options = Options(str(source), str(folder / "store.zarr"), recipe=SMALL)
    summary, _ = run_stages(options)
    assert (summary.done, list(summary.quarantined)) == (6, ["Biking/broken"])
    return options, contents(Path(options.store))


@pytest.fixture
def asked(in_order: tuple[Options, dict[str, bytes]], tmp_path: Path) -> tuple[Options, dict[str, bytes]]:
    """The same for a store of one's own, and what it has to hold."""
    return replace(in_order[0], store=str(tmp_path / "store.zarr")), in_order[1]


@pytest.mark.parametrize(
    "workers", [pytest.param(1, marks=pytest.mark.soak), 2, pytest.param(4, marks=pytest.mark.soak)]
)
def test_the_number_of_workers_changes_no_byte(
    workers: int, asked: tuple[Options, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if one of two workers dies on a shard."""
    options, expected = asked
    rng = random.Random(workers)
    in_order_of_rows = Run.pending

    def shuffled(run: Run, stage: str) -> list[ShardPlan]:
        plans = in_order_of_rows(run, stage)
        rng.shuffle(plans)
        return plans

    monkeypatch.setattr(Run, "pending", shuffled)
    if workers == 2:
        monkeypatch.setenv("PYTHONPATH", str(SABOTAGE))
        monkeypatch.setenv("MOCROP_SABOTAGE", "extract dies-once v_Shotput")
    with dask_client(workers=workers) as client:
        processes = [psutil.Process(pid) for pid in client.run(os.getpid).values()]
        assert len(processes) == workers
        do_on_dask(options, client)
    assert contents(Path(options.store)) == expected
    assert psutil.wait_procs(processes, 60)[1] == [], "they outlived their cluster"
    assert len(list(Path(f"{options.store}.work").rglob("*.died"))) == (workers == 2)
    if workers != 2:
        record(f"the same bytes with {workers} workers in shuffled order", files=len(expected))


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 5))])
def test_shards_done_in_any_order_as_far_as_they_can_be_give_the_same_bytes(
    seed: int, asked: tuple[Options, dict[str, bytes]]
) -> None:
    """One shard may be through all its stages before another has begun."""
    options, expected = asked
    rng = random.Random(seed)
    done = 0
    with open_run(options) as run:
        while ready := [plans[0] for plans in by_shard(run).values() if plans]:
            process_shard(rng.choice(ready), run.recipe)
            done += 1
    assert done == len(STAGES) * 4
    assert contents(Path(options.store)) == expected


def by_shard(run: Run) -> dict[int, list[ShardPlan]]:
    """What is left of each shard, the first stage first."""
    left: dict[int, list[ShardPlan]] = {shard: [] for shard in range(run.num_shards)}
    for stage in STAGES:
        for plan in run.pending(stage):
            left[plan.shard].append(plan)
    return left


@pytest.mark.soak
def test_two_dask_workers_reached_by_address_give_the_same_bytes(
    asked: tuple[Options, dict[str, bytes]], tmp_path: Path
) -> None:
    options, expected = asked
    with cluster(tmp_path, 2, "--no-nanny") as (address, _), dask_client(address=address) as client:
        client.wait_for_workers(2, timeout=600)
        do_on_dask(options, client)
        assert len(set(client.run(os.getpid).values())) == 2
    assert contents(Path(options.store)) == expected


@pytest.mark.soak
def test_a_run_whose_last_worker_is_gone_ends_in_one_line_and_goes_on_elsewhere(
    asked: tuple[Options, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, expected = asked
    with cluster(tmp_path, 1, "--no-nanny") as (address, (worker,)), dask_client(address=address) as client:
        client.wait_for_workers(1, timeout=600)
        monkeypatch.setattr("pipelines.execution.dask_cluster.JOIN_SECONDS", 4.0)
        with pytest.raises(RunError, match="no Dask worker is left; completed work is kept"):
            do_on_dask(options, client, lambda report: worker.kill())
    assert run_stages(options)[1], "it was stopped before its end"
    assert contents(Path(options.store)) == expected
