"""`mocrop preprocess` with TLS between its Dask processes, as it always is, against the same over plain TCP.

Plain TCP is no option of the product: `python -m tests.benchmarks.tls preprocess …` puts another cluster under the
command in its own process. Both arms are run in that way, with Prefect, two workers and a home that was used before.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import distributed

from tests.benchmarks.footage import many, real_clips
from tests.benchmarks.measuring import REPETITIONS, Result, Usage, interleaved, most, ratios, run_command

ROWS, WORKERS = 96, 2  # two shards a worker and stage: a task carries a plan and a report, never frames
MOST = 1.03
ROOT = Path(__file__).parents[2]
_CLOCKS = ("cpu_s", "wall_s")
_PLAIN = "MOCROP_BENCHMARK_PLAIN_TCP"


class _Plain(distributed.LocalCluster):
    """A cluster whose processes talk without TLS."""

    def __init__(self, *args: Any, security: object, **kwargs: Any) -> None:
        super().__init__(*args, security=distributed.Security(), **kwargs)  # type: ignore[no-untyped-call]
        assert self.scheduler_address.startswith("tcp://"), self.scheduler_address


def _command(folder: Path, source: Path, recipe: str, secure: bool) -> Usage:
    for name in ("flow.zarr", "flow.zarr.work"):
        shutil.rmtree(folder / name, ignore_errors=True)
    words: list[str | Path] = ["preprocess", "--source", source, "--store", folder / "flow.zarr", "--recipe", recipe]
    known = {"PREFECT_HOME": str(folder / "prefect"), "DO_NOT_TRACK": "1", "PYTHONPATH": str(ROOT)}
    known |= {} if secure else {_PLAIN: "1"}
    return run_command(
        [sys.executable, "-m", "tests.benchmarks.tls", *words, "--workers", f"{WORKERS}"], folder, **known
    )


def run(quick: bool = False) -> list[Result]:
    """CPU and wall time of the whole flow with TLS, as ratios to those without, and what they are ratios of."""
    rows, repetitions, recipe = (3, 1, "smoke") if quick else (ROWS, REPETITIONS, "ucf101")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = many(real_clips()[: 3 if quick else None], rows, folder / "source")
        used: dict[bool, list[Usage]] = {True: [], False: []}
        _command(folder, source, "smoke", secure=True)  # warms Prefect's home and the disk's cache

        def flow(secure: bool) -> float:
            used[secure].append(_command(folder, source, recipe, secure))
            return used[secure][-1].cpu_s

        interleaved({"tls": lambda: flow(True), "plain": lambda: flow(False)}, repetitions)
    cpu, wall = ([[getattr(one, clock) for one in used[secure]] for secure in (True, False)] for clock in _CLOCKS)
    remark = f"{rows} rows, {WORKERS} workers"
    return [
        Result("whole flow with TLS against plain TCP, CPU", "times", ratios(*cpu), most(MOST), remark),
        Result("whole flow with TLS against plain TCP, wall time", "times", ratios(*wall), most(MOST), remark),
        Result("whole flow with TLS, CPU", "s", tuple(cpu[0]), None, remark),
        Result("whole flow over plain TCP, CPU", "s", tuple(cpu[1]), None, remark),
    ]


def main() -> None:
    """The command line of ``mocrop``, over plain TCP if the environment says so."""
    from pipelines.cli.app import main as mocrop

    if os.environ.get(_PLAIN):
        distributed.LocalCluster = _Plain  # type: ignore[assignment]
    mocrop()


if __name__ == "__main__":
    main()
