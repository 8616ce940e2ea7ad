"""The flow ``preprocess-ucf101``: Prefect records the run, Dask does the work.

Only this module and `flow_runs` import Prefect.

    stage ── one Prefect task ──▶ its pending shards ── Dask, one single-threaded process per core ──▶ reports

There is one Prefect task per stage (one for all stages with ``discard_h264``), not per shard or clip: a Prefect task
costs a hundred times as much as a Dask task, and the Prefect server drops records beyond about 2,000. Pending shards
are determined from the store alone, so that a killed run resumes where it stopped; Prefect's own caching and result
files are off.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Annotated, Any, cast

os.environ.setdefault("DO_NOT_TRACK", "1")  # Prefect reads it on import
os.environ.setdefault("HOME", os.path.expanduser("~").replace("~", "/nonexistent"))  # Prefect fails without one

import httpx
from prefect import flow, get_run_logger, task
from prefect.artifacts import (
    create_image_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectException
from prefect.states import Completed, Failed
from pydantic import Field

from data_specs.locations import SAFE, without_passwords
from data_specs.recipes import Recipe
from data_specs.resources import lack_of_memory, usable_cores
from data_specs.stored import StoreError, open_store, shown
from pipelines.errors import RunError, RunStopped
from pipelines.execution import prefect_server
from pipelines.execution.dask_cluster import ATTEMPTS, Client, check_workers, dask_client, map_shards
from pipelines.execution.deployment_alias import FLOW
from pipelines.execution.worker import attempt, one_line
from pipelines.internal_errors import internal_error, record
from pipelines.media.limits import too_little_for
from pipelines.report.clip_reader import ClipReader
from pipelines.report.contact_sheet import about_sheet, contact_sheet, data_url
from pipelines.runs import outcome
from pipelines.runs.addresses import check_addresses
from pipelines.runs.opening import open_run
from pipelines.runs.options import Options, Request
from pipelines.runs.run import Run
from pipelines.stages.tasks import DOES, ShardReport
from pipelines.store.summary import Summary

Location = Annotated[str, Field(pattern=SAFE)]
"""A path or address without secrets: the Prefect server stores and shows parameters."""

FOLDER = "MOCROP_SERVE_FOLDER"  # environment variable: the folder that a served run resolves relative paths against
ARTIFACT_SECONDS = 2.0  # between two updates of a stage's progress artifact

OnProgress = Callable[[str, int, int, ShardReport | None], None]
"""Called with the stage, its clips done so far, its total clips, and the finished shard's report (None at first)."""


def no_progress(stage: str, done: int, total: int, report: ShardReport | None) -> None:
    """Ignore progress."""


@dataclass(slots=True)
class _Progress:
    """Progress of a stage: passed to the caller immediately, and to Prefect's page every ``ARTIFACT_SECONDS``."""

    stage: str
    done: int
    total: int
    on_progress: OnProgress
    reports: list[ShardReport] = field(default_factory=list)
    artifact: uuid.UUID | None = None
    updated: float = 0.0

    def add(self, report: ShardReport) -> None:
        self.reports.append(report)
        self.done += report.clips
        self.on_progress(self.stage, self.done, self.total, report)
        if time.monotonic() - self.updated >= ARTIFACT_SECONDS:
            self.update_artifact()

    def update_artifact(self) -> None:
        """Create or update the progress artifact; skip this update if the server does not answer."""
        self.updated = time.monotonic()
        percent, text = 100 * self.done / max(1, self.total), f"{DOES[self.stage]}: {self.done} of {self.total} clips"
        with contextlib.suppress(httpx.HTTPError, RuntimeError):
            if self.artifact is None:
                self.artifact = cast(uuid.UUID, create_progress_artifact(percent, f"{FLOW}-{self.stage}", text))
            else:
                update_progress_artifact(self.artifact, percent, text)


def run_stage(run: Run, stage: str, client: Client, on_progress: OnProgress) -> None:
    """Process the pending shards of a stage as one Prefect task; ``RunError`` if a shard failed in all attempts."""
    plans = run.pending(stage)
    total = len(run.dataset.clips)
    progress = _Progress(stage, total - sum(len(plan.clips) for plan in plans), total, on_progress)
    name = f"{stage}: {len(plans)} of {run.num_shards} shards to do"

    def add(report: ShardReport) -> None:
        run.lock.check()
        run.finished(report)
        progress.add(report)

    def on_death() -> None:
        run.unclean = True

    def on_join(addresses: list[str]) -> None:
        if run.options.dask_address:
            check_workers(client, run, addresses)

    @task(name=stage, description=DOES[stage], task_run_name=name, cache_policy=NO_CACHE, persist_result=False)
    def do_shards() -> State[Any]:
        on_progress(stage, progress.done, total, None)
        progress.update_artifact()
        work = partial(attempt, recipe=run.recipe)
        try:
            failed = map_shards(client, plans, work, add, on_death, on_join) if plans else {}
        except (RunError, StoreError, OSError) as error:
            return Failed(message=str(error))
        except Exception as error:  # a bug in our own code, in this process rather than in a worker
            return Failed(message=_recorded(error, run.options, f"stage {stage}"))
        finally:
            run.add_seconds(progress.reports)
        progress.update_artifact()
        for shard, why in failed.items():
            get_run_logger().error("%s: shard %d failed %d times: %s", stage, shard, ATTEMPTS, why)
        return Failed(message=outcome.failed_shards(stage, failed, ATTEMPTS)) if failed else Completed()

    state = do_shards(return_state=True)
    if not state.is_completed():
        raise RunError(state.message or f"{stage}: {state.name}")


def _await_server() -> None:
    """Wait until the run's own server answers; it may have been restarted."""
    here = OPENED.get()
    if here is not None and here.server is not None:
        with one_line_errors():
            here.server.when_ready()


def build(run: Run, client: Client, on_progress: OnProgress) -> Summary:
    """Run all stages, or one pass, then write the store's tables and the artifacts, also if a stage fails."""
    logger = get_run_logger()
    for warning in run.warnings:
        logger.warning(warning)
    for notice in run.notices:
        logger.info(notice)
    logger.info("%d clips of %s into %s", len(run.dataset.clips), run.folders.source, shown(run.location))
    try:
        for stage in run.passes:
            _await_server()
            run_stage(run, stage, client, on_progress)
    except (RunError, StoreError):
        with contextlib.suppress(OSError, StoreError):  # may fail for the same reason, which is reported below
            run.read_again()
            show_result(run, run.summary())
            run.publish()
            show_boxes(run)
        raise
    summary = run.publish()
    _await_server()
    show_result(run, summary)
    show_boxes(run)
    return summary


def show_result(run: Run, summary: Summary) -> None:
    """Publish a run's result table on Prefect's page."""
    create_table_artifact(
        outcome.table(summary, run.dataset.passed_over), f"{FLOW}-result", outcome.in_one_line(summary)
    )


def show_boxes(run: Run) -> None:
    """Publish a contact sheet of the boxes on Prefect's page; log a warning if it cannot be drawn."""
    try:
        store = open_store(run.location)
        store.ids = run.ids  # as in the table, which is not read again
        reader = ClipReader(store, published=True)
        sheet = contact_sheet(reader)
        if sheet is not None:
            create_image_artifact(data_url(sheet), f"{FLOW}-contact-sheet", about_sheet(reader))
    except Exception as error:  # the picture is optional: it must not fail the run
        get_run_logger().warning("no contact sheet: %s", one_line(error))


def check_limits(options: Options | None = None) -> None:
    """Raise ``RunError`` if this process may not open as many files, or use as much memory, as a run needs."""
    workers = (options.workers if options else None) or usable_cores()
    if problem := too_little_for(0 if options and options.dask_address else workers):
        raise RunError(problem)


@contextlib.contextmanager
def opened(options: Options, request: Request | None = None) -> Iterator[tuple[Run, Client]]:
    """Open a run and its cluster; on exit the cluster is closed before the store's lock is released."""
    check_limits(options)
    with open_run(options, request) as run, dask_client(options.workers, options.dask_address) as client:
        check_workers(client, run)
        yield run, client


@dataclass(slots=True)
class Opened:
    """Resources that ``run_here`` opened for the flow it calls, and the flow's result."""

    run: Run
    client: Client
    on_progress: OnProgress
    server: prefect_server.Server | None
    summary: Summary | None = None


OPENED: ContextVar[Opened | None] = ContextVar("here", default=None)


@flow(name=FLOW, persist_result=False)
def preprocess_ucf101(
    source: Location,
    store: Location,
    splits: Location | None = None,
    recipe: Location | Recipe = "ucf101",
    work_dir: Location | None = None,
    workers: Annotated[int, Field(ge=1)] | None = None,
    dask_address: Location | None = None,
    limit: Annotated[int, Field(ge=1)] | None = None,
    strict: bool = False,
    retry_quarantined: bool = False,
    max_quarantined: Annotated[float, Field(ge=0, le=1)] = 0.05,
    max_missing: Annotated[float, Field(ge=0, le=1)] | None = None,
    clips: Location | None = None,
    class_names: Location | None = None,
    discard_h264: bool = False,
    scratch: Location | None = None,
) -> State[Any]:
    """Preprocess a folder of videos into a store of motion-guided boxes and cached crops; completed work is kept.

    Relative paths are resolved against the folder in which `mocrop serve` was started.

    Args:
        source: folder of the videos, with one subfolder per class unless a clip table is given.
        store: the Zarr store to create or resume: a folder, or an object store's URL (s3://bucket/name).
        splits: folder of the split lists; without it, classes are the subfolders and no clip is in a split.
        recipe: what to build: a recipe's name (ucf101, smoke, demo), a TOML file, or the values themselves.
        work_dir: folder for the H.264 files; STORE.work by default.
        workers: processes of the local Dask cluster; one per core by default.
        dask_address: Dask scheduler to use instead of a local cluster (tcp://host:8786). This address, and that of a
            store, must be among those that `mocrop serve --allow` names.
        limit: process only this many clips, spread evenly over the ids.
        strict: refuse split lists that name missing clips.
        retry_quarantined: process quarantined clips again.
        max_quarantined: fraction of the clips, 0 to 1, that may be quarantined before the run counts as failed.
        max_missing: fraction of its frames, 0 to 1, that a clip may lack; overrides the recipe's.
        clips: clip table (CSV or JSON Lines) with the path, label and parts of each clip; replaces splits.
        class_names: text file with the clip table's class names, one per line; labels may then be indices into it.
        discard_h264: do all stages of a shard in one task on the worker's own disk, and keep no H.264 files; workers
            then share only the source folder and the store.
        scratch: existing folder on the workers' machines for those H.264 files; that for temporary files by default.
    """
    given = dict(locals())
    here = OPENED.get()
    try:
        options = Options(**{option.name: given[option.name] for option in fields(Options)})
        if folder := os.environ.get(FOLDER):
            os.chdir(folder)
        if here is not None:
            summary = here.summary = build(here.run, here.client, here.on_progress)
        else:
            check_addresses(options)
            with opened(options) as (run, client):
                summary = build(run, client, no_progress)
    except (RunError, RunStopped, StoreError, OSError) as error:
        problem: str | None = str(error)
    except Exception as error:  # a bug in our own code
        problem = _recorded(error, options, "")
    else:
        problem = outcome.too_many_quarantined(summary, max_quarantined)
    if problem:
        problem = without_passwords(problem)
        get_run_logger().error(problem)
        return Failed(message=problem)
    get_run_logger().info(outcome.in_one_line(summary))
    return Completed(message=outcome.in_one_line(summary))


def _recorded(error: Exception, options: Options, where: str) -> str:
    """Log the traceback of a bug in our own code and return one line about it; re-raise Prefect's errors."""
    if isinstance(error, (PrefectException, httpx.HTTPError)):
        raise error
    return lack_of_memory(error) or record(internal_error(error), options.log_folder(), where)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    try:
        yield
    except prefect_server.ServerError as error:
        raise RunError(str(error)) from None
