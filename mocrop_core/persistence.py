"""Persistent motion: residuals that agree with those of neighbouring cells and frames add up."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mocrop_core.cells import Cells
from mocrop_core.texture import box_sums

REACH = 2  # frames before and after
FRAMES = 2 * REACH + 1
LEAST_SUPPORT = 0.1  # minimum mean texture of cells with vectors
STILL = 2**-10  # px: smaller values are rounding errors


def weighted(residual: tuple[Cells, Cells], has: npt.NDArray[np.bool_], texture: Cells) -> Cells:
    """Return the sums over 3 x 3 cells of residuals and of support, weighted with texture: (3, frames, rows, columns).

    residual: (frames, rows, columns) px, along x and y. has: where there is a vector. texture: 0 to 1.
    """
    along, down = residual
    return np.stack([box_sums(texture * each) for each in (along, down, has)])


def persistent_motion(sums: Cells, texture: Cells) -> Cells:
    """Return the persistent motion in each cell of the middle frames: float32 (frames, rows, columns), px, >= 0.

    sums: the result of `weighted` for those frames and two more before and after, (3, frames + 4, rows, columns).
    texture: 0 to 1, (frames, rows, columns). It is the length of the mean residual over 3 x 3 cells and 5 frames times
    the texture; support below a tenth counts as a tenth. Values below 1/1024 px become 0. Source: ours.
    """
    along, down, support = (_sums_of_five(each) for each in sums)
    np.maximum(support, np.float32(LEAST_SUPPORT * 9 * FRAMES), out=support)
    along *= along
    down *= down
    along += down
    motion: Cells = np.sqrt(along, out=along)
    motion /= support
    motion *= motion >= STILL
    motion *= texture
    return motion


def _sums_of_five(values: Cells) -> Cells:
    """Return the sums over each five consecutive frames: (frames - 4, rows, columns)."""
    pairs = values[:-1] + values[1:]
    sums = pairs[:-3] + pairs[2:-1]
    sums += values[4:]
    return sums
