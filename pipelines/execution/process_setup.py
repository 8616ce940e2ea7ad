"""The process that a run starts in: its loggers, and what its children inherit of it."""

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
"""The environment variable that keeps the current folder off the module path of every Python started under it."""


def own_python(*words: str) -> list[str]:
    """The command that runs this Python with ``words``, without the current folder on its module path."""
    return [sys.executable, "-P", *words]


def warn_only() -> None:
    """Let warnings be warnings, here and in children, where ``PYTHONWARNINGS`` or ``-W`` makes them errors.

    Libraries warn while they are imported.
    """
    if any(action == "error" for action, *_ in warnings.filters):
        warnings.filters[:] = [entry for entry in warnings.filters if entry[0] != "error"]  # type: ignore[index]
        sys.warnoptions[:] = [option for option in sys.warnoptions if not option.startswith("e")]
        warnings.simplefilter("default", append=True)  # what is done anyway, and makes the change known
        os.environ.pop("PYTHONWARNINGS", None)


@contextlib.contextmanager
def bare_main() -> Iterator[None]:
    """Keep new processes from importing the program that started us: Prefect costs each a second and 100 MB."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def no_collections() -> Iterator[None]:
    """Import large libraries without garbage collections, which find nothing then and cost a quarter of the time.

    What was made meanwhile is not looked at again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextlib.contextmanager
def stderr_held_back() -> Iterator[None]:
    """Keep what is written to standard error until the block ends well: each line is then written once.

    The file descriptor is another one meanwhile, not the stream, which loggers made in the block go on using.
    """
    with tempfile.TemporaryFile() as held:
        before = os.dup(2)
        try:
            os.dup2(held.fileno(), 2)
            yield
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
        held.seek(0)
        for line in dict.fromkeys(held.read().decode(errors="replace").splitlines()):
            print(line, file=sys.stderr)


@contextlib.contextmanager
def off_the_terminal(name: str, *, silent: str) -> Iterator[None]:
    """Give a logger's lines to its own and its children's handlers only, and those of ``silent`` to nobody.

    Not to the root's handlers, nor to those that logging has in reserve, which print. What handlers cannot deliver
    is not told either.
    """
    logger, other, nobody = logging.getLogger(name), logging.getLogger(silent), logging.NullHandler()
    before = logger.propagate, other.disabled, logging.raiseExceptions
    logger.addHandler(nobody)
    logger.propagate, other.disabled, logging.raiseExceptions = False, True, False
    try:
        yield
    finally:
        logger.removeHandler(nobody)
        logger.propagate, other.disabled, logging.raiseExceptions = before


@contextlib.contextmanager
def environment(**values: str | None) -> Iterator[None]:
    """Set environment variables (None: unset), and put them back at exit."""
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
    """Put every environment variable back at exit: Dask leaves in ours what it sets for its workers."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def sigterm_exits() -> Iterator[None]:
    """Let SIGTERM end this process by way of every ``finally``, as Ctrl-C does; in the main thread only."""
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
    """Put Ctrl-C off until the end: what is half started cannot be ended in order."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
