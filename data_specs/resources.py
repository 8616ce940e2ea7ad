"""Cores and memory that this process may use: the machine's, less what its container or service is limited to.

The control groups of Linux, versions 1 and 2, nested ones included: the smallest limit on the path counts.
dask.system.cpu_count reads one group at fixed places only, and Python's own counts read none.
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
    """Cores that this process may use: those it may run on, at most its CPU quota, rounded up; at least 1.

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
    """Bytes of memory that this process may use: the machine's or the smallest limit; None where neither is known.

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
    """The folders of the control groups that this process is in, each before its parent."""
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
        # a container may see its own group as the top, while the path counts from the host's
        inside = Path(path).relative_to(top) if Path(path).is_relative_to(top) else Path()
        steps = () if ".." in inside.parts else inside.parts
        for depth in range(len(steps), -1, -1):
            yield root.joinpath(place.lstrip("/"), *steps[:depth])


def _unescape(octal: re.Match[str]) -> str:
    return chr(int(octal[1], 8))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # another system, or a file that this process may not read: no limit is known
        return []


def _numbers(path: Path) -> Iterator[int]:
    """The whole numbers at the start of a file; "max" is none."""
    for word in " ".join(_lines(path)).split():
        if not word.lstrip("-").isdigit():
            return
        yield int(word)


_SPARE = 200 * 10**6  # bytes of addresses; with fewer left, that is why a library could not be loaded
_LACK = re.compile(
    r"failed to map segment|cannot allocate memory|can't allocate memory|not enough memory|out of memory"
    r"|could not create a primitive|can't start new thread",
    re.IGNORECASE,
)


def lack_of_memory(error: BaseException) -> str:
    """One line if an exception comes of too little memory or too few threads for this process; "" if it does not."""
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, MemoryError) or _LACK.search(str(cause))):
        cause = cause.__cause__ or cause.__context__  # what could not be started cannot be ended in order either
    if cause is None:
        return ""
    limit = address_space()
    allowed = f"; it may have {limit // 10**6} MB of address space (ulimit -v)" if limit else ""
    return f"this process lacks memory or threads ({type(cause).__name__}){allowed}: allow more, or ask for less"


def address_space() -> int | None:
    """Bytes of addresses that this process may have; None without a limit."""
    if resource is None:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def addresses_left() -> int | None:
    """Bytes of addresses that this process may still take; None without a limit, or where that is not known."""
    limit = address_space()
    if limit is None:
        return None
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # not Linux
        return None
    return limit - pages * os.sysconf("SC_PAGE_SIZE")


def check_addresses(needed: int) -> None:
    """``MemoryError`` where a limit leaves this process less than ``needed`` bytes of addresses: libraries crash."""
    left = addresses_left()
    if left is not None and left < needed:
        raise MemoryError(f"{left // 10**6} MB of address space are left, {needed // 10**6} are needed")


def explain_lack_of_memory() -> None:
    """Under a limit on addresses, have this process end in one line where a library cannot be loaded within it."""
    if address_space() is None:
        return
    usual = sys.excepthook
    try:
        reserve = mmap.mmap(-1, 64 << 20)  # addresses alone, for what is done when nothing is left
    except OSError:
        reserve = mmap.mmap(-1, mmap.PAGESIZE)

    def explained(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        reserve.close()
        left = addresses_left()
        if left is not None and left < _SPARE:  # whatever was raised: libraries, and Python itself, tell it badly
            error = MemoryError()
        if line := lack_of_memory(error):
            print(f"error: {line}", file=sys.stderr, flush=True)
            os._exit(1)  # what libraries do at exit would fail in the same way
        usual(kind, error, trace)

    sys.excepthook = explained
