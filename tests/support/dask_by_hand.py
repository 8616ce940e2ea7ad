"""A Dask scheduler and workers on loopback, as a person starts them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

DASK = (sys.executable, "-m", "dask")
Worker = subprocess.Popen[bytes]
StartWorker = Callable[..., Worker]
"""Starts a worker with a name and environment variables of its own."""


@contextmanager
def cluster(folder: Path, workers: int, *options: str) -> Iterator[tuple[str, list[Worker]]]:
    """A scheduler and workers: its address, and the workers' processes."""
    with scheduler(folder, *options) as (address, start):
        yield address, [start(f"worker-{number}") for number in range(workers)]


@contextmanager
def scheduler(folder: Path, *options: str) -> Iterator[tuple[str, StartWorker]]:
    """A scheduler: its address, and a function that starts a worker of it with these options."""
    log = folder / "scheduler.log"
    started: list[Worker] = []

    def start(name: str, **variables: str) -> Worker:
        command = [*DASK, "worker", address, "--nthreads", "1", "--host", "127.0.0.1", "--no-dashboard",
                   "--local-directory", scratch, "--name", name, *options]  # fmt: skip
        with (folder / f"{name}.log").open("wb") as output:
            started.append(
                subprocess.Popen(command, cwd=folder, env=os.environ | variables, stdout=output, stderr=output)
            )
        return started[-1]

    with log.open("wb") as output, tempfile.TemporaryDirectory() as scratch:
        command = [*DASK, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        started.append(subprocess.Popen(command, cwd=folder, stdout=output, stderr=output))
        try:
            address = wait_for(r"tcp://127\.0\.0\.1:\d+", log)
            yield address, start
        finally:
            for process in reversed(started):
                process.send_signal(signal.SIGTERM)
            for process in started:
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:  # one that was still starting may miss the signal
                    process.kill()
                    process.wait()


def wait_for(pattern: str, log: Path) -> str:
    """What a process writes that looks like this."""
    clock = threading.Event()
    for _ in range(600):
        if found := re.search(pattern, log.read_text()):
            return found[0]
        clock.wait(0.1)
    raise AssertionError(log.read_text())
