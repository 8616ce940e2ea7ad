"""The paper's method, from motion vectors to one box per clip, and its two versions as presets.

vectors --denoise--> fast ones --sample--> a subset --density_map--> map --best_rectangle--> cells --> box
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mocrop_core.box_path import BoxPath
from mocrop_core.boxes import Box, centre_box, pixel_box, reference_box
from mocrop_core.density import Density, density_map
from mocrop_core.ranges import check_amount, check_count, check_share, check_size, check_weights
from mocrop_core.search import Rectangle, best_rectangle, within_tolerance
from mocrop_core.vectors import (
    VECTOR,
    Vectors,
    filter_by_magnitude,
    sample_by_speed,
    sample_uniform,
    share_of,
    top_k,
)

SOURCE_NONE = 0
SOURCE_MOTION = 1
SOURCE_FIXED = 2
SOURCE_FALLBACK = 3

Keep = tuple[Literal["threshold"], float] | tuple[Literal["fastest"], float]
Sample = tuple[Literal["uniform"], int] | tuple[Literal["speed"], float, float]


@dataclass(frozen=True, slots=True)
class Method:
    """How a box is chosen from motion vectors.

    grid: rows and columns of the density map. crop_ratio: target share of the grid's cells, in (0, 1].
    tolerance: allowed relative deviation of a rectangle's area from it. keep: ("threshold", px) keeps the
    strictly longer vectors, ("fastest", fraction) that share of all vectors, the longest. sample: ("uniform",
    count) or ("speed", fraction, power), as in `sample_uniform` and `sample_by_speed`. sum_weight,
    mean_weight: weights of a rectangle's sum and mean in its score. arithmetic: "exact" uses the pixels of the
    chosen cells, and the middle of the frame if nothing moves; "reference" is the public code's: cells of
    frame // grid px, the first candidate if nothing moves, the top left cell if no size is within the
    tolerance. Raises ValueError for a value outside its range. Source: MoCrop v1 and v2; see the presets.
    """

    grid: tuple[int, int]
    crop_ratio: float
    keep: Keep
    sample: Sample
    tolerance: float = 0.1
    sum_weight: float = 1.0
    mean_weight: float = 0.0
    arithmetic: Literal["exact", "reference"] = "exact"

    def __post_init__(self) -> None:
        check_size("grid", self.grid)
        check_share("crop_ratio", self.crop_ratio)
        check_amount("tolerance", self.tolerance)
        check_weights(self.sum_weight, self.mean_weight)
        match self.keep:
            case ("threshold", px):
                check_amount("keep: threshold", px)
            case ("fastest", fraction):
                check_share("keep: fastest", fraction)
            case _:
                raise ValueError(f'keep must be ("threshold", px) or ("fastest", fraction), got {self.keep}')
        match self.sample:
            case ("uniform", count):
                check_count("sample: uniform", count, least=1)
            case ("speed", fraction, power):
                check_share("sample: speed: fraction", fraction)
                check_amount("sample: speed: power", power)
            case _:
                wanted = '("uniform", count) or ("speed", fraction, power)'
                raise ValueError(f"sample must be {wanted}, got {self.sample}")
        if self.arithmetic not in ("exact", "reference"):
            raise ValueError(f'arithmetic must be "exact" or "reference", got {self.arithmetic!r}')


PAPER_V1 = Method(
    grid=(6, 8),  # the paper's: 6 rows, 8 across
    crop_ratio=0.75,  # the paper's, in all published runs
    tolerance=0.1,  # the paper's
    keep=("threshold", 1.0),  # ours, px: the paper gives no number; docs/method.md measures others
    sample=("uniform", 4096),  # ours: the paper gives no number; docs/method.md measures the effect
    sum_weight=1.0,  # the paper's: a plain sum
    mean_weight=0.0,
)
"""The paper's first version (September 2025), which the public code follows."""

PAPER_V2 = Method(
    grid=(9, 16),  # the paper's: 16 across, 9 rows
    crop_ratio=0.75,  # v1's: the second version gives no other
    tolerance=0.1,  # v1's
    keep=("fastest", 0.01),  # the paper's example: the top 1 %
    sample=("speed", 0.1, 4.0),  # our reading: gamma = 0.1 and beta = 4
    sum_weight=0.6,  # the paper's
    mean_weight=0.4,  # the paper's
)
"""The paper's second version (February 2026)."""

PRESETS = {
    "paper-v1": PAPER_V1,
    "paper-v2": PAPER_V2,
    "reference": replace(PAPER_V1, arithmetic="reference"),
}


@dataclass(frozen=True, slots=True, eq=False)
class BoxSelection:
    """A box and the density map on which it was chosen.

    density: the map. rectangle: the chosen cells, None if the box is not made of cells. box: px. score: share of
    the density inside the rectangle, 0 to 1; NaN if nothing moves. source: SOURCE_MOTION, or SOURCE_FALLBACK if
    nothing moves. path: the box in each frame if it moves, None for a static box.
    """

    density: Density
    rectangle: Rectangle | None
    box: Box
    score: float
    source: int
    path: BoxPath | None = None


def denoise(blocks: Iterable[Vectors], method: Method, total: int) -> Vectors:
    """Return the vectors of a clip that a method keeps, reading block by block.

    blocks: `VECTOR` (n,) each, in decode order; only the kept vectors and one block are in memory at a time,
    and the result does not depend on the split into blocks. total: number of vectors in all blocks, >= 0.
    Returns `VECTOR`, in decode order; empty if nothing moves fast enough. Raises ValueError if the blocks do
    not hold `total` vectors. Source: MoCrop v1 (threshold) and v2 (fastest), denoising; that vectors of zero
    length are never kept, however few others there are, is ours.
    """
    kind, limit = method.keep
    kept = [np.empty(0, VECTOR)]
    seen = 0
    for block in blocks:
        seen += len(block)
        if kind == "threshold":
            kept.append(filter_by_magnitude(block, limit))
        else:
            moving = filter_by_magnitude(block, 0)
            kept = [top_k(np.concatenate([*kept, moving]), share_of(total, limit))]
    if seen != total:
        raise ValueError(f"total must be the number of vectors in the blocks, {seen}, got {total}")
    return np.concatenate(kept)


def sample(denoised: Vectors, method: Method, rng: np.random.Generator) -> Vectors:
    """Return the vectors that a method samples from the denoised ones: at least one, if there are any.

    denoised: `VECTOR` (n,). Returns `VECTOR`, in the same order. Source: MoCrop v1 (uniform) and v2 (by
    speed).
    """
    match method.sample:
        case ("uniform", count):
            return sample_uniform(denoised, count, rng)
        case ("speed", fraction, power):
            return sample_by_speed(denoised, fraction, power, rng)


def choose_box(v: Vectors, frame_size: tuple[int, int], method: Method, rng: np.random.Generator) -> BoxSelection:
    """Choose the box of a clip from all its motion vectors.

    v: `VECTOR` (n,), of all frames, in decode order. frame_size: height and width, px. rng: draws the sample;
    the same stream gives the same box. The box lies inside the frame. If nothing moves, source is
    SOURCE_FALLBACK, score is NaN, and the box is the middle of the frame ("exact") or the first candidate
    ("reference"). Raises ValueError for a frame size below 1 or a displacement that is not finite. Source:
    MoCrop v1 and v2; the middle as a fallback is ours.
    """
    return choose_box_from(denoise([v], method, len(v)), frame_size, method, rng)


def choose_box_from(
    denoised: Vectors, frame_size: tuple[int, int], method: Method, rng: np.random.Generator
) -> BoxSelection:
    """Choose the box of a clip from the vectors that `denoise` kept.

    denoised: `VECTOR` (n,). Otherwise like `choose_box`, with the same result for the denoised vectors of a
    whole clip.
    """
    density = density_map(sample(denoised, method, rng), frame_size, method.grid)
    moves = len(denoised) > 0
    source = SOURCE_MOTION if moves else SOURCE_FALLBACK
    if method.arithmetic == "exact" and not moves:
        return BoxSelection(density, None, centre_box(frame_size, method.crop_ratio), math.nan, source)
    rectangle = _rectangle(density, method)
    to_pixels = pixel_box if method.arithmetic == "exact" else reference_box
    total = float(density.sum(dtype=np.float64))
    score = float(density[rectangle.slices].sum(dtype=np.float64)) / total if moves else math.nan
    return BoxSelection(density, rectangle, to_pixels(rectangle, method.grid, frame_size), score, source)


def _rectangle(density: Density, method: Method) -> Rectangle:
    grid, ratio, tolerance = method.grid, method.crop_ratio, method.tolerance
    if method.arithmetic == "reference" and not within_tolerance(grid, ratio, tolerance):
        return Rectangle(0, 0, 1, 1)
    weights = {"sum_weight": method.sum_weight, "mean_weight": method.mean_weight}
    return best_rectangle(density, ratio, tolerance=tolerance, **weights)
