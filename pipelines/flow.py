"""The flow ``preprocess-ucf101``: Prefect keeps the record, Dask does the work. Only this imports Prefect.

    stage ── one Prefect task ──▶ its pending shards ── Dask, one single-threaded process a core ──▶ reports

A task a stage, and not a task a shard or a clip: a Prefect task costs a hundred times what a Dask one does, and
its server drops records above some 2,000. Which shards are pending is read from the store alone, so that a run
that was killed goes on where it stopped; Prefect's own caching and result files are off.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Annotated, Any, cast

os.environ.setdefault("DO_NOT_TRACK", "1")  # Prefect reads it when it is imported
os.environ.setdefault("HOME", os.path.expanduser("~").replace("~", "/nonexistent"))  # it ends where there is none

import httpx
import prefect
from prefect import flow, get_run_logger, task
from prefect.artifacts import (
    create_image_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import refresh_global_settings_context
from prefect.deployments.runner import RunnerDeployment
from prefect.events.worker import EventsWorker
from prefect.exceptions import PrefectException
from prefect.logging.handlers import APILogHandler
from prefect.settings import get_current_settings, temporary_settings
from prefect.states import Completed, Failed
from prefect.types.entrypoint import EntrypointType
from pydantic import Field

from data_specs.locations import SAFE, without_passwords
from data_specs.recipes import Recipe
from data_specs.resources import lack_of_memory, usable_cores
from data_specs.stored import StoreError, open_store, shown
from pipelines.errors import RunError, RunStopped
from pipelines.execution import prefect_server, proxies
from pipelines.execution.dask_cluster import ATTEMPTS, Client, check_workers, dask_client, map_shards
from pipelines.execution.deployment_alias import DEPLOYMENT, FLOW
from pipelines.execution.process_setup import SAFE_PATH, environment, off_the_terminal, sigterm_exits
from pipelines.execution.worker import attempt, one_line
from pipelines.internal_errors import internal_error, record
from pipelines.media.limits import too_little_for
from pipelines.report.clip_reader import ClipReader
from pipelines.report.contact_sheet import about_sheet, contact_sheet, data_url
from pipelines.runs import outcome
from pipelines.runs.addresses import ALLOWED, check_addresses
from pipelines.runs.run import Options, Run, open_run
from pipelines.stages.shard_task import DOES, STAGES, ShardReport
from pipelines.store.records import Summary

Location = Annotated[str, Field(pattern=SAFE)]
"""A path or an address that holds no secret: a server keeps parameters and shows them."""

FOLDER = "MOCROP_SERVE_FOLDER"  # tells a served run the folder that relative paths are taken from
ARTIFACT_SECONDS = 2.0  # between two updates of a stage's progress artifact

OnProgress = Callable[[str, int, int, ShardReport | None], None]
"""Called with a stage, its clips done so far, all its clips, and the report of the shard just done (first None)."""


def no_progress(stage: str, done: int, total: int, report: ShardReport | None) -> None:
    """Draw nothing."""


@dataclass(slots=True)
class _Progress:
    """A stage's progress: told to the caller at once, and to Prefect's page every two seconds."""

    stage: str
    done: int
    total: int
    on_progress: OnProgress
    reports: list[ShardReport] = field(default_factory=list)
    artifact: uuid.UUID | None = None
    told: float = 0.0

    def add(self, report: ShardReport) -> None:
        self.reports.append(report)
        self.done += report.clips
        self.on_progress(self.stage, self.done, self.total, report)
        if time.monotonic() - self.told >= ARTIFACT_SECONDS:
            self.tell()

    def tell(self) -> None:
        """Make the artifact, or bring it up to date; a server that does not answer just now is not told."""
        self.told = time.monotonic()
        percent, words = 100 * self.done / max(1, self.total), f"{DOES[self.stage]}: {self.done} of {self.total} clips"
        with contextlib.suppress(httpx.HTTPError, RuntimeError):
            if self.artifact is None:
                self.artifact = cast(uuid.UUID, create_progress_artifact(percent, f"{FLOW}-{self.stage}", words))
            else:
                update_progress_artifact(self.artifact, percent, words)


def run_stage(run: Run, stage: str, client: Client, on_progress: OnProgress) -> None:
    """Do what is left of a stage, as one Prefect task; ``RunError`` if shards failed for good."""
    plans = run.pending(stage)
    total = len(run.dataset.clips)
    progress = _Progress(stage, total - sum(len(plan.clips) for plan in plans), total, on_progress)
    name = f"{stage}: {len(plans)} of {run.num_shards} shards to do"

    def add(report: ShardReport) -> None:
        run.lease.check()
        progress.add(report)

    @task(name=stage, description=DOES[stage], task_run_name=name, cache_policy=NO_CACHE, persist_result=False)
    def do_shards() -> State[Any]:
        on_progress(stage, progress.done, total, None)
        progress.tell()
        work = partial(attempt, recipe=run.recipe)
        try:
            failed = map_shards(client, plans, work, add) if plans else {}
        except (RunError, StoreError, OSError) as error:
            return Failed(message=str(error))
        except Exception as error:  # our own code's, here and not in a worker
            return Failed(message=_recorded(error, run.options, f"stage {stage}"))
        finally:
            run.add_seconds(progress.reports)
        progress.tell()
        for shard, why in failed.items():
            get_run_logger().error("%s: shard %d failed %d times: %s", stage, shard, ATTEMPTS, why)
        return Failed(message=outcome.failed_shards(stage, failed, ATTEMPTS)) if failed else Completed()

    state = do_shards(return_state=True)
    if not state.is_completed():
        raise RunError(state.message or f"{stage}: {state.name}")


def _await_server() -> None:
    """Wait until the run's own server answers, which may have been started again."""
    here = _HERE.get()
    if here is not None and here.server is not None:
        with _one_line():
            here.server.when_ready()


def build(run: Run, client: Client, on_progress: OnProgress) -> Summary:
    """All stages of a run, then the store's tables and the artifacts; these of what is there, too, if a stage fails."""
    logger = get_run_logger()
    for warning in run.warnings:
        logger.warning(warning)
    for notice in run.notices:
        logger.info(notice)
    logger.info("%d clips of %s into %s", len(run.dataset.clips), run.folders.source, shown(run.location))
    try:
        for stage in STAGES:
            _await_server()
            run_stage(run, stage, client, on_progress)
    except (RunError, StoreError):
        with contextlib.suppress(OSError, StoreError):  # what stopped the stage may stop this too, and is told already
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
    """Put the table of a run on Prefect's page."""
    create_table_artifact(
        outcome.table(summary, run.dataset.passed_over), f"{FLOW}-result", outcome.in_one_line(summary)
    )


def show_boxes(run: Run) -> None:
    """Put a contact sheet of the boxes on Prefect's page; a picture that cannot be made is a warning there."""
    try:
        reader = ClipReader(open_store(run.location))
        sheet = contact_sheet(reader)
        if sheet is not None:
            create_image_artifact(data_url(sheet), f"{FLOW}-contact-sheet", about_sheet(reader))
    except Exception as error:  # of the picture, which is no part of what was asked for
        get_run_logger().warning("no contact sheet: %s", one_line(error))


def _check_limits(options: Options | None = None) -> None:
    """``RunError`` if this process may not open the files, or have the memory, that a run needs."""
    workers = (options.workers if options else None) or usable_cores()
    if problem := too_little_for(0 if options and options.dask_address else workers):
        raise RunError(problem)


@contextlib.contextmanager
def opened(options: Options) -> Iterator[tuple[Run, Client]]:
    """A run and its cluster, which is gone before the store's lock is."""
    _check_limits(options)
    with open_run(options) as run, dask_client(options.workers, options.dask_address) as client:
        check_workers(client, run)
        yield run, client


@dataclass(slots=True)
class _Here:
    """What ``run_here`` has opened for the flow that it calls, and what came of it."""

    run: Run
    client: Client
    on_progress: OnProgress
    server: prefect_server.Server | None
    summary: Summary | None = None


_HERE: ContextVar[_Here | None] = ContextVar("here", default=None)


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
) -> State[Any]:
    """Turn a folder of videos into a store of motion-guided boxes and cached crops; what is done already is kept.

    Relative paths are taken from the folder in which `mocrop serve` was started.

    Args:
        source: folder of the videos, with one folder a class in it.
        store: the Zarr store to make or to go on with: a folder, or an object store's URL (s3://bucket/name).
        splits: folder of the split lists; without it, classes are the folders and no clip is in a split.
        recipe: what to build: a recipe's name (ucf101, smoke), a TOML file, or the values themselves.
        work_dir: folder for the H.264 files; beside the store by default.
        workers: processes of the local Dask cluster; one a core by default.
        dask_address: a Dask scheduler to send the work to (tcp://host:8786), in place of a local cluster. Addresses,
            of stores too, must be among those that `mocrop serve --allow` names.
        limit: only so many clips, spread evenly over the ids.
        strict: refuse split lists that name clips which are not there.
        retry_quarantined: try clips again that were quarantined before.
        max_quarantined: share of the clips, 0 to 1, above which the run counts as failed.
        max_missing: share of its frames, 0 to 1, that a clip may lack, in place of the recipe's.
    """
    given = dict(locals())
    here = _HERE.get()
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
    except Exception as error:  # our own code's
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
    """One line about an error in our own code, once its traceback is in a log file; Prefect's errors are raised."""
    if isinstance(error, (PrefectException, httpx.HTTPError)):
        raise error
    return lack_of_memory(error) or record(internal_error(error), options.log_folder(), where)


def run_here(options: Options, on_progress: OnProgress = no_progress, *, verbose: bool = False) -> Summary:
    """Run the flow in this process, recorded by the Prefect server of the settings or by one that lasts as long.

    A server on loopback that does not answer is done without. ``RunError`` in one line if the run is refused or
    fails; a KeyboardInterrupt ends the workers first, and what is done is kept.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(sigterm_exits())
        _check_limits(options)  # before a server is started
        url = get_current_settings().api.url
        child = None if prefect_server.usable(url) else stack.enter_context(prefect_server.throwaway())
        run, client = stack.enter_context(opened(options))
        with _one_line():
            api_url = child.when_ready() if child else str(url)
        stack.enter_context(_prefect_at(api_url, child.secret if child else None))
        if child:
            stack.enter_context(child.started_again(partial(print, file=sys.stderr, flush=True)))
        if not verbose:
            stack.enter_context(off_the_terminal("prefect", silent="prefect._internal.concurrency"))
        here = _Here(run, client, on_progress, child)
        stack.callback(_HERE.reset, _HERE.set(here))
        stack.enter_context(temporary_settings({"flows.heartbeat_frequency": None}))  # it costs 1 s at the end
        parameters = {option.name: getattr(options, option.name) for option in fields(options)}
        try:
            state = preprocess_ucf101(**parameters, return_state=True)
        except (RuntimeError, httpx.HTTPError) as error:  # Prefect's own: what goes wrong in the flow is in its state
            ours = "it is the run's own; what is done is kept, start the same command again"
            remedy = ours if child else f"correct or unset PREFECT_API_URL {shown(str(url))!r}"
            raise RunError(f"{_why_unrecorded(error)}; {remedy}") from None
        if here.summary is not None and state.is_completed():
            return here.summary
        problem = state.message or f"the run ended as {state.name}"
        raise outcome.TooManyQuarantined(problem, here.summary) if here.summary else RunError(problem)


def _why_unrecorded(error: Exception) -> str:
    """Why Prefect cannot record a run; not in its own words, which may quote an address with a password."""
    answer = f" (status {error.response.status_code})" if isinstance(error, httpx.HTTPStatusError) else ""
    return f"the Prefect server cannot be reached or refuses{answer}"


@contextlib.contextmanager
def _prefect_at(url: str, secret: str | None = None, **settings: str | None) -> Iterator[None]:
    """Prefect's settings, in every thread and child process, with a server's address; sent off at exit.

    The password is ``secret``, or what a server of this user's at the address has left for us, or the user's own.
    """
    ours = {"PREFECT_API_URL": url, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    if secret or (secret := prefect_server.secret_of(url, get_current_settings().home)):
        ours |= {"PREFECT_API_AUTH_STRING": secret, "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "true"}
    with environment(**ours, **proxies.around_loopback(), **settings):
        refresh_global_settings_context()
        try:
            yield
        finally:
            EventsWorker.drain_all(timeout=5)
            APILogHandler().flush()
    refresh_global_settings_context()


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except prefect_server.ServerError as error:
        raise RunError(str(error)) from None


def _have_server(stack: contextlib.ExitStack, port: int) -> str:
    """The address of the lasting server at a port, which is started if there is none."""
    settings = get_current_settings()
    database, auth = settings.server.database.connection_url, settings.server.api.auth_string
    own = database is None or database.get_secret_value() == f"sqlite+aiosqlite:///{settings.home}/prefect.db"
    secret = auth.get_secret_value() if auth else None
    with _one_line():
        return stack.enter_context(prefect_server.lasting(port, settings.home, own_database=own, secret=secret))


def serve(say: Callable[[str], None] = print, allow: Sequence[str] = ()) -> None:
    """Serve the deployment until SIGINT or SIGTERM, with a Prefect server on loopback if none answers.

    Runs may open local paths and the addresses in ``allow``: object stores, and schedulers of Dask clusters.
    ``RunError`` if the server cannot be started. The server is a child of this process and ends with it.
    """
    url = get_current_settings().api.url or prefect_server.DEFAULT_URL
    with contextlib.ExitStack() as stack:
        stack.enter_context(sigterm_exits())
        _check_limits()
        if not prefect_server.usable(url):
            say(f"starting a Prefect server at {shown(url)}; its first start on a machine takes some 15 s")
            url = _have_server(stack, prefect_server.port_of(url))
        polling = os.environ.get("PREFECT_RUNNER_POLL_FREQUENCY", "2")
        home = get_current_settings().home.absolute()
        allowed = " ".join([*os.environ.get(ALLOWED, "").split(), *allow])
        ours = {"PREFECT_RUNNER_POLL_FREQUENCY": polling, "PREFECT_HOME": str(home)}
        stack.enter_context(_prefect_at(url, **ours, **SAFE_PATH, **{FOLDER: os.getcwd(), ALLOWED: allowed}))
        logging.getLogger("prefect").setLevel(logging.WARNING)
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # what SIGTERM interrupts in it
        say(prefect_server.how_to_start_runs(DEPLOYMENT, url, prefect_server.page_of(url, home)))
        # Prefect imports the flow with the current folder first on the path: an empty one, which the flow leaves
        stack.enter_context(contextlib.chdir(stack.enter_context(tempfile.TemporaryDirectory(prefix="mocrop-serve-"))))
        warnings.filterwarnings("ignore", "coroutine 'Runner.astop'", RuntimeWarning)  # its SIGTERM handler's
        name = DEPLOYMENT.removeprefix(f"{FLOW}/")
        deployment = preprocess_ucf101.to_deployment(name, entrypoint_type=EntrypointType.MODULE_PATH)
        prefect.serve(cast(RunnerDeployment, deployment), limit=1, print_starting_message=False)
