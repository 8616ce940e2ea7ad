"""The motion-density map: the number of vectors in each cell of a grid over the frame."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mocrop_core.ranges import check_size
from mocrop_core.vectors import Vectors, check_vectors

Density = npt.NDArray[np.float32]


def density_map(v: Vectors, frame_size: tuple[int, int], grid: tuple[int, int]) -> Density:
    """Count the vectors in each cell of a grid.

    v: `VECTOR` (n,). frame_size: height and width, px. grid: rows and columns, >= 1 each. Returns float32
    (rows, columns) of counts that add up to n: zeros for empty input, exact up to 2 ** 24 per cell. A block
    centre outside the frame counts in the nearest pixel; the pixel y lies in row floor(y * rows / height), in
    integer arithmetic. Raises ValueError for a size below 1. Source: MoCrop v1, motion-density map; the clipping
    is ours.
    """
    check_vectors("v", v)
    check_size("frame_size", frame_size)
    check_size("grid", grid)
    (height, width), (rows, columns) = frame_size, grid
    row = np.clip(v["y"].astype(np.int64), 0, height - 1) * rows // height
    column = np.clip(v["x"].astype(np.int64), 0, width - 1) * columns // width
    counts = np.bincount(row * columns + column, minlength=rows * columns)
    return counts.reshape(rows, columns).astype(np.float32)
