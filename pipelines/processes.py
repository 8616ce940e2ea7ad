"""The process that a run starts in: its loggers, and what its children inherit of it."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator


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
def off_the_terminal(name: str) -> Iterator[None]:
    """Give a logger's lines to its own and its children's handlers only, not to the root's, which print."""
    logger = logging.getLogger(name)
    before = logger.propagate
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = before


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables, and put them back at exit."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
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
