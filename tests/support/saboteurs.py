"""What the tests of killed runs have in common: a small run, who kills what and when, and what must be the same."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import distributed
import psutil

from data_specs.recipes import parse_recipe
from pipelines.execution.worker import attempt
from pipelines.runs.opening import open_run
from pipelines.runs.options import Options
from pipelines.stages.scratch import on_scratch
from pipelines.stages.shard_task import process_shard
from pipelines.stages.tasks import ShardReport

SMALL = parse_recipe(
    {"name": "small", "shard_clips": 2, "transcode": {"preset": "ultrafast"}, "frames": {"slots": 4, "size": 32}},
    "small",
)
CLIPS = (
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g19_c03",
    "ApplyLipstick/v_ApplyLipstick_g21_c01",
    "Archery/v_Archery_g01_c01",
    "Biking/v_Biking_g05_c02",
    "Shotput/v_Shotput_g05_c02",
    "VolleyballSpiking/v_VolleyballSpiking_g01_c01",
)
SPAWN = multiprocessing.get_context("forkserver")
SPAWN.set_forkserver_preload(["tests.support.saboteurs"])


def copy_clips(ucf_clips: Path, source: Path, names: tuple[str, ...] = CLIPS) -> Path:
    """A source folder with some of the real clips."""
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ucf_clips / f"{name}.avi", source / f"{name}.avi")
    return source


def do_stages(options: Options, done: str) -> None:
    """Do a run without Prefect and Dask; a line of the file ``done`` for each record written."""
    with open_run(options) as run, open(done, "a", buffering=1) as log:
        for stage in run.passes:
            for plan in run.pending(stage):
                with on_scratch(plan) as placed:
                    report = process_shard(placed, run.recipe)
                run.finished(report)
                log.writelines(f"{report.stage}/{view}/{report.shard:05}\n" for view in plan.views)
                if not plan.views:
                    log.write(f"{report.stage}/{report.shard:05}\n")


def start_stages(options: Options, done: Path) -> BaseProcess:
    """The same in a new process, at once: what it imports is there already."""
    process = SPAWN.Process(target=do_stages, args=(options, str(done)))
    process.start()
    return process


def do_on_dask(
    options: Options, client: distributed.Client, seen: Callable[[ShardReport], object] = lambda report: None
) -> list[ShardReport]:
    """Do a run on a Dask cluster, without Prefect; what it reported, each report shown to ``seen`` when it comes."""
    from pipelines.execution.dask_cluster import map_shards

    reports: list[ShardReport] = []

    with open_run(options) as run:

        def take(report: ShardReport) -> None:
            run.finished(report)
            reports.append(report)
            seen(report)

        for stage in run.passes:
            work = partial(attempt, recipe=run.recipe)
            assert map_shards(client, run.pending(stage), work, take) == {}
        run.publish()
    return reports


def contents(store: Path) -> dict[str, bytes]:
    """Every file of a store but the note of how long stages took."""
    files = {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    files.pop("progress/zarr.json", None)
    return files


def records(store: Path) -> dict[str, tuple[int, int]]:
    """The records of a store, and the files that they are: one that is written again is another file."""
    found = {}
    for path in sorted((store / "progress").glob("*/**/[0-9]*/zarr.json")):
        about = path.stat()
        found[str(path.parent.relative_to(store / "progress"))] = (about.st_ino, about.st_mtime_ns)
    return found


def descendants(pid: int, *words: str) -> list[psutil.Process]:
    """The processes below one whose command line has one of the words in it."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if any(word in " ".join(process.cmdline()) for word in words):
                    found.append(process)
    return found


@contextmanager
def killing(
    victims: Callable[[], list[psutil.Process]], rng: random.Random, pause: tuple[float, float], most: int
) -> Iterator[list[str]]:
    """Meanwhile kill one of the victims now and then, ``most`` times at most; the list of those killed."""
    killed: list[str] = []
    over = threading.Event()

    def kill_now_and_then() -> None:
        while not over.wait(rng.uniform(*pause)) and len(killed) < most:
            if found := victims():
                victim = rng.choice(found)
                with suppress(psutil.NoSuchProcess):
                    name = victim.name()
                    victim.send_signal(signal.SIGKILL)
                    killed.append(name)

    thread = threading.Thread(target=kill_now_and_then)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def wait_until(true: Callable[[], object], seconds: float = 300.0) -> bool:
    """Whether something comes true in time."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def workers_of(client: distributed.Client) -> list[psutil.Process]:
    """The worker processes of a local cluster."""
    found = []
    for nanny in client.cluster.workers.values():
        with suppress(psutil.NoSuchProcess):
            if nanny.pid:
                found.append(psutil.Process(nanny.pid))
    return found


def ffmpegs() -> list[psutil.Process]:
    """The ffmpegs below this process."""
    return descendants(os.getpid(), "libx264")
