"""Prefect servers that mocrop starts: a child process on loopback that ends with this one.

A temporary server keeps its records in a temporary folder and ignores the user's Prefect settings. The persistent
server of `mocrop serve` uses them and has its own database in Prefect's home, so that its page keeps past runs.
This module does not import Prefect.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO

from data_specs.locations import shown
from pipelines.atomic_files import atomic_write
from pipelines.execution.process_setup import SAFE_PATH, own_python
from pipelines.execution.server_address import LOOPBACK, answers, free_port, held_port, on_loopback, port_of
from pipelines.execution.server_secret import (
    SECRET_FILE,
    enable_hook,
    keep_secret,
    login_link,
    new_secret,
    read_secret,
    secret_path,
    seen_by_the_user_alone,
)

START_SECONDS = 120.0  # in a new home, Prefect's migrations run first: 12 s on two cores
END_SECONDS = 10.0
RESTARTS = 3

DEFAULT_URL = f"http://{LOOPBACK}:4200/api"

_QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
}
_SHORT_LIVED = {  # switches off services that a single run does not need
    "PREFECT_SERVER_API_BLOCKS_REGISTER_ON_START": "false",
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_FOREMAN_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
    "PREFECT_SERVER_UI_ENABLED": "false",
}


_SERVING = """serving {deployment}; the page is {page}; stop with Ctrl-C
In another terminal (relative paths are resolved against {folder}):
    export PREFECT_API_URL={url} PREFECT_PLUGINS_ENABLED=true    # not needed inside the repository
    prefect deployment run {deployment} -p source=UCF-101 -p store=ucf101.zarr --watch
"""


class ServerError(RuntimeError):
    """A Prefect server cannot be started or reached; the message is one line."""


def how_to_start_runs(deployment: str, api_url: str, page: str) -> str:
    """Instructions that `mocrop serve` prints when it is ready; a password in ``api_url`` is hidden."""
    return _SERVING.format(deployment=deployment, url=shown(api_url), page=page, folder=Path.cwd())


def secret_of(api_url: str, home: Path) -> str | None:
    """The password in the file that ``SECRET_FILE`` names, else that of this user's `mocrop serve` at ``api_url``."""
    if file := os.environ.get(SECRET_FILE):
        return Path(file).read_text(encoding="utf-8").strip()
    return read_secret(secret_path(home, port_of(api_url))) if on_loopback(api_url) else None


def page_of(api_url: str, home: Path) -> str:
    """The address of a server's page for display; it includes the password if only the user can see the output."""
    page = shown(api_url).removesuffix("/api")
    path = secret_path(home, port_of(api_url))
    secret = secret_of(api_url, home) if on_loopback(api_url) else None
    if secret is None:
        return page
    return login_link(page, secret) if seen_by_the_user_alone() else f"{page} (its password is in {path})"


@dataclass(slots=True)
class Server:
    """A server started by this process: its API address, database, process and output.

    ``secret`` is the API's "user:password". ``template``, if set, is where the new, empty database is copied, so that
    the next server does not have to create one (4 s).
    """

    api_url: str
    secret: str
    database: Path
    output: IO[bytes]
    start: Callable[[], subprocess.Popen[bytes]]
    process: subprocess.Popen[bytes]
    template: Path | None = None

    def when_ready(self) -> str:
        """Wait until the server answers and return its API address; ``ServerError`` if it ends or does not answer."""
        deadline = time.monotonic() + START_SECONDS
        while not answers(self.api_url):
            if self.process.poll() is not None:
                raise ServerError(f"the Prefect server ended while starting: {self._why()}")
            if time.monotonic() > deadline:
                raise ServerError(f"the Prefect server did not start in {START_SECONDS:g} s: {self._why()}")
            time.sleep(0.2)
        if self.template is not None:
            with contextlib.suppress(OSError, sqlite3.Error):  # without a template, the next server creates its own
                self.template.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(self.template) as part:
                    _copy(self.database, part)
        return self.api_url

    @contextlib.contextmanager
    def kept_running(self, say: Callable[[str], None]) -> Iterator[None]:
        """Restart the server with its records whenever it ends (killed from outside, or out of memory).

        If it ends more than ``RESTARTS`` times, this process exits immediately with status 1: without its server,
        Prefect would hang for minutes.
        """
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(over, say), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def _watch(self, over: threading.Event, say: Callable[[str], None]) -> None:
        for restart in range(RESTARTS + 1):
            while self.process.poll() is None:
                if over.wait(0.1):
                    return
            ended = f"the run's own Prefect server ended (status {self.process.returncode})"
            if restart < RESTARTS:
                say(f"{ended}; restarting it, the run continues")
                self.process = self.start()
        say(f"{ended} {RESTARTS + 1} times; completed work is kept, run the same command again")
        sys.stderr.flush()
        os._exit(1)

    def stop(self) -> None:
        """End the process, if it still runs."""
        self.process.terminate()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()

    def _why(self) -> str:
        self.output.seek(0)
        output = self.output.read().decode(errors="replace")
        if f"{LOOPBACK}:{port_of(self.api_url)}: {os.strerror(errno.EADDRINUSE)}" in output:
            other = f"PREFECT_API_URL=http://{LOOPBACK}:{free_port()}/api"
            return f"another program uses port {port_of(self.api_url)}; choose another port with {other}"
        if "Can't locate revision" in output:
            return f"its database {self.database} is of a newer Prefect; install that version, or move the file away"
        if "file is not a database" in output or "disk image is malformed" in output:
            return f"its database {self.database} is damaged; move the file away, and a new one is created"
        lines = [line.strip() for line in output.splitlines()]
        return " / ".join([line for line in lines if line][-3:]) or "it printed nothing"


@contextlib.contextmanager
def throwaway() -> Iterator[Server]:
    """Start a temporary server for one run without waiting for it; on exit, stop it and delete its records.

    It ignores the user's settings (``PREFECT_…``, profiles, prefect.toml) and the databases of other servers.
    """
    with tempfile.TemporaryDirectory(prefix="mocrop-prefect-") as folder:
        home = Path(folder)
        database = home / "prefect.db"
        kept = {name: os.environ[name] for name in os.environ if not name.startswith(("PREFECT_", "PYTHONWARNINGS"))}
        template = None if _copied(_template(), database) else _template()
        ours = kept | {"PREFECT_HOME": folder} | _SHORT_LIVED
        with held_port() as port, _child(port, new_secret(), database, ours, "--throw-away") as server:
            server.template = template
            yield server


def database_of(home: Path, port: int) -> Path:
    """Database of the persistent server at a port; one each, as servers sharing one miss each other's events."""
    return home / f"mocrop-{port}.db"


@contextlib.contextmanager
def persistent(port: int, home: Path, *, own_database: bool = True, secret: str | None = None) -> Iterator[str]:
    """Yield the API address of the server of `mocrop serve` at a port, with its page and all services.

    If none answers, start one and stop it on exit. Its database is ``database_of(home, port)``, or the one in the
    user's settings if ``own_database`` is false; a lock keeps two servers from migrating it at the same time. Its
    password is ``secret`` or a new one, stored where Prefect's commands find it. Raises ``ServerError`` if it cannot
    be started.
    """
    database = database_of(home.absolute(), port)
    environment = dict(os.environ)
    if own_database:
        environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = f"sqlite+aiosqlite:///{database}"
        environment.pop("PREFECT_API_DATABASE_CONNECTION_URL", None)
    secret = secret or new_secret()
    api_url = f"http://{LOOPBACK}:{port}/api"
    with contextlib.ExitStack() as stack:
        with _locked(database.with_suffix(".lock")):
            if not answers(api_url):
                server = stack.enter_context(_child(port, secret, database, environment))
                server.when_ready()
                stack.enter_context(keep_secret(secret_path(home, port), secret))
                enable_hook(home)
        yield api_url


def _template() -> Path:
    """Path of the cached empty database of the installed Prefect version."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "mocrop", f"prefect-{version('prefect')}.db")


def _copied(template: Path, database: Path) -> bool:
    """Copy the empty database; return False if it is missing or damaged."""
    try:
        _copy(template, database)
    except (OSError, sqlite3.Error):
        database.unlink(missing_ok=True)
        return False
    return True


def _copy(source: Path, target: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as old,
        contextlib.closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)
        new.execute("PRAGMA journal_mode = DELETE")  # a single file that can be read from a read-only folder
        if new.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise sqlite3.DatabaseError(f"{source} is damaged")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        raise ServerError(
            f"the Prefect server's folder {path.parent} cannot be written ({error.strerror}); "
            "name another in PREFECT_HOME"
        ) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _child(port: int, secret: str, database: Path, environment: dict[str, str], *flags: str) -> Iterator[Server]:
    """Start a server process and stop it on exit.

    It runs in a new session, so that Ctrl-C reaches only this process, and ends when its standard input closes, which
    the system ensures even if this process is killed. It accepts no requests from web pages other than its own.
    """
    address = f"http://{LOOPBACK}:{port}"
    guarded = {
        "PREFECT_SERVER_API_AUTH_STRING": secret,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"{address},http://localhost:{port}",
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_UI_API_URL": f"{address}/api",
    }
    with tempfile.TemporaryFile() as output:

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                own_python("-m", "pipelines.execution.server_process", LOOPBACK, f"{port}", "--child", *flags),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=database.parent if flags else None,
                env=environment | guarded | _QUIET | SAFE_PATH,
                start_new_session=True,
            )

        server = Server(f"{address}/api", secret, database, output, start, start())
        try:
            yield server
        finally:
            server.stop()
