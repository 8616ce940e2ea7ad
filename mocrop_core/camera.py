"""The motion of the camera in each frame: a similarity, fitted to the displacements of cells by their consensus."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mocrop_core.cells import Cells

Sums = npt.NDArray[np.float64]
Has = npt.NDArray[np.bool_]

ROUNDS = 3
LEAST_SIGMA = 0.25  # px: vectors come in quarters
NORMAL = 1.4826  # the standard deviation of normal noise is so many of its median absolute deviations
RIDGE = 1e-6
LEAST_WEIGHT = 0.02  # of a cell without texture
FEW_CELLS = 256
STEADY = LEAST_SIGMA / NORMAL  # px: a median residual up to this gives the least sigma
WEIGHTS, FINENESS = 2**20, 64  # steps of a weight, and of a px


def camera_residual(dx: Cells, dy: Cells, has: Has, texture: Cells) -> tuple[Cells, Cells]:
    """Return what is left of each cell's displacement without the camera's: float32 (frames, rows, columns) px each.

    dx, dy: (frames, rows, columns), px. has: where there is a vector; elsewhere the residual is 0. texture: (frames,
    rows, columns), 0 to 1. The camera of a frame is the similarity (a + s x - r y, b + s y + r x), x and y from the
    centre in units of half the longer side of the grid. It begins as the median of the displacements along each axis
    and is refined by three rounds of least squares with the weights (texture + 0.02) / (1 + (p / 2 sigma)^2)^2, p the
    length of a residual and sigma 1.4826 times its median in the frame, at least 1/4 px. The squares are summed of
    displacements in 1/64 px and weights in 2 ** -20, without rounding for displacements up to some thousands of px, so
    that mirrored input gives the mirrored result to the bit. Source: ours; the weights are those of Geman and McClure.
    """
    frames, rows, columns = dx.shape
    longer = max(rows, columns)
    # odd whole numbers, in units of half a cell; the fit's unit is half the longer side
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
    """Return 1, x, y and x * x + y * y of each cell: (cells, 4), whole numbers."""
    x, y = np.broadcast_to(x, (len(y), len(x))).ravel(), np.repeat(y, len(x))
    return np.stack([np.ones(len(x)), x, y, x * x + y * y], axis=1)


def _similarity(ones: Sums, across: Sums, down: Sums, longer: int) -> tuple[Sums, Sums, Sums, Sums]:
    """Solve the normal equations, which fall apart into one unknown after the other.

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
    """Return the cells whose middle stands for that of all: every other one along each axis, counted from both ends.

    A block of 16 x 16 px has the same vector in four cells of 8 x 8. In a small grid all cells count.
    """
    cells = np.arange(rows * columns).reshape(rows, columns)
    if cells.size <= FEW_CELLS:
        return cells.ravel()
    row, column = (np.flatnonzero(np.minimum(n := np.arange(size), n[::-1]) % 2 == 0) for size in (rows, columns))
    return cells[np.ix_(row, column)].ravel()


def _medians(values: Cells, has: Has, usual: float) -> Sums:
    """Return the median of the values (frames, cells) where there are any, in each frame; of no values it is 0.

    Of two middle ones it is the mean. usual: where more than half of a frame's values are between 0 and this, this is
    what is returned for it, and nothing is sorted.
    """
    count = np.count_nonzero(has, axis=1)
    medians = np.full(len(values), float(usual))
    common = (values >= 0) & (values <= usual) & has
    rare = np.flatnonzero(2 * np.count_nonzero(common, axis=1) <= count)
    if len(rare):
        count = count[rare]
        # not np.partition, which takes many times as long where most values are equal
        ordered = np.sort(np.where(has[rare], values[rare], np.float32(np.inf)), axis=1)
        places = np.maximum((count - 1) // 2, 0), np.minimum(count // 2, values.shape[1] - 1)
        lower, upper = (ordered[np.arange(len(rare)), place].astype(np.float64) for place in places)
        medians[rare] = np.where(count > 0, (lower + upper) / 2, 0)
    return medians
