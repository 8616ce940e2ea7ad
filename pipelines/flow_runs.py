"""Starting the flow: as one run in this process, or as a deployment served for `prefect deployment run`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from typing import cast

import httpx
import prefect
from prefect.context import refresh_global_settings_context
from prefect.deployments.runner import RunnerDeployment
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogHandler
from prefect.settings import get_current_settings, temporary_settings
from prefect.types.entrypoint import EntrypointType

from data_specs.stored import shown
from pipelines.errors import RunError
from pipelines.execution import prefect_server, proxies, server_address
from pipelines.execution.deployment_alias import DEPLOYMENT, FLOW
from pipelines.execution.process_setup import SAFE_PATH, environment, off_the_terminal, sigterm_exits
from pipelines.flow import (
    FOLDER,
    OPENED,
    OnProgress,
    Opened,
    check_limits,
    no_progress,
    one_line_errors,
    opened,
    preprocess_ucf101,
)
from pipelines.runs import outcome
from pipelines.runs.addresses import ALLOWED
from pipelines.runs.options import Options, Request
from pipelines.store.summary import Summary


def run_here(
    options: Options, on_progress: OnProgress = no_progress, *, verbose: bool = False, request: Request | None = None
) -> Summary:
    """Run the flow in this process, recorded by the configured Prefect server or by a temporary one.

    ``request`` is as in `open_run`. A configured server on loopback that does not answer is replaced by a temporary
    one. Raises ``RunError`` if the run is refused or fails. On KeyboardInterrupt the workers end first; completed work
    is kept.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(sigterm_exits())
        check_limits(options)  # before a server is started
        url = get_current_settings().api.url
        child = None if server_address.usable(url) else stack.enter_context(prefect_server.throwaway())
        run, client = stack.enter_context(opened(options, request))
        with one_line_errors():
            api_url = child.when_ready() if child else str(url)
        stack.enter_context(_prefect_at(api_url, child.secret if child else None))
        if child:
            stack.enter_context(child.kept_running(partial(print, file=sys.stderr, flush=True)))
        if not verbose:
            stack.enter_context(off_the_terminal("prefect", silent="prefect._internal.concurrency"))
        here = Opened(run, client, on_progress, child)
        stack.callback(OPENED.reset, OPENED.set(here))
        stack.enter_context(temporary_settings({"flows.heartbeat_frequency": None}))  # delays the end by 1 s
        parameters = {option.name: getattr(options, option.name) for option in fields(options)}
        try:
            state = preprocess_ucf101(**parameters, return_state=True)
        except (RuntimeError, httpx.HTTPError) as error:  # Prefect's own: errors of the flow are in its state
            ours = "it belongs to this run; completed work is kept, run the same command again"
            remedy = ours if child else f"correct or unset PREFECT_API_URL {shown(str(url))!r}"
            raise RunError(f"{_why_unrecorded(error)}; {remedy}") from None
        if here.summary is not None and state.is_completed():
            return here.summary
        problem = state.message or f"the run ended as {state.name}"
        raise outcome.TooManyQuarantined(problem, here.summary) if here.summary else RunError(problem)


def _why_unrecorded(error: Exception) -> str:
    """Why Prefect cannot record a run, without Prefect's own message, which may quote an address with a password."""
    answer = f" (status {error.response.status_code})" if isinstance(error, httpx.HTTPStatusError) else ""
    return f"the Prefect server cannot be reached or refuses{answer}"


@contextlib.contextmanager
def _prefect_at(url: str, secret: str | None = None, **settings: str | None) -> Iterator[None]:
    """Point Prefect at a server, in every thread and child process; flush its events and logs on exit.

    The password is ``secret``, else the one that a server of this user at the address has stored, else the one in the
    user's settings.
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


def _have_server(stack: contextlib.ExitStack, port: int) -> str:
    """The API address of the persistent server at a port; start the server if it is not running."""
    settings = get_current_settings()
    database, auth = settings.server.database.connection_url, settings.server.api.auth_string
    own = database is None or database.get_secret_value() == f"sqlite+aiosqlite:///{settings.home}/prefect.db"
    secret = auth.get_secret_value() if auth else None
    with one_line_errors():
        return stack.enter_context(prefect_server.persistent(port, settings.home, own_database=own, secret=secret))


def serve(say: Callable[[str], None] = print, allow: Sequence[str] = ()) -> None:
    """Serve the deployment until SIGINT or SIGTERM, starting a Prefect server on loopback if none answers.

    Runs may open local paths and the addresses in ``allow``: object stores and Dask schedulers. The server is a child
    of this process and ends with it. Raises ``RunError`` if it cannot be started.
    """
    url = get_current_settings().api.url or prefect_server.DEFAULT_URL
    with contextlib.ExitStack() as stack:
        stack.enter_context(sigterm_exits())
        check_limits()
        if not server_address.usable(url):
            say(f"starting a Prefect server at {shown(url)}; the first start on a machine takes about 15 s")
            url = _have_server(stack, server_address.port_of(url))
        polling = os.environ.get("PREFECT_RUNNER_POLL_FREQUENCY", "2")
        home = get_current_settings().home.absolute()
        allowed = " ".join([*os.environ.get(ALLOWED, "").split(), *allow])
        ours = {"PREFECT_RUNNER_POLL_FREQUENCY": polling, "PREFECT_HOME": str(home)}
        stack.enter_context(_prefect_at(url, **ours, **SAFE_PATH, **{FOLDER: os.getcwd(), ALLOWED: allowed}))
        logging.getLogger("prefect").setLevel(logging.WARNING)
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it logs the tasks that SIGTERM interrupts
        say(prefect_server.how_to_start_runs(DEPLOYMENT, url, prefect_server.page_of(url, home)))
        # Prefect puts the current folder first on the module path when it imports the flow: give it an empty one
        stack.enter_context(contextlib.chdir(stack.enter_context(tempfile.TemporaryDirectory(prefix="mocrop-serve-"))))
        warnings.filterwarnings("ignore", "coroutine 'Runner.astop'", RuntimeWarning)  # from Prefect's SIGTERM handler
        name = DEPLOYMENT.removeprefix(f"{FLOW}/")
        deployment = preprocess_ucf101.to_deployment(name, entrypoint_type=EntrypointType.MODULE_PATH)
        prefect.serve(cast(RunnerDeployment, deployment), limit=1, print_starting_message=False)
