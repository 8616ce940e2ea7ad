"""Two workers against one, and the cost of a clip as the rows grow from hundreds to thousands.

Scaling is the wall time of the per-shard part: all stages' shards over a Dask cluster that is already up. What two
ffmpeg at once take against one after the other shows what the machine itself gives. The rows are of very small clips,
whose own work is some ten milliseconds, so that whatever else grows with the rows would show; it is then set against
what a clip of UCF-101 costs.
"""

from __future__ import annotations

import os
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from data_specs.recipes import Encode, Frames, FullView, MotionView, Recipe, load_recipe
from data_specs.resources import usable_cores
from pipelines.execution.dask_cluster import dask_client, map_shards
from pipelines.execution.worker import attempt
from pipelines.runs.opening import open_run
from pipelines.runs.options import Options
from pipelines.stages.tasks import STAGES
from tests.benchmarks.box_search import clip_seconds
from tests.benchmarks.footage import many, real_clips, small
from tests.benchmarks.measuring import REPETITIONS, Result, interleaved, least, most, ratios, run_command
from tests.benchmarks.whole_flow import transcode

SHARD_ROWS = 60  # of real clips, in shards of two
DOZEN = 12  # clips in shards of the size that is chosen by default
ROWS = (200, 1000, 5000)
FEW = 16  # rows of a run that is little but its start
SMALL_RECIPE = """
name = "small"
transcode = "keep"
[frames]
slots = 2
size = 64
[[views]]
kind = "full"
[[views]]
kind = "motion"
"""


def shard_seconds(source: Path, folder: Path, recipe: Recipe, workers: int, turn: str) -> float:
    """Wall time of all stages' shards from the start, on a cluster that is up."""
    store = folder / f"{turn}.zarr"
    total = 0.0
    with dask_client(workers) as client, open_run(Options(str(source), str(store), recipe=recipe)) as run:
        client.wait_for_workers(workers, timeout=60)
        for stage in STAGES:
            plans = run.pending(stage)
            began = time.perf_counter()
            failed = map_shards(client, plans, partial(attempt, recipe=run.recipe), lambda report: None)
            total += time.perf_counter() - began
            assert not failed, failed
    return total


def ffmpeg_seconds(clips: list[Path], folder: Path, at_once: int) -> float:
    """Wall time of ffmpeg's transcode of all clips, so many at once."""
    recipe, began = load_recipe("ucf101"), time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda clip: transcode(str(clip), folder / f"{clip.stem}.mp4", recipe), clips))
    return time.perf_counter() - began


def rows_seconds(source: Path, folder: Path, name: str) -> float:
    """CPU seconds of the command over a data set of small clips."""
    recipe = folder / "small.toml"
    recipe.write_text(SMALL_RECIPE)
    mocrop = Path(sysconfig.get_path("scripts"), "mocrop")
    words = ["preprocess", "--source", f"{source}", "--store", f"{folder}/{name}.zarr", "--recipe", f"{recipe}"]
    words += ["--workers", "2"]
    return run_command([mocrop, *words], folder, PREFECT_HOME=str(folder / "prefect"), DO_NOT_TRACK="1").cpu_s


def run(quick: bool = False) -> list[Result]:
    """Both, and the machine's own scaling."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [*_workers(folder, quick), _dozen(folder, quick), *([] if quick else _rows(folder))]


def _dozen(folder: Path, quick: bool) -> Result:
    """Few clips spread over the cores: the shards of the default recipe follow the number of clips."""
    rows, repetitions = (2, 1) if quick else (DOZEN, REPETITIONS)
    recipe = Recipe(transcode=Encode(preset="ultrafast"), frames=Frames(size=64)) if quick else load_recipe("ucf101")
    source = many(real_clips()[:rows], rows, folder / "dozen")
    turn = iter(range(1000))
    arms = {
        f"{workers}": partial(lambda n: shard_seconds(source, folder, recipe, n, f"d{next(turn)}"), workers)
        for workers in (1, 2)
    }
    samples = interleaved(arms, repetitions)
    details = {f"{name}_s": round(float(np.median(values)), 3) for name, values in samples.items()}
    return Result(
        "two workers against one, twelve clips", "times", ratios(samples["1"], samples["2"]), least(1.7),
        f"wall time, the default recipe; load {os.getloadavg()[0]:.1f} of {usable_cores()} cores at the end", details,
    )  # fmt: skip


def _workers(folder: Path, quick: bool) -> list[Result]:
    clips = real_clips()[: 2 if quick else None]
    rows, repetitions = (2, 1) if quick else (SHARD_ROWS, REPETITIONS)
    preset = "ultrafast" if quick else "medium"
    frames, views = Frames(size=64 if quick else 256), (FullView(), MotionView())
    recipe = Recipe(
        name="two", shard_clips=1 if quick else 2, transcode=Encode(preset=preset), frames=frames, views=views
    )
    source = many(clips, rows, folder / "real")
    turn = iter(range(1000))
    arms = {
        "one": lambda: shard_seconds(source, folder, recipe, 1, f"w{next(turn)}"),
        "two": lambda: shard_seconds(source, folder, recipe, 2, f"w{next(turn)}"),
        "ffmpeg one": lambda: ffmpeg_seconds(clips, folder, 1),
        "ffmpeg two": lambda: ffmpeg_seconds(clips, folder, 2),
    }
    samples = interleaved(arms, repetitions)
    details = {f"{name}_s": round(float(np.median(values)), 3) for name, values in samples.items()}
    load = f"wall time; load {os.getloadavg()[0]:.1f} of {usable_cores()} cores at the end"
    return [
        Result("two workers against one", "times", ratios(samples["one"], samples["two"]), least(1.8), load, details),
        Result(
            "two ffmpeg at once against one after the other", "times",
            ratios(samples["ffmpeg one"], samples["ffmpeg two"]), None, "what the machine gives",
        ),
    ]  # fmt: skip


def _rows(folder: Path) -> list[Result]:
    clips = small(real_clips(), folder / "small")
    sources = {rows: many(clips, rows, folder / f"rows{rows}") for rows in (FEW, *ROWS)}
    rows_seconds(sources[FEW], folder, "warm")
    turn = iter(range(10_000))
    arms = {
        f"{rows}": partial(lambda rows: rows_seconds(sources[rows], folder, f"r{next(turn)}"), rows) for rows in sources
    }
    samples = interleaved(arms, REPETITIONS)
    each = {
        rows: [
            1e3 * (whole - start) / (rows - FEW)
            for whole, start in zip(samples[f"{rows}"], samples[f"{FEW}"], strict=True)
        ]
        for rows in ROWS
    }
    real = 1e3 * clip_seconds(real_clips(), folder / "one")
    median = {f"{rows}": round(float(np.median(values)), 3) for rows, values in each.items()}
    first, *more = ROWS
    results = []
    for rows in more:
        growth = tuple(1 + (b - a) / real for a, b in zip(each[first], each[rows], strict=True))
        results += [
            Result(
                f"cost of a clip at {rows:,} rows against {first}", "times", growth, most(1.05),
                f"1 + what a small clip costs more there / the {real:.0f} ms of a real one",
                {"small_ms": median, "real_ms": real},
            ),
            Result(
                f"cost of a small clip at {rows:,} rows against {first}", "times",
                ratios(each[rows], each[first]), None,
                f"{median[str(first)]:.3g} ms a clip at {first} rows, without the start",
            ),
        ]  # fmt: skip
    return results
