"""Motion that persists: residuals that agree with those of their neighbours and of the frames around add up."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mocrop_core.cells import Cells
from mocrop_core.texture import box_sums

REACH = 2  # frames before and after
FRAMES = 2 * REACH + 1
LEAST_SUPPORT = 0.1  # of the mean of texture where there are vectors
STILL = 2**-10  # px: less is rounding


def weighted(residual: tuple[Cells, Cells], has: npt.NDArray[np.bool_], texture: Cells) -> Cells:
    """Return the sums over 3 x 3 cells of residuals and of support, weighted with texture: (3, frames, rows, columns).

    residual: (frames, rows, columns) px, along x and y. has: where there is a vector. texture: 0 to 1.
    """
    along, down = residual
    return np.stack([box_sums(texture * each) for each in (along, down, has)])


def persistent_motion(sums: Cells, texture: Cells) -> Cells:
    """Return how much motion persists in each cell of the middle frames: float32 (frames, rows, columns), px, >= 0.

    sums: what `weighted` gives for those frames and for two more before and after, (3, frames + 4, rows, columns).
    texture: 0 to 1, (frames, rows, columns). The length of the mean residual over 3 x 3 cells and 5 frames, where less
    than a tenth of that is supported as if it were a tenth, times the texture. Below 1/1024 px it is 0. Source: ours.
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
    """Return the sums of each five frames in a row: (frames - 4, rows, columns)."""
    pairs = values[:-1] + values[1:]
    sums = pairs[:-3] + pairs[2:-1]
    sums += values[4:]
    return sums
