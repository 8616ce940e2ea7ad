"""How the benchmarks measure: interleaved repetitions, CPU time with that of child processes, one line a result."""

from __future__ import annotations

import json
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_specs.resources import usable_cores
from pipelines.media.ffmpeg_binary import find_ffmpeg

PACKAGES = (
    "av", "dask", "distributed", "mocrop", "motion-vector-extractor", "numcodecs", "numpy", "obstore",
    "opencv-python-headless", "pillow", "prefect", "tensorstore", "torch", "zarr",
)  # fmt: skip
REPETITIONS = 5

_ADOPTING = """
import ctypes, json, os, resource, subprocess, sys, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: whatever outlives its parent is counted here
began = time.perf_counter()
status = subprocess.run(sys.argv[2:]).returncode
wall = time.perf_counter() - began
try:
    while True:
        os.wait()
except ChildProcessError:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as file:
    cpu, peak = used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6
    json.dump({"cpu_s": cpu, "wall_s": wall, "peak_mb": peak, "status": status}, file)
"""


@dataclass(frozen=True, slots=True)
class Target:
    """What a result has to be: ``least`` or ``most`` this much."""

    kind: Literal["least", "most"]
    value: float

    def met(self, value: float) -> bool:
        """Whether a value is as it has to be."""
        return value >= self.value if self.kind == "least" else value <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.kind == 'least' else '≤'} {self.value:g}"


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table: what was measured, its unit, every repetition's value, what it has to be, and a remark."""

    name: str
    unit: str
    samples: tuple[float, ...]
    target: Target | None = None
    remark: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.samples:
            raise ValueError(f"{self.name}: nothing was measured")

    @property
    def median(self) -> float:
        """The middle of the repetitions."""
        return statistics.median(self.samples)

    @property
    def verdict(self) -> str:
        """Whether the median is as it has to be, in a word."""
        return "" if self.target is None else "met" if self.target.met(self.median) else "MISSED"

    def as_json(self) -> dict[str, Any]:
        """The line as it goes into the file of results."""
        return {
            "name": self.name,
            "unit": self.unit,
            "median": _short(self.median),
            "lowest": _short(min(self.samples)),
            "highest": _short(max(self.samples)),
            "repetitions": len(self.samples),
            "samples": [_short(value) for value in self.samples],
            "target": str(self.target or ""),
            "verdict": self.verdict,
            "remark": self.remark,
            "details": dict(self.details),
        }


def least(value: float) -> Target:
    """A result that has to be this much or more."""
    return Target("least", value)


def most(value: float) -> Target:
    """A result that has to be this much or less."""
    return Target("most", value)


def interleaved(arms: Mapping[str, Callable[[], float]], repetitions: int, seed: int = 0) -> dict[str, list[float]]:
    """What each arm returns, ``repetitions`` times: every repetition runs each arm once, in an order of its own."""
    rng = np.random.default_rng(seed)
    samples: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(repetitions):
        for name in map(str, rng.permutation(list(arms))):
            samples[name].append(arms[name]())
    return samples


def ratios(above: Sequence[float], below: Sequence[float]) -> tuple[float, ...]:
    """The ratio in each repetition of two arms that were interleaved."""
    return tuple(a / b for a, b in zip(above, below, strict=True))


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def spent(work: Callable[[], object], times: int = 1) -> float:
    """CPU seconds of one call of ``work``, over ``times`` calls."""
    began = cpu_seconds()
    for _ in range(times):
        work()
    return (cpu_seconds() - began) / times


def spent_here(work: Callable[[], object], times: int = 1) -> float:
    """As `spent`, to the microsecond, without children."""
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times


@dataclass(frozen=True, slots=True)
class Usage:
    """What a command took: CPU seconds of it and of everything that it started, wall time, its largest process, MB."""

    cpu_s: float
    wall_s: float
    peak_mb: float = 0.0


def run_command(words: Sequence[str | os.PathLike[str]], folder: Path, **variables: str) -> Usage:
    """Run a command in ``folder`` to its end and to that of all its children; an error with its last words if it fails.

    The command sees no settings of Prefect but those in ``variables``.
    """
    return run_watched(words, folder, variables)


def run_watched(
    words: Sequence[str | os.PathLike[str]],
    folder: Path,
    variables: Mapping[str, str],
    watch: Callable[[int], object] | None = None,
) -> Usage:
    """The same; ``watch`` is called with the command's process id several times a second, and may kill it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    note = folder / "usage.json"
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", _ADOPTING, note, *words],
            cwd=folder,
            env={**kept, **variables},
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        while process.poll() is None:
            with suppress(OSError, IndexError):
                if watch:
                    watch(_children(process.pid)[0])
            time.sleep(0.2 if watch else 0.02)
        said.seek(0)
        last = said.read()[-600:]
    used = json.loads(note.read_text()) if note.exists() else {"status": process.returncode}
    note.unlink(missing_ok=True)
    if used["status"] and not (watch and used["status"] == -signal.SIGKILL):
        raise RuntimeError(f"{' '.join(map(str, words))} ended with status {used['status']}: {last}")
    return Usage(used["cpu_s"], used["wall_s"], used["peak_mb"])


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def called(function: str, **arguments: Any) -> subprocess.Popen[str]:
    """Start ``module:function`` of this package in a fresh interpreter; `answer` waits for what it returns."""
    module, name = function.split(":")
    code = f"import json, sys; from {module} import {name}; print(json.dumps({name}(**json.loads(sys.argv[1]))))"
    return subprocess.Popen([sys.executable, "-c", code, json.dumps(arguments)], stdout=subprocess.PIPE, text=True)


def answer(process: subprocess.Popen[str]) -> Any:
    """What a function returned that `called` started."""
    out, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"a benchmark's process ended with status {process.returncode}")
    return json.loads(out.splitlines()[-1])


def load() -> list[float]:
    """Processes that wanted a core, on average over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def commit() -> str:
    """The commit of this code, with a + where what is measured differs from it; "unknown" outside a repository."""
    git = partial(subprocess.run, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    named = git(["git", "rev-parse", "HEAD"])
    if named.returncode:
        return "unknown"
    changed = git(["git", "diff", "--quiet", "HEAD", "--", "*.py", "*.toml", "constraints.txt"]).returncode
    return named.stdout.strip() + ("+" if changed else "")


def peak_mb() -> float:
    """The highest resident memory that this process has had, MB."""
    return _status_mb("VmHWM")


def resident_mb() -> float:
    """The resident memory of this process now, MB."""
    return _status_mb("VmRSS")


def process_peak_mb(pid: int) -> float:
    """The highest resident memory that another process has had, MB; ``ProcessLookupError`` if it has ended."""
    return _status_mb("VmHWM", str(pid))


def _status_mb(name: str, pid: str = "self") -> float:
    lines = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(name)]
    if not lines:  # it has ended, and was not waited for yet
        raise ProcessLookupError(f"process {pid} has no memory any more")
    return int(lines[0].split()[1]) * 1024 / 1e6


def machine() -> dict[str, Any]:
    """What the figures were measured with."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cores": usable_cores(),
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": load(),
        "commit": commit(),
        "ffmpeg": find_ffmpeg().build,
        **{package: version(package) for package in PACKAGES},
    }


def _short(value: float) -> float:
    return float(f"{value:.5g}")
