"""The box of free shape and exact area that contains most of a map, with fractions of cells."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from mocrop_core.boxes import Box
from mocrop_core.cells import CellEdges, Picture
from mocrop_core.mirrored import mirrored_mean
from mocrop_core.ranges import check_amount, check_share

Map = npt.NDArray[np.float64]
Aspect = Literal["frame", "square"] | tuple[float, float] | None

SHAPES, NARROWEST, TALLEST = 9, 0.6, 2.0  # ratios of height to width, both relative to the picture
STEPS = 32  # across the picture
EQUAL = 1e-9  # relative to the highest score


def check_aspect(aspect: Aspect) -> None:
    """Raise ValueError unless `aspect` is None, "frame", "square" or two finite numbers above 0."""
    if aspect in (None, "frame", "square"):
        return
    if isinstance(aspect, tuple) and len(aspect) == 2:
        for side in aspect:
            check_amount("aspect", side)
        if all(aspect):
            return
    raise ValueError(f'aspect must be None, "frame", "square" or (width, height), got {aspect!r}')


def box_shapes(ratio: float, aspect: Aspect, size: tuple[int, int]) -> list[tuple[float, float]]:
    """Return the heights and widths of boxes to try, relative to the picture.

    ratio: the area relative to the picture's, in (0, 1]. aspect: None for nine shapes, from wide to tall; "frame" for
    the picture's own, "square", or (width, height) in px. size: height and width of the picture, px. Raises ValueError
    if a box of that shape and area does not fit. Source: ours.
    """
    check_share("ratio", ratio)
    if aspect is None:
        factors = NARROWEST * (TALLEST / NARROWEST) ** (np.arange(SHAPES) / (SHAPES - 1))
        heights = np.clip(np.sqrt(ratio * factors), ratio, 1.0)
        return [(height, ratio / height) for height in heights.tolist()]
    if aspect == "frame":
        return [(math.sqrt(ratio), math.sqrt(ratio))]
    across, down = (1, 1) if aspect == "square" else aspect
    high = math.sqrt(ratio * size[0] * size[1] * down / across)
    wide = high * across / down
    if high > size[0] * (1 + EQUAL) or wide > size[1] * (1 + EQUAL):
        most = min(size[0] / down, size[1] / across) ** 2 * across * down / (size[0] * size[1])
        raise ValueError(
            f"aspect {across:g}:{down:g} with crop_ratio {ratio:g} needs a box of {wide:.0f}x{high:.0f} px, more than "
            f"the picture of {size[1]}x{size[0]} px; crop_ratio may be at most {math.floor(most * 1000) / 1000:g}"
        )
    return [(min(high / size[0], 1.0), min(wide / size[1], 1.0))]


def box_scores(density: Map, edges: CellEdges, shapes: list[tuple[float, float]]) -> Map:
    """Return how much of a map each box contains: (shapes, 33, 33), from top to bottom and from left to right.

    density: (rows, columns), >= 0. The score is the sum of the map's cells, each times the share of it that the box
    covers. Mirrored maps give mirrored scores, bit for bit. Source: ours.
    """
    heights, widths = np.array(shapes).T
    down, across = _coverage(edges.y, heights), _coverage(edges.x, widths).transpose(0, 2, 1)
    return mirrored_mean(lambda each: (down @ each) @ across, density)


def best_position(scores: Map) -> tuple[int, int, int]:
    """Return shape, row and column of the highest of scores (shapes, rows, columns).

    Among scores within 1e-9 of it (relative), the position nearest to the middle wins, then the earliest shape, then
    the upper left position.
    """
    shape, row, column = np.nonzero(scores >= scores.max() * (1 - EQUAL))
    middle_row, middle_column = (scores.shape[1] - 1) / 2, (scores.shape[2] - 1) / 2
    distance = (row - middle_row) ** 2 + (column - middle_column) ** 2
    best = np.lexsort((column, row, shape, distance))[0]
    return int(shape[best]), int(row[best]), int(column[best])


def pixel_size(shape: tuple[float, float], row: int, column: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a box in pixels: each rounded, at least 1.

    shape: relative to the picture. row, column: position of the box, 0 to 32. size: the picture's, px. For a box in the
    middle, a side is rounded so that the margins on both sides are equal.
    """
    return _side(shape[0] * size[0], size[0], row), _side(shape[1] * size[1], size[1], column)


def placed_box(size: tuple[int, int], row: int, column: int, picture: Picture) -> Box:
    """Return the box of a size, px, at a position in the picture: row and column, 0 to 32.

    Its corner is rounded so that mirrored positions have mirrored boxes.
    """
    (height, width), (x0, y0, x1, y1) = size, picture
    top, left = y0 + _corner(y1 - y0 - height, row), x0 + _corner(x1 - x0 - width, column)
    return Box(left, top, left + width, top + height)


def _side(wanted: float, whole: int, step: int) -> int:
    side = min(max(1, round(wanted)), whole)
    if 2 * step == STEPS and (whole - side) % 2:
        side += 1 if (wanted > side or side == 1) and side < whole else -1
    return side


def _corner(free: int, step: int) -> int:
    """Return the step's share of the free pixels, rounded so that the remainder is the share of the mirrored step."""
    if 2 * step > STEPS:
        return free - _corner(free, STEPS - step)
    return (2 * free * step + STEPS - 1) // (2 * STEPS)


def _coverage(edges: Map, sides: Map) -> Map:
    """Return the share of each cell that boxes cover along an axis, for all positions along it.

    edges: of the cells, from the middle. sides: of the boxes, (n,), relative to the axis. Returns (n, 33, cells).
    """
    half = sides[:, None, None] / 2
    middles = (1 - sides)[:, None, None] * ((np.arange(STEPS + 1) - STEPS / 2) / STEPS)[:, None]
    covered = np.minimum(edges[1:], middles + half) - np.maximum(edges[:-1], middles - half)
    shares: Map = np.maximum(covered, 0) / (edges[1:] - edges[:-1])
    return shares
