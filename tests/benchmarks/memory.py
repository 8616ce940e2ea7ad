"""The peak memory of a worker in each stage: on a shard of real clips, and on one video of twenty minutes.

Each stage runs in a fresh process, which tells its own peak (VmHWM); ffmpeg, which it starts, is measured alone.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from data_specs.recipes import Encode, Recipe, load_recipe
from pipelines.preprocess import Options, open_run
from pipelines.stages import STAGES, process_shard
from tests.benchmarks.footage import long_video, many, real_clips
from tests.benchmarks.measuring import Result, answer, called, most, run_command
from tests.benchmarks.whole_flow import transcoding

MINUTES, SHARD = 20.0, 16
BOUND_MB = 256.0  # for a worker, whatever the length of its videos


def peak_mb() -> float:
    """The highest resident memory that this process has had, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e6


def stage_peak(stage: str, source: str, store: str, preset: str) -> dict[str, float]:
    """Do one stage of a run here, and say the peak before it and after it, MB."""
    recipe = _recipe(preset)
    with open_run(Options(source, store, recipe=recipe)) as run:
        before = peak_mb()
        for plan in run.pending(stage):
            report = process_shard(plan, recipe)
            assert report.done == report.clips, json.dumps(report.quarantined)
        return {"before_mb": before, "peak_mb": peak_mb()}


def ffmpeg_peak(source: Path, folder: Path, preset: str) -> float:
    """The peak of ffmpeg itself over the largest video of a data set, MB."""
    video = max(source.rglob("*.*"), key=lambda path: path.stat().st_size)
    return run_command(transcoding(str(video), folder / "peak.mp4", _recipe(preset)), folder).peak_mb


def _recipe(preset: Any) -> Recipe:
    return load_recipe("ucf101").model_copy(update={"transcode": Encode(preset=preset)})


def run(quick: bool = False, full: bool = False) -> list[Result]:
    """The peak of each stage on short clips and on a long video."""
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = real_clips()[: 2 if quick else None]
        minutes = 0.2 if quick else MINUTES if full else 5.0
        sources = {f"one video of {minutes:g} minutes": (long_video(clips, minutes, folder).parents[1], "ultrafast")}
        if not quick:
            sources[f"{SHARD} clips of UCF-101"] = many(clips, SHARD, folder / "short"), "medium"
        for number, (what, (source, preset)) in enumerate(sources.items()):
            for stage in STAGES:
                found = answer(
                    called(
                        "tests.benchmarks.memory:stage_peak",
                        stage=stage, source=str(source), store=str(folder / f"{number}.zarr"), preset=preset,
                    )
                )  # fmt: skip
                details = {key: round(value, 1) for key, value in found.items()}
                name_of = f"memory of a worker, {stage}, {what}"
                results.append(Result(name_of, "MB", (found["peak_mb"],), most(BOUND_MB), "", details))
            peak = ffmpeg_peak(source, folder, preset)
            results.append(Result(f"memory of ffmpeg, {what}", "MB", (peak,), most(BOUND_MB), preset))
    return results
