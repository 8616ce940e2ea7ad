"""The motion of the camera in each frame: a similarity transform fitted robustly to the displacements of cells."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mocrop_core.cells import Cells

Sums = npt.NDArray[np.float64]
Has = npt.NDArray[np.bool_]

ROUNDS = 3
LEAST_SIGMA = 0.25  # px: vectors have quarter-pixel precision
NORMAL = 1.4826  # ratio of the standard deviation of normal noise to its median absolute deviation
RIDGE = 1e-6
LEAST_WEIGHT = 0.02  # weight of a cell without texture
FEW_CELLS = 256
STEADY = LEAST_SIGMA / NORMAL  # px: median residuals up to this give the minimum sigma
WEIGHTS, FINENESS = 2**20, 64  # resolution of weights and of px


def camera_residual(dx: Cells, dy: Cells, has: Has, texture: Cells) -> tuple[Cells, Cells]:
    """Return each cell's displacement minus the camera's: x and y, float32 (frames, rows, columns) px each.

    dx, dy: (frames, rows, columns), px. has: where there is a vector; elsewhere the residual is 0. texture: (frames,
    rows, columns), 0 to 1. The camera of a frame is the similarity (a + s x - r y, b + s y + r x), with x and y from
    the centre in units of half the longer side of the grid. It starts as the median of the displacements along each
    axis and is refined by three rounds of least squares with the weights (texture + 0.02) / (1 + (p / 2 sigma)^2)^2,
    where p is the length of a residual and sigma 1.4826 times its median in the frame, at least 1/4 px. Sums use
    displacements in 1/64 px and weights in 2 ** -20, which is exact for displacements up to some thousands of px, so
    that mirrored input gives the mirrored result bit for bit. Source: ours, with the weights of Geman and McClure.
    """
    frames, rows, columns = dx.shape
    longer = max(rows, columns)
    # odd integers, in units of half a cell; the fit's unit is half the longer side
    x, y = 2.0 * np.arange(columns) + 1 - columns, 2.0 * np.arange(rows) + 1 - rows
    basis = _basis(x, y)
    targets = [np.rint(each * np.float32(FINENESS)).reshape(frames, -1).astype(np.float64) for each in (dx, dy)]
    across, down = (x / longer).astype(np.float32), (y / longer).astype(np.float32)[:, None]
    trust = (texture + np.float32(LEAST_WEIGHT)) * has * np.float32(WEIGHTS)
    rx, ry = np.empty_like(dx), np.empty_like(dy)
    sample = _sample(rows, columns)
    seen = has.reshape(frames, -1).take(sample, axis=1)
    a, b = (_medians(each.reshape(frames, -1).take(sample, axis=1), seen, 0.0) for each in (dx, dy))
    s = r = np.zeros(frames)
    for left in range(ROUNDS, -1, -1):
        a32, b32, s32, r32 = (each.astype(np.float32)[:, None, None] for each in (a, b, s, r))
        np.subtract(dx, np.add(a32 - r32 * down, s32 * across, out=rx), out=rx)
        np.subtract(dy, np.add(b32 + s32 * down, r32 * across, out=ry), out=ry)
        if not left:
            break
        squares = np.multiply(rx, rx, out=rx)
        squares += np.multiply(ry, ry, out=ry)
        middle = np.sqrt(_medians(squares.reshape(frames, -1).take(sample, axis=1), seen, STEADY**2))
        sigma = np.maximum(LEAST_SIGMA, NORMAL * middle)
        squares *= (0.25 / sigma**2).astype(np.float32)[:, None, None]
        squares += np.float32(1)
        squares *= squares
        weight = np.rint(np.divide(trust, squares, out=squares), out=squares).reshape(frames, -1).astype(np.float64)
        ones = weight @ basis / WEIGHTS
        moments = [(weight * each) @ basis[:, :3] / (WEIGHTS * FINENESS) for each in targets]
        a, b, s, r = _similarity(ones, moments[0], moments[1], longer)
    rx *= has
    ry *= has
    return rx, ry


def _basis(x: Sums, y: Sums) -> Sums:
    """Return 1, x, y and x * x + y * y of each cell: (cells, 4), integers."""
    x, y = np.broadcast_to(x, (len(y), len(x))).ravel(), np.repeat(y, len(x))
    return np.stack([np.ones(len(x)), x, y, x * x + y * y], axis=1)


def _similarity(ones: Sums, across: Sums, down: Sums, longer: int) -> tuple[Sums, Sums, Sums, Sums]:
    """Solve the normal equations, which decouple so that the unknowns can be solved one by one.

    ones, across, down: the weights' and the weighted displacements' sums over `_basis`, (frames, 4) and (frames, 3).
    """
    weight, wx, wy, square = ones.T
    bx, bx_x, bx_y = across.T
    by, by_x, by_y = down.T
    weight, square = weight + RIDGE, square / longer**2 + RIDGE
    wx, wy, bx_x, bx_y, by_x, by_y = (each / longer for each in (wx, wy, bx_x, bx_y, by_x, by_y))
    spread = square - (wx * wx + wy * wy) / weight
    s = (bx_x + by_y - (wx * bx + wy * by) / weight) / spread
    r = (by_x - bx_y + (wy * bx - wx * by) / weight) / spread
    return (bx - s * wx + r * wy) / weight, (by - s * wy - r * wx) / weight, s, r


def _sample(rows: int, columns: int) -> npt.NDArray[np.intp]:
    """Return the cells whose median stands for that of all: every other one along each axis, counted from both ends.

    A block of 16 x 16 px has the same vector in four cells of 8 x 8. In a small grid all cells are used.
    """
    cells = np.arange(rows * columns).reshape(rows, columns)
    if cells.size <= FEW_CELLS:
        return cells.ravel()
    row, column = (np.flatnonzero(np.minimum(n := np.arange(size), n[::-1]) % 2 == 0) for size in (rows, columns))
    return cells[np.ix_(row, column)].ravel()


def _medians(values: Cells, has: Has, usual: float) -> Sums:
    """Return the median of the existing values (frames, cells) in each frame; 0 for a frame without values.

    The median of an even number of values is the mean of the middle two. usual: if more than half of a frame's values
    are between 0 and this, it is returned for the frame without sorting.
    """
    count = np.count_nonzero(has, axis=1)
    medians = np.full(len(values), float(usual))
    common = (values >= 0) & (values <= usual) & has
    rare = np.flatnonzero(2 * np.count_nonzero(common, axis=1) <= count)
    if len(rare):
        count = count[rare]
        # np.partition is many times slower if most values are equal
        ordered = np.sort(np.where(has[rare], values[rare], np.float32(np.inf)), axis=1)
        places = np.maximum((count - 1) // 2, 0), np.minimum(count // 2, values.shape[1] - 1)
        lower, upper = (ordered[np.arange(len(rare)), place].astype(np.float64) for place in places)
        medians[rare] = np.where(count > 0, (lower + upper) / 2, 0)
    return medians
