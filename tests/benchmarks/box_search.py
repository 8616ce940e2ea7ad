"""The search for the best rectangle against a loop that scores every one, on density maps of real clips."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mocrop_core.density import density_map
from mocrop_core.method import PAPER_V1, denoise, sample
from mocrop_core.search import Rectangle, best_rectangle
from mocrop_core.vectors import clip_rng, in_pixels
from pipelines.media import decoder
from pipelines.runs.options import Options
from tests.benchmarks.footage import encoded, many, real_clips, run_alone
from tests.benchmarks.measuring import REPETITIONS, Result, interleaved, least, most, ratios, spent, spent_here

RATIO, TOLERANCE = 0.75, 0.1
GRIDS = {(6, 8): 3.0, (9, 16): 15.0, (30, 40): 150.0}
SHARE = 0.001  # of a clip's cost

Maps = npt.NDArray[np.float32]


def literal_loop(density: Maps) -> Rectangle:
    """The definition, one rectangle after the other: the largest sum, the first visited where sums are equal."""
    rows, columns = density.shape
    wanted = RATIO * rows * columns
    best, most_motion = None, -1.0
    for height, width in product(range(1, rows + 1), range(1, columns + 1)):
        if not wanted * (1 - TOLERANCE) <= height * width <= wanted * (1 + TOLERANCE):
            continue
        for top, left in product(range(rows - height + 1), range(columns - width + 1)):
            motion = density[top : top + height, left : left + width].sum()
            if motion > most_motion:
                best, most_motion = (top, left, top + height, left + width), motion
    assert best is not None
    return Rectangle(*best)


def real_maps(videos: list[Path]) -> dict[tuple[int, int], Maps]:
    """The density maps of clips on every grid, float32 (clips, rows, columns)."""
    maps: dict[tuple[int, int], list[Any]] = {grid: [] for grid in GRIDS}
    for path in videos:
        blocks: list[npt.NDArray[Any]] = []
        motion = decoder.extract(path, blocks.append)
        packed = np.concatenate(blocks)
        vectors = in_pixels(packed, motion.motion_scale)
        kept = sample(denoise([vectors], PAPER_V1, len(vectors)), PAPER_V1, clip_rng(0, path.stem, "motion"))
        for grid, found in maps.items():
            found.append(density_map(kept, motion.frame_size, grid))
    return {grid: np.stack(found) for grid, found in maps.items()}


def clip_seconds(clips: list[Path], folder: Path) -> float:
    """CPU seconds a clip of all four stages with the recipe ucf101."""
    source = many(clips, len(clips), folder / "source")

    options = Options(str(source), str(folder / "store.zarr"))
    return spent(lambda: run_alone(options)) / len(clips)


def _each(maps: Maps, search: Callable[[Maps], Rectangle]) -> Callable[[], None]:
    def work() -> None:
        for density in maps:
            search(density)

    return work


def _calls(work: Callable[[], object], seconds: float) -> int:
    """How often to call so that it takes about so long."""
    began = time.process_time()
    work()
    return max(1, round(seconds / max(time.process_time() - began, 1e-6)))


def run(quick: bool = False) -> list[Result]:
    """Time the search against the loop, and its share of a clip's CPU time."""
    clips = real_clips()[: 2 if quick else None]
    repetitions, seconds = (2, 0.01) if quick else (2 * REPETITIONS + 1, 0.2)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        maps = real_maps(encoded(clips, Path(folder, "h264")))
        clip_s = clip_seconds(clips, Path(folder))
    for (rows, columns), target in GRIDS.items():
        some = maps[rows, columns]
        if quick and rows == 30:
            some = some[:1]
        for density in some:
            assert literal_loop(density) == best_rectangle(density, RATIO, tolerance=TOLERANCE)
        one = _each(some, lambda density: best_rectangle(density, RATIO))
        loop = _each(some, literal_loop)
        arms = {name: (work, _calls(work, seconds)) for name, work in (("one", one), ("loop", loop))}
        samples = interleaved(
            {name: lambda work=work, times=times: spent_here(work, times) for name, (work, times) in arms.items()},
            repetitions,
        )
        micro = {name: round(float(np.median(values)) / len(some) * 1e6, 2) for name, values in samples.items()}
        name = f"box search, {rows} × {columns} cells, against the loop"
        if (rows, columns) == (6, 8):
            per_clip = samples["one"]
        results.append(Result(name, "times", ratios(samples["loop"], samples["one"]), least(target), details=micro))
    share = tuple(100 * value / len(maps[6, 8]) / clip_s for value in per_clip)
    details = {"clip_cpu_s": round(clip_s, 4)}
    results.append(Result("box search, share of a clip's CPU time", "%", share, most(100 * SHARE), details=details))
    return results
