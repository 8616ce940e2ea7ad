"""Processing the shards of a stage on a local or remote Dask cluster. Only this module imports Dask."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import tempfile
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue

import dask
import distributed
from distributed import Client

from data_specs.locations import shown, without_passwords
from data_specs.recipes import Encode
from data_specs.resources import usable_cores
from pipelines.errors import RunError
from pipelines.execution import server_address
from pipelines.execution.process_setup import SAFE_PATH, bare_main, environment_restored, uninterrupted
from pipelines.execution.worker import Attempt, Needs, lacking, one_line
from pipelines.internal_errors import LOGS, record, write_log
from pipelines.runs.run import Run
from pipelines.stages.tasks import ShardPlan, ShardReport
from pipelines.store.software import versions_here

_logger = logging.getLogger(__name__)

ATTEMPTS = 3  # per shard, including the first
IN_FLIGHT = 4  # shards per thread that are with the scheduler, so that no worker waits for the next one
LISTED = 3  # workers in a message
ASK_SECONDS = 1.0  # between two questions how many workers there are
CONNECT_SECONDS = 15.0
JOIN_SECONDS = 60.0
CHECK_SECONDS = 5.0  # between two checks for failed workers of a local cluster, and for others while no shard finishes
STOP_SECONDS = 600.0  # how long a stopped run waits for the shards in progress on a remote cluster

_DASK = {
    "distributed.worker.memory.target": False,  # workers keep no data: there is nothing to spill
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.worker.profile.enabled": False,  # with the tick interval below, saves 6 % of a core per process
    "distributed.admin.tick.interval": "1 s",
    # Dask's defaults return each frame's memory to the system and fault it in again: 20 % of a worker's CPU time
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 64 * 2**20,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 4 * 2**20,
    "distributed.deploy.lost-worker-timeout": "10 minutes",  # a shorter one treats a slow restart as a loss
    "distributed.scheduler.http.routes": [],  # no dashboard
    "distributed.worker.http.routes": [],
    "distributed.scheduler.allowed-failures": 0,  # map_shards retries a shard that a worker died on
}


@contextlib.contextmanager
def dask_client(workers: int | None = None, address: str | None = None) -> Iterator[Client]:
    """Yield a client of the cluster at ``address``, or of a new local one.

    A local cluster listens on loopback and has ``workers`` single-threaded processes, one per core by default. Raises
    ``RunError`` if nothing answers at the address, or if no worker joins.
    """
    with contextlib.ExitStack() as stack:
        for name in ("distributed", "asyncio"):  # they log every connection that closes while a cluster shuts down
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
            security=True,  # TLS with one-time certificates: anyone who can submit tasks can run code as this user
            dashboard_address=f"{server_address.LOOPBACK}:0",
            scheduler_kwargs={"dashboard": False},
            local_directory=folder,  # Dask puts it on the module path, so it must be a folder that only we write
            silence_logs=logging.CRITICAL,
            preload=["pipelines.execution.worker"],
        )


def needs_of(run: Run) -> Needs:
    """What a run needs of the machines of its workers."""
    discard, encode = run.options.discard_h264, isinstance(run.recipe.transcode, Encode)
    return Needs(
        version=versions_here()["mocrop"],
        source=run.folders.source,
        store=run.location,
        token=run.lock.holder.token,
        work_dir=None if discard or not encode else run.folders.work_dir,
        one_pass=discard,
        scratch=run.options.scratch_folder(),
        build=run.build if encode else None,
    )


def check_workers(client: Client, run: Run, workers: list[str] | None = None) -> None:
    """Raise ``RunError`` if workers lack something that the run needs; its line names those of another cluster."""
    workers_without: dict[str, list[str]] = defaultdict(list)
    for worker, lacks in sorted(client.run(lacking, needs_of(run), workers=workers, on_error="return").items()):
        if isinstance(lacks, BaseException):
            gone = worker not in client.nthreads()  # it left meanwhile, as workers may
            lacks = [] if gone else [f"cannot run mocrop ({one_line(lacks)})"]
        for problem in lacks:
            workers_without[problem].append(worker)
    if workers_without and run.options.dask_address is None:
        raise RunError(f"this machine lacks what the run needs: {'; '.join(workers_without)}")
    if workers_without:
        problems = [f"{problem} on {_listed(workers)}" for problem, workers in workers_without.items()]
        raise RunError(f"Dask workers lack what the run needs: {'; '.join(problems)}")


def _listed(workers: Sequence[str]) -> str:
    """The addresses of workers; of many the first few, and how many more there are."""
    more = f" and {len(workers) - LISTED} more" if len(workers) > LISTED else ""
    return ", ".join(workers[:LISTED]) + more


def map_shards(
    client: Client,
    plans: Sequence[ShardPlan],
    work: Callable[[ShardPlan], Attempt],
    on_report: Callable[[ShardReport], None],
    on_death: Callable[[], None] = lambda: None,
    on_join: Callable[[list[str]], None] = lambda addresses: None,
) -> dict[int, str]:
    """Process every shard on the cluster, with up to ``ATTEMPTS`` attempts each; return the failed shards' reasons.

    The scheduler holds at most ``IN_FLIGHT`` shards per thread of the workers of the moment. After a worker died, the
    shards that were in flight on it are processed in separate processes, which find the clip to blame. Until they are
    done, at most one shard per thread is sent; then as many as before. ``on_join`` is called with the addresses of
    the workers, of those that join later too, and may raise ``RunError``.
    Raises ``RunError`` at the first shard whose failure would repeat for others, such as a full disk, or is a bug in
    our own code (the message then names the log file with the traceback). No shard is still being written when this
    returns or raises.
    """
    workers = _Workers(client, on_join)
    waiting = deque((plan, 1) for plan in plans)
    running: dict[distributed.Future, tuple[ShardPlan, int]] = {}
    failed: dict[int, str] = {}
    ended: SimpleQueue[distributed.Future] = SimpleQueue()
    alone: set[int] = set()  # shards that are sent to a separate process and not done yet

    def submit() -> None:
        # shards sent alone do not wait behind others: if one of those killed the worker, Dask would blame both
        room = max(1, workers.threads()) * (1 if alone else IN_FLIGHT)
        while waiting and len(running) < room:
            plan, number = waiting.popleft()
            future = client.submit(work, plan, key=f"{plan.stage}-{uuid.uuid4().hex}", pure=False)
            running[future] = plan, number
            future.add_done_callback(ended.put)

    try:
        submit()
        while running:
            try:
                future = ended.get(timeout=CHECK_SECONDS)
            except Empty:  # workers that joined meanwhile get shards
                submit()
                continue
            plan, number = running.pop(future)
            result = _attempt_of(future)
            if result.died or result.stderr:
                on_death()
            if result.stderr:
                _report_deaths(plan, result.stderr)
            if result.report is not None:
                on_report(result.report)
            elif result.internal is not None:
                raise RunError(record(result.internal, _logs(plan), f"stage {plan.stage}, shard {plan.shard}"))
            elif result.stop:
                on = f" (on {result.host})" if result.host not in ("", socket.gethostname()) else ""
                raise RunError(f"{plan.stage}: {result.error}{on}")
            elif result.died and not plan.apart:
                waiting.appendleft((replace(plan, apart=True, may_have_records=True), number))
                alone.add(plan.shard)
            elif number < ATTEMPTS:
                waiting.appendleft((replace(plan, may_have_records=True), number + 1))
            else:
                failed[plan.shard] = result.error
            if result.report is not None or plan.shard in failed:
                alone.discard(plan.shard)
            submit()
    except BaseException:
        _stop(client, list(running))
        raise
    return failed


def _logs(plan: ShardPlan) -> Path:
    return Path(plan.folders.work_dir, LOGS)


def _report_deaths(plan: ShardPlan, stderr: str) -> None:
    """Log what the processes that died on a shard wrote to standard error, and warn with the log file's path."""
    log = write_log(_logs(plan), "process-died", f"stage {plan.stage}, shard {plan.shard}\n\n{stderr}")
    where = log or stderr  # show the text itself if no log file can be written
    _logger.warning("%s: a process died on shard %d; the end of its standard error: %s", plan.stage, plan.shard, where)


class _Workers:
    """The workers of a cluster, which may join and leave at any time; asked for at most once per ``ASK_SECONDS``."""

    def __init__(self, client: Client, on_join: Callable[[list[str]], None]) -> None:
        self._client, self._on_join = client, on_join
        self._threads, self._asked = 0, -math.inf
        self._known: set[str] = set()
        self._seen = self._replaced = time.monotonic()

    def threads(self) -> int:
        """The number of their threads; ``RunError`` if there has been none for ``JOIN_SECONDS``."""
        now = time.monotonic()
        if now - self._asked > ASK_SECONDS:
            current = self._client.nthreads()
            self._asked, self._threads = now, sum(current.values())
            if new := sorted(current.keys() - self._known):
                self._on_join(new)
            self._known = set(current)
            if self._threads:
                self._seen = now
            elif now - self._seen > JOIN_SECONDS:
                raise RunError("no Dask worker is left; completed work is kept, run the same command again")
        if now - self._replaced > CHECK_SECONDS:
            self._replaced = now
            _replace_failed_workers(self._client)
        return self._threads


def _replace_failed_workers(client: Client) -> None:
    """Replace workers of a local cluster whose nanny gave up, for example because they were killed while starting."""
    cluster = client.cluster
    if isinstance(cluster, distributed.LocalCluster):

        def replace_failed() -> None:
            for name, nanny in list(cluster.workers.items()):
                if nanny.status in (distributed.Status.closed, distributed.Status.failed):
                    del cluster.workers[name]
            cluster.scale(len(cluster.worker_spec))

        assert cluster.loop is not None
        cluster.loop.add_callback(replace_failed)


def _attempt_of(future: distributed.Future) -> Attempt:
    """The result of a finished future; errors of Dask, such as a dead worker, become a failed attempt."""
    try:
        result: Attempt = future.result()
    except distributed.KilledWorker:
        return Attempt(error="its worker died each time (killed from outside, or out of memory)", died=True)
    except Exception as error:  # from Dask: shown to the user if the last attempt fails
        return Attempt(error=one_line(error))
    return result


def _stop(client: Client, futures: Sequence[distributed.Future]) -> None:
    """Close a local cluster; on a remote one, cancel the shards that have not started and wait for the others."""
    if isinstance(client.cluster, distributed.LocalCluster):
        client.cluster.close()
        return
    if client.scheduler is None:  # its connection was given up
        return
    ended = OSError, TimeoutError, CancelledError  # the scheduler, too: that must not hide the reason for the stop
    with client.as_current(), contextlib.suppress(*ended):
        processing = client.sync(client.scheduler.processing, callback_timeout=STOP_SECONDS)
        started = {key for keys in processing.values() for key in keys}
        client.cancel([future for future in futures if future.key not in started])
        distributed.wait([future for future in futures if future.key in started], timeout=STOP_SECONDS)
