"""The motion of single frames on square cells, as a network sees it, with or without the camera's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mocrop_core.actor_map import KeyFrames
from mocrop_core.camera import camera_residual
from mocrop_core.cells import CellGrid, Cells, cell_displacements
from mocrop_core.ranges import check_count
from mocrop_core.vectors import Vectors

Frames = npt.NDArray[np.int64]


def frame_motion(
    v: Vectors, frames: Frames, keys: KeyFrames, grid: CellGrid, *, remove_camera: bool
) -> tuple[Cells, Cells]:
    """Return the mean displacement in each cell of some frames of a clip.

    v: `VECTOR` (n,), in any order; vectors of other frames are ignored. frames: int64 (f,), increasing. keys: the key
    frames of the clip. remove_camera: subtract the motion of the camera, as `choose_actor_box` does. Returns dx, dy:
    float32 (f, rows, columns), px, with the sign of the vectors; 0 in cells without a vector and in cells that do not
    lie entirely inside the picture. Raises ValueError if textures do not have the grid's shape, or for a displacement
    that is not finite. Source: ours.
    """
    cells = keys.cells(grid)
    v = v[np.isin(v["frame"], frames)]
    dx, dy, has = cell_displacements(v, frames, grid, keys.picture)
    inside = (slice(None), *cells)
    found_x, found_y = np.zeros_like(dx), np.zeros_like(dy)
    dx, dy, has = np.ascontiguousarray(dx[inside]), np.ascontiguousarray(dy[inside]), np.ascontiguousarray(has[inside])
    if remove_camera and dx.size:
        dx, dy = camera_residual(dx, dy, has, keys.smooth_textures(cells)[keys.latest(frames)])
    found_x[inside], found_y[inside] = dx, dy
    return found_x, found_y


def predicted_frames(num_frames: int, key_frames: tuple[int, ...], around: Frames, count: int) -> Frames:
    """Return, for each of some frames, the ``count`` consecutive predicted frames around it.

    num_frames: of the clip, >= 1. key_frames: their numbers; all other frames are predicted. around: int64 (n,).
    count: >= 1. Returns int64 (n, count), non-decreasing along a row: as many predicted frames before the given frame
    as from it on, or one fewer before it if ``count`` is odd; at an end of the clip, its first or last ``count``
    predicted frames. Key frames are skipped. A clip with fewer predicted frames repeats the last; one without any gives
    -1. Raises ValueError for a number below 1. Source: ours.
    """
    check_count("num_frames", num_frames, least=1)
    check_count("count", count, least=1)
    predicted = np.setdiff1d(np.arange(num_frames), key_frames)
    if not len(predicted):
        return np.full((len(around), count), -1, np.int64)
    first = np.clip(np.searchsorted(predicted, around) - count // 2, 0, max(len(predicted) - count, 0))
    chosen: Frames = predicted[np.minimum(first[:, None] + np.arange(count), len(predicted) - 1)]
    return chosen
