"""The motion field of a clip: the mean displacement of the vectors in each square cell of each frame."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mocrop_core.ranges import check_count, check_size
from mocrop_core.vectors import Vectors, check_vectors

Flow = npt.NDArray[np.float32]


def cell_flow(v: Vectors, num_frames: int, frame_size: tuple[int, int], cell: int) -> Flow:
    """Return the mean displacement in each cell of each frame.

    v: `VECTOR` (n,). num_frames: frames of the clip, >= 0. frame_size: height and width, px. cell: side of a cell, px,
    >= 1; cells start at the upper left corner, and the last row and column may extend beyond the frame's edge. A vector
    is weighted with the area of the overlap of its block and the cell. Returns float32 (num_frames, rows, columns, 2):
    dx, dy in px, NaN without blocks. Raises ValueError for a size or count out of range, or a vector of a frame that
    the clip does not have. Source: ours.
    """
    check_vectors("v", v)
    check_count("num_frames", num_frames)
    check_size("frame_size", frame_size)
    check_count("cell", cell, least=1)
    frames = v["frame"].min(initial=0), v["frame"].max(initial=-1)
    if frames[0] < 0 or frames[1] >= num_frames:
        raise ValueError(f"v has vectors of frames {frames[0]} to {frames[1]}, but num_frames is {num_frames}")
    rows, columns = (-(-side // cell) for side in frame_size)
    sums = np.zeros((3, num_frames * rows * columns))
    down = _overlaps(v["y"], v["h"], frame_size[0], cell)
    across = _overlaps(v["x"], v["w"], frame_size[1], cell)
    for row, height in down:
        for column, width in across:
            area = height * width
            kept = np.flatnonzero(area)
            place = (v["frame"][kept].astype(np.int64) * rows + row[kept]) * columns + column[kept]
            for total, values in zip(sums, (v["dx"], v["dy"], np.ones(len(v))), strict=True):
                total += np.bincount(place, area[kept] * values[kept], minlength=len(total))
    with np.errstate(invalid="ignore"):
        means = np.where(sums[2] > 0, sums[:2] / sums[2], np.nan)
    return np.ascontiguousarray(means.T, np.float32).reshape(num_frames, rows, columns, 2)


def _overlaps(
    centre: npt.NDArray[np.int16], side: npt.NDArray[np.uint8], length: int, cell: int
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Yield, for the first cell that a block may overlap, the second and so on, its index and the overlap in px."""
    begin = np.clip(centre.astype(np.int64) - side // 2, 0, length)
    end = np.clip(centre.astype(np.int64) - side // 2 + side, 0, length)
    most = int(np.max(end - begin, initial=0))
    found = []
    for step in range(-(-most // cell) + 1 if most else 0):
        index = begin // cell + step
        common = np.minimum(end, (index + 1) * cell) - np.maximum(begin, index * cell)
        found.append((index, np.maximum(common, 0)))
    return found
