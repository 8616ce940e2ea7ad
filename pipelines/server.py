"""A Prefect server of our own on loopback: a child process that ends with us. Prefect is not imported here."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from data_specs.locations import shown

LOOPBACK = "127.0.0.1"
START_SECONDS = 120.0  # a fresh home runs Prefect's migrations first: 12 s on two cores
END_SECONDS = 10.0

DEFAULT_URL = f"http://{LOOPBACK}:4200/api"

_QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
}
_SHORT_LIVED = {  # what is only of use while no run is going on
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_FOREMAN_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
    "PREFECT_SERVER_UI_ENABLED": "false",
}


_SERVING = """serving {deployment}; the page is {page}; stop with Ctrl-C
In another terminal (relative paths are taken from {folder}):
    export PREFECT_API_URL={url}    # not needed inside the repository
    prefect deployment run {deployment} -p source=UCF-101 -p store=ucf101.zarr --watch
"""


class ServerError(RuntimeError):
    """A Prefect server that cannot be started or reached: one line with the reason."""


def answers(api_url: str, timeout: float = 2.0) -> bool:
    """Whether a Prefect server answers at ``api_url`` (``http://host:port/api``); no proxy is asked."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{api_url.rstrip('/')}/health", timeout=timeout) as response:
            return json.load(response) is True
    except (OSError, ValueError, HTTPException):
        return False


def usable(api_url: str | None) -> bool:
    """Whether runs can be recorded at ``api_url``: of a server on this machine, whether it answers."""
    if not api_url:
        return False
    return urlsplit(api_url).hostname not in (LOOPBACK, "localhost", "::1") or answers(api_url)


def port_of(api_url: str) -> int:
    """The port in a server's address."""
    return urlsplit(api_url).port or 80


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def how_to_start_runs(deployment: str, api_url: str) -> str:
    """What `mocrop serve` says once it serves a deployment, with the server's address but no password in it."""
    url = shown(api_url)
    return _SERVING.format(deployment=deployment, url=url, page=url.removesuffix("/api"), folder=Path.cwd())


@dataclass(frozen=True, slots=True)
class Server:
    """A server that was started here: its API's address, its process, and what it has written so far."""

    api_url: str
    process: subprocess.Popen[bytes]
    output: IO[bytes]

    def when_ready(self) -> str:
        """The API's address, once the server answers; ``RunError`` with its last words if it never does."""
        deadline = time.monotonic() + START_SECONDS
        while not answers(self.api_url):
            if self.process.poll() is not None:
                raise ServerError(f"the Prefect server ended while starting: {self._last_words()}")
            if time.monotonic() > deadline:
                raise ServerError(f"the Prefect server did not start in {START_SECONDS:g} s: {self._last_words()}")
            time.sleep(0.2)
        return self.api_url

    def _last_words(self) -> str:
        home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
        there = next(folder for folder in (home, *home.parents) if folder.exists())
        if not (there.is_dir() and os.access(there, os.W_OK)):
            return f"its folder {home} cannot be written; name another in PREFECT_HOME"
        self.output.seek(0)
        lines = [line.strip() for line in self.output.read().decode(errors="replace").splitlines()]
        return " / ".join([line for line in lines if line][-3:]) or "it said nothing"


@contextlib.contextmanager
def started(port: int | None = None, *, lasting: bool = False) -> Iterator[Server]:
    """Start a server on loopback (any free port by default) without waiting for it, and end it at exit.

    ``lasting`` servers have the page and all services; others only record a run. The child is in a session of
    its own, so that Ctrl-C reaches only us, and ends when its standard input closes: the system sees to that
    even where we are killed.
    """
    port = port or free_port()
    command = [
        sys.executable,
        "-m",
        "pipelines.server",
        "server",
        "start",
        "--host",
        LOOPBACK,
        "--port",
        f"{port}",
    ]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **_QUIET, **({} if lasting else _SHORT_LIVED)},
            start_new_session=True,
        )
        try:
            yield Server(f"http://{LOOPBACK}:{port}/api", process, output)
        finally:
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdin is not None:
                process.stdin.close()


def _end_with_parent() -> None:
    """Wait until the parent is gone (our standard input closes), then end this process."""
    while os.read(0, 1024):  # not sys.stdin, whose lock this thread would hold at the end
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_SECONDS)
    os._exit(1)


if __name__ == "__main__":  # the child: Prefect's own command line, and a thread that watches for the parent
    threading.Thread(target=_end_with_parent, daemon=True).start()
    gc.set_threshold(100_000, 20, 20)  # while it imports, collections cost a quarter of the time and find nothing
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)
