"""Dask: a cluster of one's own or someone else's, and the shards of a stage done on it. Nothing else imports Dask."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue

import dask
import distributed
from distributed import Client

from data_specs.locations import shown, without_passwords
from data_specs.resources import usable_cores
from data_specs.stored import is_url
from pipelines.errors import RunError
from pipelines.execution import server_address
from pipelines.execution.process_setup import SAFE_PATH, bare_main, environment_restored, uninterrupted
from pipelines.execution.worker import Attempt, missing_folders, one_line
from pipelines.internal_errors import LOGS, record, write_log
from pipelines.runs.run import Run
from pipelines.stages.tasks import ShardPlan, ShardReport

_logger = logging.getLogger(__name__)

ATTEMPTS = 3  # of a shard, the first included
CONNECT_SECONDS = 15.0
JOIN_SECONDS = 60.0
CHECK_SECONDS = 5.0  # without news, before the workers are counted
STOP_SECONDS = 600.0  # for the shards that someone else's cluster is doing when a run is stopped

_DASK = {
    "distributed.worker.memory.target": False,  # workers keep no data: nothing to spill, nothing to wait for
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.worker.profile.enabled": False,  # these two: 0.06 s of CPU a second, which nobody looks at
    "distributed.admin.tick.interval": "1 s",
    # Dask's own give every frame's memory back at once and fault it in again: a fifth of a worker's CPU time
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 64 * 2**20,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 4 * 2**20,
    "distributed.deploy.lost-worker-timeout": "10 minutes",  # or a slow restart is taken for a loss
    "distributed.scheduler.http.routes": [],  # nobody looks there either
    "distributed.worker.http.routes": [],
    "distributed.scheduler.allowed-failures": 0,  # map_shards says what becomes of a shard that a worker died on
}


@contextlib.contextmanager
def dask_client(workers: int | None = None, address: str | None = None) -> Iterator[Client]:
    """A client of the cluster at ``address``, or of one made here: on loopback, a single-threaded process a core.

    ``RunError`` if nothing answers at the address, or if no worker joins.
    """
    with contextlib.ExitStack() as stack:
        for name in ("distributed", "asyncio"):  # they report every connection that closes while a cluster ends
            logging.getLogger(name).setLevel(logging.CRITICAL)
        stack.enter_context(dask.config.set(_DASK))
        stack.enter_context(environment_restored())
        os.environ.update(SAFE_PATH)
        if address is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mocrop-dask-", ignore_cleanup_errors=True))
            where = stack.enter_context(_local_cluster(workers or usable_cores(), folder))
        else:
            where = address
        try:
            client = Client(where, timeout=CONNECT_SECONDS, set_as_default=False)
            stack.enter_context(client)
            client.wait_for_workers(1, timeout=JOIN_SECONDS)
        except (OSError, ValueError) as error:
            where, why = shown(address or "here"), without_passwords(str(error))
            raise RunError(f"dask_address {where!r}: no Dask worker answers there: {why}") from None
        yield client


def _local_cluster(workers: int, folder: str) -> distributed.LocalCluster:
    with bare_main(), uninterrupted():
        return distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            host=server_address.LOOPBACK,
            security=True,  # TLS with certificates that nobody else has: who can send tasks can run anything as us
            dashboard_address=f"{server_address.LOOPBACK}:0",
            scheduler_kwargs={"dashboard": False},
            local_directory=folder,  # which Dask puts on the module path: not one that others may have made
            silence_logs=logging.CRITICAL,
            preload=["pipelines.execution.worker"],
        )


def check_workers(client: Client, run: Run) -> None:
    """``RunError`` if a worker lacks this package or does not see the folders that it is to read and write."""
    paths = [run.folders.source] + ([] if is_url(run.location) else [run.location])
    for worker, found in client.run(missing_folders, *paths, on_error="return").items():
        if isinstance(found, BaseException):
            raise RunError(f"the Dask worker {worker} cannot run mocrop: {one_line(found)}")
        if found:
            raise RunError(f"the Dask worker {worker} does not see {', '.join(found)}")


def map_shards(
    client: Client,
    plans: Sequence[ShardPlan],
    work: Callable[[ShardPlan], Attempt],
    on_report: Callable[[ShardReport], None],
) -> dict[int, str]:
    """Do every shard on the cluster, each tried up to ``ATTEMPTS`` times by itself; why shards failed, by shard.

    A shard that a worker died on is done in a process of its own from then on, where the clip that it dies on is
    found. ``RunError`` at the first shard that says that going on would not help, or where our own code failed: then
    it names the log file with the traceback. However this ends, no shard is being written any more when it returns.
    """
    window = 64 + 4 * sum(client.nthreads().values())
    waiting = deque((plan, 1) for plan in plans)
    running: dict[distributed.Future, tuple[ShardPlan, int]] = {}
    failed: dict[int, str] = {}
    ended: SimpleQueue[distributed.Future] = SimpleQueue()
    deaths = 0

    def submit() -> None:
        # once a worker has died, none gets a second shard to wait behind its first: Dask would count it as dead too
        room = max(1, sum(client.nthreads().values())) if deaths else window
        if deaths:
            _mend(client)
        while waiting and len(running) < room:
            plan, number = waiting.popleft()
            future = client.submit(work, plan, key=f"{plan.stage}-{uuid.uuid4().hex}", pure=False)
            running[future] = plan, number
            future.add_done_callback(ended.put)

    try:
        submit()
        while running:
            future = _next(client, ended)
            plan, number = running.pop(future)
            found = _outcome(future)
            deaths += found.died
            if found.stderr:
                _report_deaths(plan, found.stderr)
            if found.report is not None:
                on_report(found.report)
            elif found.internal is not None:
                raise RunError(record(found.internal, _logs(plan), f"stage {plan.stage}, shard {plan.shard}"))
            elif found.stop:
                raise RunError(f"{plan.stage}: {found.error}")
            elif found.died and not plan.apart:
                waiting.appendleft((replace(plan, apart=True), number))
            elif number < ATTEMPTS:
                waiting.appendleft((plan, number + 1))
            else:
                failed[plan.shard] = found.error
            submit()
    except BaseException:
        _stop(client, list(running))
        raise
    return failed


def _logs(plan: ShardPlan) -> Path:
    return Path(plan.folders.work_dir, LOGS)


def _report_deaths(plan: ShardPlan, stderr: str) -> None:
    """Keep what the processes that died on a shard wrote to standard error, and warn where it is."""
    log = write_log(_logs(plan), "process-died", f"stage {plan.stage}, shard {plan.shard}\n\n{stderr}")
    where = log or stderr  # what it said is shown if it cannot be kept
    _logger.warning("%s: a process died on shard %d; the end of its standard error: %s", plan.stage, plan.shard, where)


def _next(client: Client, ended: SimpleQueue[distributed.Future]) -> distributed.Future:
    """The next future that ends; ``RunError`` once there has been no worker for a while that could end one."""
    seen = time.monotonic()
    while True:
        with contextlib.suppress(Empty):
            return ended.get(timeout=CHECK_SECONDS)
        if client.nthreads():
            seen = time.monotonic()
        elif time.monotonic() - seen > JOIN_SECONDS:
            raise RunError("no Dask worker is left; what is done is kept, start the same command again")
        _mend(client)


def _mend(client: Client) -> None:
    """Start a worker of our own cluster again where its nanny gave up, as when it was killed while it started."""
    cluster = client.cluster
    if isinstance(cluster, distributed.LocalCluster):

        def mend() -> None:
            for name, nanny in list(cluster.workers.items()):
                if nanny.status in (distributed.Status.closed, distributed.Status.failed):
                    del cluster.workers[name]
            cluster.scale(len(cluster.worker_spec))

        assert cluster.loop is not None
        cluster.loop.add_callback(mend)


def _outcome(future: distributed.Future) -> Attempt:
    """What a future brought; a process that died, or a worker without this package, is an attempt that failed."""
    try:
        found: Attempt = future.result()
    except distributed.KilledWorker:
        return Attempt(error="its worker died each time (killed from outside, or out of memory)", died=True)
    except Exception as error:  # of Dask: the text reaches the user when the last attempt has failed
        return Attempt(error=one_line(error))
    return found


def _stop(client: Client, futures: Sequence[distributed.Future]) -> None:
    """End the workers of a cluster of our own; on another, take back what has not begun and wait for the rest."""
    if isinstance(client.cluster, distributed.LocalCluster):
        client.cluster.close()
        return
    begun = {key for keys in client.processing().values() for key in keys}
    client.cancel([future for future in futures if future.key not in begun])
    with client.as_current(), contextlib.suppress(TimeoutError):  # why the run stops is what is to be told
        distributed.wait([future for future in futures if future.key in begun], timeout=STOP_SECONDS)
