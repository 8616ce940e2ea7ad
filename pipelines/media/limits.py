"""What one clip may cost a process: time and memory. A process that passes its time is ended by the kernel.

Python cannot interrupt a hang inside a video library; an alarm that nobody handles can. Who started the process
sees it die, and finds the clip.
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
"""Bytes that a process may have beside the crops of its shard: ffmpeg, or the decoding of frames of at most
``containers.MAX_PIXELS``. x264's preset ``medium`` takes 0.6 GiB at 4096 × 2304 px."""
FILES, FILES_OF_WORKER = 40, 12
"""Open files of a process that has a cluster, and for each worker; measured: 32 and 11."""

ADDRESSES = 2 * 10**9
"""Bytes of addresses that each process of a run needs, its Prefect server the most; measured: 1.5 to 2 GB."""

_lock = threading.Lock()
_ends: dict[object, float] = {}


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """End this process by SIGALRM if the block takes longer; blocks in other threads have their own deadlines."""
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
    """When the alarm goes off for a clip that may take ``time_limit`` seconds: after all that can end it in order."""
    return 1.25 * time_limit + 1


def bound_memory(count: int, pid: int = 0) -> None:
    """Let this process, or the child ``pid``, have no more than ``count`` bytes of data; more raises MemoryError."""
    if not hasattr(resource, "prlimit"):  # Linux only
        return
    _, most = resource.prlimit(pid, resource.RLIMIT_DATA)
    wanted = count if most == resource.RLIM_INFINITY else min(count, most)
    resource.prlimit(pid, resource.RLIMIT_DATA, (wanted, most))


def too_little_for(workers: int) -> str:
    """Why this process may not have what a run with a local cluster needs, in one line; "" if it may.

    Its limit on open files is raised as far as that takes, and as the system allows.
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
