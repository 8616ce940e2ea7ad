"""The search for the rectangle of cells that contains the most motion.

The definition is the public MoCrop code's loop: over heights 1 to R, then widths 1 to C (skipping sizes
outside the tolerance), then top rows, then left columns; a rectangle replaces the best so far only if its
score is strictly greater. The score is sum_weight * s + mean_weight * (s / area), where s is numpy's `.sum()`
of the float64 slice. `best_rectangle` gives the result of that loop, including ties and rounding, without the
loop: all scores come from one product with the candidates' masks (small grids) or from an integral image
(large ones); only if several are too close to the best to distinguish are those few scored as defined.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from mocrop_core.ranges import check_amount, check_share, check_size, check_weights

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Sizes = tuple[tuple[int, int], ...]

_CORNER_SIGNS = np.array([1.0, -1.0, -1.0, 1.0])
_LARGEST_MASKS = 2**15  # cells times rectangles; beyond, an integral image is faster
_MOST_RECTANGLES = 2**12  # created once per grid; beyond this, each when it is found
_TINY = sys.float_info.min  # allows for products that underflow


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A rectangle of whole cells, half-open: rows row0 to row1 and columns col0 to col1.

    Raises ValueError for a negative corner or an empty rectangle.
    """

    row0: int
    col0: int
    row1: int
    col1: int

    def __post_init__(self) -> None:
        if not (0 <= self.row0 < self.row1 and 0 <= self.col0 < self.col1):
            raise ValueError(f"a rectangle needs 0 <= row0 < row1 and 0 <= col0 < col1, got {self}")

    @property
    def area(self) -> int:
        """Cells."""
        return (self.row1 - self.row0) * (self.col1 - self.col0)

    @property
    def slices(self) -> tuple[slice, slice]:
        """The index of these cells in a map: `density[rectangle.slices]`."""
        return slice(self.row0, self.row1), slice(self.col0, self.col1)


def within_tolerance(grid: tuple[int, int], ratio: float, tolerance: float = 0.1) -> Sizes:
    """Return the sizes whose area is within the tolerance, in visiting order; may be empty.

    grid: rows and columns. ratio: target share of the grid's area, in (0, 1]. tolerance: >= 0, relative to
    the target area t = ratio * rows * columns: t * (1 - tolerance) to t * (1 + tolerance), in floats, both
    included. Returns heights and widths in cells. Raises ValueError outside these ranges. Source: the public
    MoCrop code.
    """
    check_size("grid", grid)
    check_share("ratio", ratio)
    check_amount("tolerance", tolerance)
    wanted = ratio * grid[0] * grid[1]
    least, most = wanted * (1 - tolerance), wanted * (1 + tolerance)
    return tuple((h, w) for h, w in _all_sizes(grid) if not (h * w > most or h * w < least))


def candidate_sizes(grid: tuple[int, int], ratio: float, tolerance: float = 0.1) -> Sizes:
    """Return the sizes that the search tries, in visiting order: never empty.

    As in `within_tolerance`; if that is empty, the sizes whose area is nearest to the target (all of them, if
    two areas are equally near). Source: the public MoCrop code; the nearest sizes are ours, as that code
    returns the top left cell in this case.
    """
    sizes = within_tolerance(grid, ratio, tolerance)
    if sizes:
        return sizes
    wanted = ratio * grid[0] * grid[1]
    nearest = min(abs(h * w - wanted) for h, w in _all_sizes(grid))
    return tuple((h, w) for h, w in _all_sizes(grid) if abs(h * w - wanted) == nearest)


def best_rectangle(
    density: npt.ArrayLike,
    ratio: float,
    *,
    tolerance: float = 0.1,
    sum_weight: float = 1.0,
    mean_weight: float = 0.0,
) -> Rectangle:
    """Return the rectangle with the highest score.

    density: (rows, columns) of real numbers >= 0. ratio, tolerance: as in `candidate_sizes`. sum_weight,
    mean_weight: >= 0, not both 0. Among equal scores the first visited wins, so that a map of zeros gives the
    first candidate, at the top left. Raises ValueError for another shape, an empty map, a negative, infinite
    or NaN cell, or an argument outside these ranges. Source: the public MoCrop code (sum; v1) and MoCrop v2 (0.6 sum
    + 0.4 mean).
    """
    cells = np.asarray(density)
    if cells.ndim != 2:
        raise ValueError(f"density must have 2 axes (rows, columns), got shape {cells.shape}")
    search = _search(cells.shape, ratio, tolerance, sum_weight, mean_weight)
    cells = np.asarray(cells, dtype=np.float64)
    flat = cells.ravel()
    low, high = flat.item(flat.argmin()), flat.item(flat.argmax())
    if not (low >= 0 and high <= search.highest):
        raise _bad_cell(flat)
    scores = search.scores(flat)
    best = int(scores.argmax())
    best_score = scores.item(best)
    least = best_score - search.rounding * (high + _TINY)
    scores[best] = -1.0
    if scores.item(scores.argmax()) >= least and not _sums_exactly(flat):
        scores[best] = best_score
        best = search.first_best(cells, (scores >= least).nonzero()[0])
    return search.rectangle(best)


@dataclass(frozen=True, slots=True, eq=False)
class _Search:
    """The n rectangles to try on a grid, in visiting order, with the data to score them.

    corners: (4, n) flat indices into an integral image of (rows + 1, columns + 1): upper left, upper right,
    lower left, lower right. areas: (n,) in cells. rectangles: all n, or empty above `_MOST_RECTANGLES`. masks: (cells,
    n) of 0 and 1, or None above `_LARGEST_MASKS`. down, across: the matrices that multiply a map from the left and the
    right to give its integral image. highest: the largest cell value whose scores cannot overflow. rounding: the
    largest difference of the computed scores of two rectangles that tie by definition, in units of the largest cell.
    """

    grid: tuple[int, int]
    corners: npt.NDArray[np.intp] | npt.NDArray[np.int32]
    areas: npt.NDArray[np.int32]
    rectangles: tuple[Rectangle, ...]
    masks: Floats | None
    down: Floats
    across: Floats
    sum_weight: float
    mean_weight: float
    highest: float
    rounding: float

    def scores(self, flat: Floats) -> Floats:
        """Score every rectangle on a map (cells,): (n,)."""
        sums: Floats = self._integral_sums(flat) if self.masks is None else flat.dot(self.masks)
        return sums if self.sum_weight == 1 and self.mean_weight == 0 else self._score(sums, self.areas)

    def first_best(self, cells: Floats, close: npt.NDArray[np.intp]) -> int:
        """Return the first of the rectangles `close` (m,), in order, with the highest score by definition."""
        best, best_score = -1, -1.0
        for i in close.tolist():
            rectangle = self.rectangle(i)
            score = self._score(cells[rectangle.slices].sum(), rectangle.area)
            if score > best_score:
                best, best_score = i, score
        return best

    def rectangle(self, i: int) -> Rectangle:
        """Return rectangle i."""
        if self.rectangles:
            return self.rectangles[i]
        return Rectangle(*_bounds(self.grid, self.corners[:, [i]])[0].tolist())

    def _score(self, sums: Any, areas: Any) -> Any:
        return self.sum_weight * sums + self.mean_weight * (sums / areas)

    def _integral_sums(self, flat: Floats) -> Floats:
        integral = self.down.dot(flat.reshape(self.grid)).dot(self.across)
        sums: Floats = _CORNER_SIGNS @ integral.take(self.corners, mode="clip")  # corners are never outside
        return sums


@lru_cache(maxsize=8)
def _search(grid: tuple[int, int], ratio: float, tolerance: float, sum_weight: float, mean_weight: float) -> _Search:
    check_weights(sum_weight, mean_weight)
    (rows, columns), stride = grid, grid[1] + 1
    corners, areas = [], []
    for h, w in candidate_sizes(grid, ratio, tolerance):
        upper_left = np.add.outer(np.arange(rows - h + 1) * stride, np.arange(columns - w + 1)).ravel()
        corners.append(np.add.outer([0, w, h * stride, h * stride + w], upper_left).astype(np.int32))
        areas.append(np.full(len(upper_left), h * w, dtype=np.int32))
    every = np.hstack(corners)
    known = every.shape[1] <= _MOST_RECTANGLES
    table = _bounds(grid, every) if known else np.empty((0, 4), np.int64)
    size, weight = rows * columns, max(1.0, sum_weight + mean_weight)
    return _Search(
        grid,
        every.astype(np.intp) if known else every,
        np.hstack(areas),
        tuple(Rectangle(*bounds) for bounds in table.tolist()),
        masks=_masks(grid, table) if known and size * every.shape[1] <= _LARGEST_MASKS else None,
        down=np.tri(rows + 1, rows, -1),
        across=np.tri(columns + 1, columns, -1).T.copy(),
        sum_weight=float(sum_weight),
        mean_weight=float(mean_weight),
        highest=sys.float_info.max / (32 * size * weight),
        rounding=_rounding(size) * weight,
    )


def _bounds(grid: tuple[int, int], corners: npt.NDArray[Any]) -> Integers:
    """Return row0, col0, row1, col1 of rectangles whose corners are (4, n): (n, 4)."""
    rows, columns = np.divmod(corners[::3].astype(np.int64), grid[1] + 1)
    return np.stack([rows[0], columns[0], rows[1], columns[1]], axis=1)


def _rounding(size: int) -> float:
    """Return how far the best score by definition may be below the best computed score.

    In units of the highest of `size` cells, all >= 0, and of the weights. The error of a sum of cells, in any
    order, is less than size * u * total (u = eps / 2), one from an integral image by 4 * (rows + columns + 3) *
    u * total more, and the weights add a few roundings: for two rectangles, each as computed and as defined,
    that is below 32 * size * eps * total, and total is at most size times the highest cell.
    """
    return 32 * size * size * sys.float_info.epsilon


def _masks(grid: tuple[int, int], bounds: Integers) -> Floats:
    """Return, for rectangles (n, 4), their masks, 1 inside and 0 elsewhere: (cells, n)."""
    row0, col0, row1, col1 = bounds.T
    row, col = np.arange(grid[0])[:, None, None], np.arange(grid[1])[:, None]
    inside = (row0 <= row) & (row < row1) & (col0 <= col) & (col < col1)
    masks: Floats = inside.reshape(-1, len(bounds)).astype(np.float64)
    return masks


def _sums_exactly(flat: Floats) -> bool:
    """Return whether float64 sums of a map's cells have no rounding error."""
    return bool((flat == np.rint(flat)).all() and flat.max() * len(flat) < 2**53)


def _all_sizes(grid: tuple[int, int]) -> list[tuple[int, int]]:
    return [(h, w) for h in range(1, grid[0] + 1) for w in range(1, grid[1] + 1)]


def _bad_cell(flat: Floats) -> ValueError:
    bad = flat[~((flat >= 0) & (flat < np.inf))]
    return ValueError(f"density must be finite and >= 0, got {bad[0] if bad.size else flat.max()}")
