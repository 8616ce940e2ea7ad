"""Texture of the cells of key frames, which tells where motion vectors are reliable, and black bars."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from mocrop_core.cells import CellGrid, Cells, Picture, cell_grid
from mocrop_core.ranges import check_size

Luma = npt.NDArray[np.uint8]
"""(height, width), or (frames, height, width) of several key frames."""
Bars = tuple[int, int, int, int]
"""Widths of the black bars at the left, top, right and bottom, px."""

CONTRAST = 16.0  # levels: the standard deviation of a cell with weight 1/2
BLACKEST_BAR = 26  # luma: black is 16, or 0 in full range
FLATTEST_BAR = 12  # levels: range of a bar's line without its darkest and brightest fiftieth
_cell_grid = lru_cache(cell_grid)
AT_ONCE = 2**16  # values processed at once, few enough for the CPU cache
ROWS_AT_ONCE = 32  # of a bar
LEAST_PICTURE = 0.25  # of the frame's side: bars that leave less are a dark scene


def key_frame_textures(lumas: Luma) -> npt.NDArray[np.uint8]:
    """Return the texture of each cell of one or more frames of one size; several together take less time.

    lumas: uint8 (frames, height, width). Returns uint8 (frames, *`cell_grid`'s shape): round(255 u), u = var / (var +
    16 ** 2), var the variance of the luma in the cell; in cells that extend beyond the frame, the edge pixels are
    repeated. Raises ValueError for another dtype or shape. Source: ours.
    """
    _check("lumas", lumas, "(frames, height, width)")
    grid = _cell_grid((lumas.shape[1], lumas.shape[2]))
    (rows, columns), side = grid.shape, grid.side
    beyond = ((0, 0), (0, rows * side - lumas.shape[1]), (0, columns * side - lumas.shape[2]))
    whole = np.pad(lumas, beyond, mode="edge") if any(map(any, beyond)) else lumas
    total, squares = _cell_sums(whole, grid)
    variance: npt.NDArray[np.float64] = (squares * side**2 - total * total) / side**4
    return np.rint(255 * variance / (variance + CONTRAST**2)).astype(np.uint8)


def smooth_texture(textures: npt.NDArray[np.uint8]) -> Cells:
    """Return the mean of each texture over 3 x 3 cells, with edge cells repeated: float32, 0 to 1.

    textures: uint8 (key frames, rows, columns). Source: ours.
    """
    return box_sums(textures.astype(np.float32)) / np.float32(9 * 255)


def box_sums(maps: Cells) -> Cells:
    """Return the sums over 3 x 3 cells of maps (..., rows, columns), with edge cells repeated."""
    return _sums_of_three(_sums_of_three(maps, -2), -1)


def bars(luma: Luma) -> Bars | None:
    """Return the widths of the black bars at the left, top, right and bottom of a frame, px.

    luma: uint8 (height, width). A row or column belongs to a bar if it is black and flat: without its darkest and
    brightest fiftieth, its pixels are at most 26 and within 12 levels. Bars that would leave less than a quarter of a
    side count as a dark scene: 0. Returns None for an entirely black frame. Raises ValueError for another dtype or
    shape. Source: ours.
    """
    _check("luma", luma, "(height, width)")
    top, bottom = _bar_ends(luma)
    if top == luma.shape[0]:
        return None
    if luma.shape[0] - top - bottom < LEAST_PICTURE * luma.shape[0]:
        top = bottom = 0
    left, right = _bar_ends(luma[top : luma.shape[0] - bottom].T)
    if luma.shape[1] - left - right < LEAST_PICTURE * luma.shape[1]:
        left = right = 0
    return left, top, right, bottom


def picture_area(frame_size: tuple[int, int], bars: Iterable[Bars | None]) -> Picture:
    """Return the part of the frame inside the black bars of all key frames: x0, y0, x1, y1, px, half-open.

    frame_size: height and width, px. bars: the result of `bars` for each key frame; entirely black frames are ignored.
    A bar counts if all remaining key frames have it; without bars the whole frame is the picture. Raises
    ValueError for a size below 1. Source: ours.
    """
    check_size("frame_size", frame_size)
    height, width = (int(size) for size in frame_size)
    seen = [each for each in bars if each is not None]
    if not seen:
        return 0, 0, width, height
    left, top, right, bottom = (int(min(side)) for side in zip(*seen, strict=True))
    return left, top, width - right, height - bottom


def _bar_ends(luma: Luma) -> tuple[int, int]:
    """Return the number of first and of last rows of an image that belong to a bar."""
    return _bar_rows(luma), _bar_rows(luma[::-1])


def _bar_rows(luma: Luma) -> int:
    """Return the number of first rows of an image that belong to a bar, reading few rows of most images.

    Sorting is slow, so only rows are sorted whose brightest and darkest pixels, the noise included, decide nothing.
    """
    cut = luma.shape[1] // 50
    if np.count_nonzero(luma[0] > BLACKEST_BAR) > cut:  # most images have no bar
        return 0
    for start in range(0, len(luma), ROWS_AT_ONCE):
        some = luma[start : start + ROWS_AT_ONCE]
        brightest = some.max(axis=1)
        flat = (brightest <= BLACKEST_BAR) & (brightest - some.min(axis=1) <= FLATTEST_BAR)
        for row in np.flatnonzero(~flat).tolist():
            ordered = np.sort(some[row])
            if ordered[-1 - cut] > BLACKEST_BAR or ordered[-1 - cut] - ordered[cut] > FLATTEST_BAR:
                return start + int(row)
    return len(luma)


def _cell_sums(lumas: Luma, grid: CellGrid) -> npt.NDArray[np.float64]:
    """Return the sums of the luma and of its squares in each cell: (2, frames, rows, columns).

    Some rows of cells at a time, in one array that fits in the CPU cache, with the frames side by side, since NumPy
    adds long rows faster. All are integers, and small ones in small cells: exact in any order. The last sums are a
    matrix product, since NumPy's own are slow over so short an axis.
    """
    (rows, columns), side = grid.shape, grid.side
    count, _, width = lumas.shape
    dtype: type[np.floating[Any]] = np.float32 if side <= 16 else np.float64
    sums = np.empty((2, rows, count * columns))
    step = min(rows, max(1, AT_ONCE // (side * count * width)))
    values, lines = np.empty((step, side, count, width), dtype), np.empty((2, step, count, width), dtype)
    lumas = lumas.reshape(count, rows, side, width).transpose(1, 2, 0, 3)
    for row in range(0, rows, step):
        some = values[: rows - row]
        some[:] = lumas[row : row + len(some)]
        np.add.reduce(some, axis=1, out=lines[0, : len(some)])
        np.multiply(some, some, out=some)
        np.add.reduce(some, axis=1, out=lines[1, : len(some)])
        cells = lines[:, : len(some)].reshape(-1, side) @ np.ones(side, dtype)
        sums[:, row : row + len(some)] = cells.reshape(2, len(some), -1)
    return sums.reshape(2, rows, count, columns).swapaxes(1, 2)


def _sums_of_three(maps: Cells, axis: int) -> Cells:
    """Return the sums of each value and its two neighbours along an axis, neighbours first for mirror symmetry."""
    maps = np.moveaxis(maps, axis, -1)
    sums = np.empty_like(maps)
    np.add(maps[..., :-2], maps[..., 2:], out=sums[..., 1:-1])
    for edge, inner in ((0, 1), (-1, -2)):
        sums[..., edge] = maps[..., edge] + maps[..., inner if maps.shape[-1] > 1 else edge]
    sums += maps
    return np.moveaxis(sums, -1, axis)


def _check(name: str, luma: Luma, axes: str) -> None:
    dimensions = axes.count(",") + 1
    if not (isinstance(luma, np.ndarray) and luma.dtype == np.uint8 and luma.ndim == dimensions and luma.size):
        got = f"{luma.dtype} {luma.shape}" if isinstance(luma, np.ndarray) else type(luma).__name__
        raise ValueError(f"{name} must be uint8 {axes}, got {got}")
