"""Set-up of the process that starts a run: loggers, signals, and the environment of its children."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import tempfile
import threading
import types
import warnings
from collections.abc import Iterator, Mapping

SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""Environment variable that keeps the current folder off the module path of Python child processes."""


def own_python(*words: str) -> list[str]:
    """Command that runs this Python with the arguments ``words``, without the current folder on its module path."""
    return [sys.executable, "-P", *words]


def warn_only() -> None:
    """Undo ``PYTHONWARNINGS=error`` and ``-W error`` for this process and its children.

    Some libraries emit warnings on import.
    """
    if any(action == "error" for action, *_ in warnings.filters):
        warnings.filters[:] = [entry for entry in warnings.filters if entry[0] != "error"]  # type: ignore[index]
        sys.warnoptions[:] = [option for option in sys.warnoptions if not option.startswith("e")]
        warnings.simplefilter("default", append=True)  # the default anyway; resets the cache of seen warnings
        os.environ.pop("PYTHONWARNINGS", None)


@contextlib.contextmanager
def bare_main() -> Iterator[None]:
    """Keep new processes from importing our main program: importing Prefect costs each of them 1 s and 100 MB."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def no_collections() -> Iterator[None]:
    """Disable garbage collection while much is imported or read: it frees nothing and takes a quarter of the time.

    Objects created in the block are excluded from later collections.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextlib.contextmanager
def stderr_held_back() -> Iterator[None]:
    """Hold back standard error until the block succeeds, then print each distinct line once.

    Only the file descriptor is redirected, not the stream, so that loggers created in the block keep working.
    """
    with tempfile.TemporaryFile() as buffer:
        before = os.dup(2)
        try:
            os.dup2(buffer.fileno(), 2)
            yield
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
        buffer.seek(0)
        for line in dict.fromkeys(buffer.read().decode(errors="replace").splitlines()):
            print(line, file=sys.stderr)


@contextlib.contextmanager
def off_the_terminal(name: str, *, silent: str) -> Iterator[None]:
    """Keep the logger ``name`` and its children off the terminal, and switch off the logger ``silent``.

    Records reach the logger's own handlers only, neither the root's nor logging's last resort. Errors in handlers are
    not printed.
    """
    logger, other, null = logging.getLogger(name), logging.getLogger(silent), logging.NullHandler()
    before = logger.propagate, other.disabled, logging.raiseExceptions
    logger.addHandler(null)
    logger.propagate, other.disabled, logging.raiseExceptions = False, True, False
    try:
        yield
    finally:
        logger.removeHandler(null)
        logger.propagate, other.disabled, logging.raiseExceptions = before


@contextlib.contextmanager
def environment(**values: str | None) -> Iterator[None]:
    """Set environment variables (None unsets one) and restore them on exit."""
    before = {name: os.environ.get(name) for name in values}
    set_environment(values)
    try:
        yield
    finally:
        set_environment(before)


def set_environment(values: Mapping[str, str | None]) -> None:
    """Set environment variables of this process; None unsets one."""
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextlib.contextmanager
def environment_restored() -> Iterator[None]:
    """Restore all environment variables on exit: Dask sets its workers' variables in this process, too."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def sigterm_exits() -> Iterator[None]:
    """Make SIGTERM raise ``SystemExit``, so that ``finally`` blocks run, as with Ctrl-C; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit(number: int, frame: types.FrameType | None) -> None:
    sys.exit(128 + number)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Defer Ctrl-C until the end of the block: a half-started cluster cannot be shut down cleanly."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
