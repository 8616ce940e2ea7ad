"""The peak memory of a worker in each stage: on a shard of real clips, and on one video of twenty minutes.

Each stage runs on a Dask worker of its own, as in a run, which tells its own peak (VmHWM); ffmpeg, which it starts, is
measured alone. What a worker takes before it has done anything is in the details.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

from data_specs.recipes import Encode, Recipe, load_recipe
from pipelines.execution.dask_cluster import dask_client, map_shards
from pipelines.execution.worker import attempt
from pipelines.runs.opening import open_run
from pipelines.runs.options import Options
from pipelines.stages.tasks import STAGES, ShardReport
from tests.benchmarks.footage import long_video, many, real_clips
from tests.benchmarks.measuring import REPETITIONS, Result, most, peak_mb, run_command
from tests.benchmarks.whole_flow import transcoding

MINUTES, SHARD = 20.0, 16
BOUND_MB = 256.0  # for a worker, whatever the length of its videos


def stage_peak(stage: str, source: Path, store: Path, recipe: Recipe) -> dict[str, float]:
    """Do one stage of a run on a worker of its own, and say the worker's peak before it and after it, MB."""
    with dask_client(1) as client, open_run(Options(str(source), str(store), recipe=recipe)) as run:
        (before,) = client.run(peak_mb).values()
        reports: list[ShardReport] = []
        failed = map_shards(client, run.pending(stage), partial(attempt, recipe=recipe), reports.append)
        assert not failed, failed
        assert reports
        assert all(report.done == report.clips for report in reports), reports
        (peak,) = client.run(peak_mb).values()
        return {"before_mb": round(before, 1), "peak_mb": round(peak, 1)}


def ffmpeg_peak(source: Path, folder: Path, preset: str) -> float:
    """The peak of ffmpeg itself over the largest video of a data set, MB."""
    video = max(source.rglob("*.*"), key=lambda path: path.stat().st_size)
    return run_command(transcoding(str(video), folder / "peak.mp4", _recipe(preset)), folder).peak_mb


def _recipe(preset: Any) -> Recipe:
    return load_recipe("ucf101").model_copy(update={"transcode": Encode(preset=preset)})


def run(quick: bool = False) -> list[Result]:
    """The peak of each stage on short clips and on a long video."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = real_clips()[: 2 if quick else None]
        minutes = 0.1 if quick else MINUTES
        long = long_video(clips, minutes, folder).parents[1]
        results = _peaks(f"one video of {minutes:g} minutes", long, folder / "long", "ultrafast", 1)
        if not quick:
            short = many(clips, SHARD, folder / "short")
            results += _peaks(f"{SHARD} clips of UCF-101", short, folder / "shorts", "medium", REPETITIONS)
        return results


def _peaks(what: str, source: Path, folder: Path, preset: str, repetitions: int) -> list[Result]:
    recipe, found = _recipe(preset), defaultdict[str, list[dict[str, float]]](list)
    folder.mkdir()
    for repetition in range(repetitions):
        for stage in STAGES:
            found[stage].append(stage_peak(stage, source, folder / f"{repetition}.zarr", recipe))
        found["ffmpeg"].append({"peak_mb": ffmpeg_peak(source, folder, preset)})
    once = ", once" if repetitions == 1 else ""
    results = []
    for part, peaks in found.items():
        name = "memory of ffmpeg" if part == "ffmpeg" else f"memory of a worker, {part}"
        samples = tuple(peak["peak_mb"] for peak in peaks)
        results.append(
            Result(f"{name}, {what}", "MB", samples, most(BOUND_MB), f"preset {preset}{once}", {"MB": peaks})
        )
    return results
