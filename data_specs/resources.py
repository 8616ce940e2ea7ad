"""Cores and memory that this process may use: those of the machine, within the limits of its container or service.

Reads Linux control groups, versions 1 and 2, including nested ones: the smallest limit on the path applies.
dask.system.cpu_count reads only one group at fixed paths, and Python's own functions read none.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_ROOT = Path("/")
_ESCAPED = re.compile(r"\\([0-7]{3})")


def usable_cores(root: Path = _ROOT) -> int:
    """The number of cores that this process may use: its affinity, limited by its CPU quota rounded up; at least 1.

    ``root`` is the folder that holds ``proc`` and the mounts of the control groups.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _groups(root, "cpu"):
        quota, period, *_ = (*_numbers(group / "cpu.max"), 0, 0)
        if not quota > 0:  # version 1, -1 without a limit
            quota = next(_numbers(group / "cpu.cfs_quota_us"), -1)
            period = next(_numbers(group / "cpu.cfs_period_us"), 0)
        if quota > 0 and period > 0:
            cores = min(cores, math.ceil(quota / period))
    return max(cores, 1)


def usable_memory(root: Path = _ROOT) -> int | None:
    """Bytes of memory that this process may use: the machine's or the smallest limit; None if both are unknown.

    ``root`` is the folder that holds ``proc`` and the mounts of the control groups.
    """
    sizes = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for group in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            sizes += list(_numbers(group / name))[:1]
    return min((size for size in sizes if size > 0), default=None)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control groups, each before its parent."""
    paths: dict[str, str] = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)  # "" is version 2
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, system = line.partition(" - ")
        kind, _, options = system.split(" ", 2)
        if kind == "cgroup2":
            path = paths.get("", "/")
        elif kind == "cgroup" and controller in options.split(","):
            path = paths.get(controller, "/")
        else:
            continue
        top, place = (_ESCAPED.sub(_unescape, field) for field in mount.split(" ")[3:5])
        # a container may see its own group as the root, while the path starts at the host's
        inside = Path(path).relative_to(top) if Path(path).is_relative_to(top) else Path()
        steps = () if ".." in inside.parts else inside.parts
        for depth in range(len(steps), -1, -1):
            yield root.joinpath(place.lstrip("/"), *steps[:depth])


def _unescape(octal: re.Match[str]) -> str:
    return chr(int(octal[1], 8))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # another operating system, or an unreadable file: the limit is unknown
        return []


def _numbers(path: Path) -> Iterator[int]:
    """The integers at the start of a file; "max" is not one."""
    for word in " ".join(_lines(path)).split():
        if not word.lstrip("-").isdigit():
            return
        yield int(word)


_SPARE = 200 * 10**6  # bytes of address space; if fewer are left, that is why a library could not be loaded
_LACK = re.compile(
    r"failed to map segment|cannot allocate memory|can't allocate memory|not enough memory|out of memory"
    r"|could not create a primitive|can't start new thread",
    re.IGNORECASE,
)


def lack_of_memory(error: BaseException) -> str:
    """A one-line message if an exception was caused by a lack of memory or threads in this process; else ""."""
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, MemoryError) or _LACK.search(str(cause))):
        cause = (
            cause.__cause__ or cause.__context__
        )  # threads that could not be started cannot be stopped in order either
    if cause is None:
        return ""
    limit = address_space()
    allowed = f"; it may have {limit // 10**6} MB of address space (ulimit -v)" if limit else ""
    return f"this process lacks memory or threads ({type(cause).__name__}){allowed}: allow more, or ask for less"


def address_space() -> int | None:
    """This process's limit on its address space, bytes; None without a limit."""
    if resource is None:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def addresses_left() -> int | None:
    """Bytes of address space left to this process; None without a limit, or if unknown."""
    limit = address_space()
    if limit is None:
        return None
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # not Linux
        return None
    return limit - pages * os.sysconf("SC_PAGE_SIZE")


def check_addresses(needed: int) -> None:
    """Raise ``MemoryError`` if less than ``needed`` bytes of address space are left, as libraries would crash."""
    left = addresses_left()
    if left is not None and left < needed:
        raise MemoryError(f"{left // 10**6} MB of address space are left, {needed // 10**6} are needed")


def explain_lack_of_memory() -> None:
    """Under a limit on address space, end this process with one line if a library does not fit within it."""
    if address_space() is None:
        return
    usual = sys.excepthook
    try:
        reserve = mmap.mmap(-1, 64 << 20)  # reserved address space, released for the last steps when nothing is left
    except OSError:
        reserve = mmap.mmap(-1, mmap.PAGESIZE)

    def explained(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        reserve.close()
        left = addresses_left()
        if left is not None and left < _SPARE:  # any exception: libraries, and Python itself, report this in many ways
            error = MemoryError()
        if line := lack_of_memory(error):
            print(f"error: {line}", file=sys.stderr, flush=True)
            os._exit(1)  # exit handlers of libraries would fail in the same way
        usual(kind, error, trace)

    sys.excepthook = explained
