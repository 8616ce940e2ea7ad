"""Limits on time and memory per clip. The kernel ends a process that exceeds a clip's time limit.

Python cannot interrupt a hang inside a video library, but an unhandled alarm signal can. The parent process sees the
process die and identifies the clip.
"""

from __future__ import annotations

import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from data_specs.resources import address_space

MEMORY = 2 * 2**30
"""Memory limit in bytes of ffmpeg, and of a decoding process in addition to the crops of its shard; enough for frames
of ``containers.MAX_PIXELS``. x264's preset ``medium`` takes 0.6 GiB at 4096 × 2304 px."""
FILES, FILES_OF_WORKER = 40, 12
"""Open files of a process with a local cluster, and in addition for each worker; measured: 32 and 11."""

ADDRESSES = 2 * 10**9
"""Address space in bytes that each process of a run needs, the Prefect server the most; measured: 1.5 to 2 GB."""

_lock = threading.Lock()
_ends: dict[object, float] = {}


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Kill this process with SIGALRM if the block takes longer; each thread may have its own deadline."""
    mine = object()
    with _lock:
        _ends[mine] = time.monotonic() + seconds
        _set_alarm()
    try:
        yield
    finally:
        with _lock:
            del _ends[mine]
            _set_alarm()


def _set_alarm() -> None:
    first = min(_ends.values(), default=None)
    signal.setitimer(signal.ITIMER_REAL, 0 if first is None else max(first - time.monotonic(), 0.001))


def alarm_seconds(time_limit: float) -> float:
    """Seconds until the alarm for a clip with this time limit: later than the checks that end it without a kill."""
    return 1.25 * time_limit + 1


def bound_memory(count: int, pid: int = 0) -> None:
    """Limit the data segment of this process, or of the child ``pid``, to ``count`` bytes; only on Linux."""
    if not hasattr(resource, "prlimit"):  # Linux only
        return
    _, most = resource.prlimit(pid, resource.RLIMIT_DATA)
    wanted = count if most == resource.RLIM_INFINITY else min(count, most)
    resource.prlimit(pid, resource.RLIMIT_DATA, (wanted, most))


def too_little_for(workers: int) -> str:
    """Why this process's limits are too low for a run with a local cluster, in one line; "" if they suffice.

    The soft limit on open files is raised to what the run needs, if the hard limit allows.
    """
    files = FILES + FILES_OF_WORKER * workers
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < files:
        if hard != resource.RLIM_INFINITY and hard < files:
            return f"at most {hard} open files are allowed (ulimit -n); a run with workers {workers} needs {files}"
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    space = address_space()
    if space is not None and space < ADDRESSES:
        return f"{space // 10**6} MB of address space are allowed (ulimit -v); a run needs {ADDRESSES // 10**6}"
    return ""
