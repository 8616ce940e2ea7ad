"""Cores and memory that this process may use: the machine's, less what its container or service is limited to.

The control groups of Linux, versions 1 and 2, nested ones included: the smallest limit on the path counts.
dask.system.cpu_count reads one group at fixed places only, and Python's own counts read none.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

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
