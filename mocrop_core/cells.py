"""Square cells over a frame, and the mean displacement of the motion vectors in each cell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mocrop_core.ranges import check_size
from mocrop_core.vectors import Vectors, check_vectors

Cells = npt.NDArray[np.float32]
"""One value per frame and cell: (frames, rows, columns)."""

PIECE = 8  # px: largest side of the pieces that blocks are cut into
LINES = 240  # px: frame height for which cells have this side
MOST_CELLS = 512  # columns
KINDS = 64  # more than the number of pieces along a side of a block, which has at most 255 px
Picture = tuple[int, int, int, int]
"""x0, y0, x1, y1 of the part of a frame inside black bars: px, half-open."""

Integers = npt.NDArray[np.int32]
Share = float | npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CellGrid:
    """Square cells that cover a frame, starting at its upper left corner.

    frame_size: height and width, px. side: of a cell, px. shape: rows and columns; the last ones may extend beyond the
    frame's edge.
    """

    frame_size: tuple[int, int]
    side: int
    shape: tuple[int, int]

    def whole_cells(self, picture: Picture) -> tuple[slice, slice]:
        """Return the rows and the columns of the cells that lie entirely inside a part of the frame.

        picture: x0, y0, x1, y1, px, half-open. If it reaches an edge of the frame, the cells across that edge count as
        inside. Both slices are empty if no cell fits.
        """
        x0, y0, x1, y1 = picture
        rows, columns = _inside(y0, y1, 0, self), _inside(x0, x1, 1, self)
        return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else (slice(0), slice(0))


@dataclass(frozen=True, slots=True)
class CellEdges:
    """The positions of a map's cells in the picture: along each axis, their edges relative to its middle and side.

    y: (rows + 1,) and x: (columns + 1,), increasing, within -1/2 to 1/2. Mirrored cells have edges of opposite sign.
    """

    y: npt.NDArray[np.float64]
    x: npt.NDArray[np.float64]


def cell_grid(frame_size: tuple[int, int]) -> CellGrid:
    """Return the cells of a frame: about 30 rows of them.

    frame_size: height and width, px. The side is 8 px for 240 lines, 16 for 480, 24 for 720, always a multiple of 8,
    and larger only if a frame of very unusual shape would have more than 512 columns. Raises ValueError for a size
    below 1. Source: ours.
    """
    check_size("frame_size", frame_size)
    height, width = (int(size) for size in frame_size)
    side = PIECE * max(1, round(height / LINES), -(-width // (PIECE * MOST_CELLS)))
    return CellGrid((height, width), side, (-(-height // side), -(-width // side)))


def cell_edges(grid: CellGrid, picture: Picture) -> CellEdges:
    """Return the edges of the cells that lie entirely inside the picture.

    If the picture reaches the frame's right or lower edge, the end of the last cell is used for that edge.
    """
    x0, y0, x1, y1 = picture
    rows, columns = grid.whole_cells(picture)
    return CellEdges(_edges(rows, 0, y0, y1, grid), _edges(columns, 1, x0, x1, grid))


def cell_displacements(
    v: Vectors, frames: npt.NDArray[np.int64], grid: CellGrid, picture: Picture | None = None
) -> tuple[Cells, Cells, npt.NDArray[np.bool_]]:
    """Return the mean displacement of the vectors in each cell of each frame, and which cells have vectors.

    v: `VECTOR` (n,), in any order. frames: frame numbers (f,), increasing; vectors of other frames are ignored. Each
    block is cut into equal pieces of at most 8 x 8 px; a piece is weighted with its area in the cell that contains its
    centre (half in each of two cells if it lies on their edge), and ignored outside the frame. picture: the part of the
    frame inside black bars; a block that reaches into a bar is ignored. Returns dx, dy: float32 (f, rows, columns), px,
    0 without vectors, and has: bool of that shape. The order of the vectors makes no difference: sums are exact for
    displacements in fractions of a px that are powers of 2. Raises ValueError for a displacement that is not finite.
    Source: ours.
    """
    check_vectors("v", v)
    rows, columns = grid.shape
    size = len(frames) * rows * columns
    x, y, w, h = (np.ascontiguousarray(v[name]).astype(np.int32) for name in ("x", "y", "w", "h"))
    base = _first_cells(np.ascontiguousarray(v["frame"]), frames, rows * columns)
    if picture is not None:
        base[~_clear_of_bars(x, y, w, h, grid.frame_size, picture)] = -1
    d = np.empty(len(v), np.complex64)  # one complex array instead of two real ones
    d.real, d.imag = v["dx"], v["dy"]
    finite = np.isfinite(d)
    if not finite.all():
        worst = int(finite.argmin())
        raise ValueError(f"displacements must be finite, got ({d[worst].real}, {d[worst].imag}) at vector {worst}")
    pieces = list(_pieces((y, x), (h, w), base, grid))
    means = np.full(size, np.nan, np.complex64)
    for place, which, _ in pieces:
        means[place] = d[which]
    mean_x, mean_y = means.real.copy(), means.imag.copy()
    has = ~np.isnan(mean_x)
    if np.count_nonzero(has) < sum(len(place) for place, _, _ in pieces):  # for cells with several vectors, all of them
        place, which = (np.concatenate(parts) for parts in list(zip(*pieces, strict=True))[:2])
        area = np.concatenate([np.broadcast_to(share, len(place)) for place, _, share in pieces]) * (w * h)[which]
        total = np.bincount(place, area, size)
        total[total == 0] = 1
        mean_x[:] = np.bincount(place, area * d.real[which], size) / total
        mean_y[:] = np.bincount(place, area * d.imag[which], size) / total
    elif not has.all():
        mean_x[~has] = mean_y[~has] = 0
    shape = (len(frames), rows, columns)
    return mean_x.reshape(shape), mean_y.reshape(shape), has.reshape(shape)


def _inside(low: int, high: int, axis: int, grid: CellGrid) -> slice:
    """Return the cells along an axis between two positions, px."""
    reaches = high == grid.frame_size[axis]
    return slice(-(-low // grid.side), grid.shape[axis] if reaches else high // grid.side)


def _first_cells(frame: npt.NDArray[np.int32], frames: npt.NDArray[np.int64], cells: int) -> npt.NDArray[np.int64]:
    """Return for each vector the flat index of the first cell of its frame, -1 for a frame that is not requested."""
    if not len(frames):
        return np.full(len(frame), -1, np.int64)
    first, last = int(frames[0]), int(frames[-1])
    table = np.full(last - first + 3, -1, np.int64)  # the outermost entries are for earlier and later frames
    table[frames - (first - 1)] = np.arange(len(frames)) * cells
    found: npt.NDArray[np.int64] = table.take(np.clip(frame, first - 1, last + 1) - (first - 1))
    return found


def _clear_of_bars(
    x: Integers, y: Integers, w: Integers, h: Integers, frame_size: tuple[int, int], picture: Picture
) -> npt.NDArray[np.bool_]:
    """Return for each block whether it stays clear of the bars between the picture and the frame's edges."""
    x0, y0, x1, y1 = picture
    clear = np.ones(len(x), bool)
    for centre, side, low, high, length in ((x, w, x0, x1, frame_size[1]), (y, h, y0, y1, frame_size[0])):
        if low > 0:
            clear &= 2 * centre - side >= 2 * low
        if high < length:
            clear &= 2 * centre + side <= 2 * high
    return clear


def _pieces(
    centres: tuple[Integers, Integers], sides: tuple[Integers, Integers], base: npt.NDArray[np.int64], grid: CellGrid
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Share]]:
    """Yield, for many pieces at once, their flat (frame, cell) index, their vectors, and their share of the block."""
    down, across = (_pieces_along(*each, grid, axis) for axis, each in enumerate(zip(centres, sides, strict=True)))
    kinds = np.where(base >= 0, down * KINDS + across, 0)
    for kind in np.flatnonzero(np.bincount(kinds, minlength=1)[1:]) + 1:
        rows, columns = divmod(int(kind), KINDS)
        group = np.flatnonzero(kinds == kind)
        first = base[group]
        cells = _cells_along(centres[1][group], sides[1][group], columns, grid, 1)
        for row, row_share in _cells_along(centres[0][group], sides[0][group], rows, grid, 0):
            start = first + row * grid.shape[1]
            for column, column_share in cells:
                share = row_share * column_share / (rows * columns)
                if isinstance(share, float):
                    yield start + column, group, share
                else:
                    kept = share > 0
                    yield (start + column)[kept], group[kept], share[kept]


def _pieces_along(centre: Integers, side: Integers, grid: CellGrid, axis: int) -> Integers:
    """Return the number of pieces that each block is cut into along an axis: 1 if all of them lie in one cell."""
    count = (side + (PIECE - 1)) // PIECE
    if grid.side > PIECE:
        begin, end, cell = 2 * centre - side, 2 * centre + side, 2 * grid.side  # half px
        inside = (begin >= 0) & (end <= 2 * grid.frame_size[axis]) & (begin // cell == (end - 1) // cell)
        count[inside] = 1
    return np.maximum(count, 1)


def _cells_along(
    centre: Integers, side: Integers, count: int, grid: CellGrid, axis: int
) -> list[tuple[Integers, Share]]:
    """Return, for the pieces of blocks cut into ``count`` along an axis, their cells and weights."""
    first = _first_cell(centre, side, count, grid, axis)
    if first is not None:
        return [((first + piece) // (grid.side // PIECE), 1.0) for piece in range(count)]
    found: list[tuple[Integers, Share]] = []
    begin, unit = (2 * centre - side) * count, 2 * count
    cell_units, length = unit * grid.side, unit * grid.frame_size[axis]
    for piece in range(count):
        middle = begin + (2 * piece + 1) * side
        cell = middle // cell_units
        on_edge = middle == cell * cell_units
        inside = (middle > 0) & (middle < length)
        if inside.all() and not on_edge.any():
            found.append((cell, 1.0))
            continue
        share = np.where(on_edge, 0.5, 1.0) * inside
        cell = np.clip(cell, 0, grid.shape[axis] - 1)
        found.append((cell, share))
        if on_edge.any():
            found.append((np.maximum(cell - 1, 0), np.where(on_edge, share, 0.0)))
    return found


def _first_cell(centre: Integers, side: Integers, count: int, grid: CellGrid, axis: int) -> Integers | None:
    """Return the first multiple of 8 px of blocks that are aligned to it and in the frame, as a codec's are; else None.

    For blocks of one piece, that of the centre, if it is not on the edge of a cell.
    """
    if not len(centre):
        return None
    if count == 1:
        simple = centre.min() > 0 and centre.max() < grid.frame_size[axis] and (centre & (PIECE - 1)).all()
        return centre // PIECE if simple else None
    begin = centre - side // 2
    simple = begin.min() >= 0 and (begin + side).max() <= grid.frame_size[axis]
    simple = simple and not (begin & (PIECE - 1)).any() and (side == PIECE * count).all()
    return begin // PIECE if simple else None


def _edges(cells: slice, axis: int, low: int, high: int, grid: CellGrid) -> npt.NDArray[np.float64]:
    end = grid.shape[axis] * grid.side if high == grid.frame_size[axis] else high
    edges: npt.NDArray[np.float64] = (2.0 * grid.side * np.arange(cells.start, cells.stop + 1) - (low + end)) / (
        2 * (end - low)
    )
    return edges
