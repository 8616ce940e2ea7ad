"""The motion vectors of one video, with its frame size, key frames and their texture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mocrop_core.density import Density, density_map
from mocrop_core.flow import Flow, cell_flow
from mocrop_core.ranges import check_count, check_size
from mocrop_core.vectors import Vectors, check_vectors, filter_by_magnitude


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class MotionVectors:
    """The motion vectors of one video, in decode order.

    vectors: `mocrop_core.VECTOR` (n,): for each block of each predicted frame its ``frame`` (from 0), centre ``x``,
    ``y`` and size ``w``, ``h`` in px, and the displacement ``dx``, ``dy`` in px (with fractions) from the block to its
    place in the reference frame, right and down positive. What moves to the right has a negative dx. frame_size: height
    and width, px. num_frames: frames of the video. key_frames: the numbers of the key frames, which are coded without
    reference to others and have no vectors. texture: uint8 (key frames, rows, columns) of
    `mocrop_core.key_frame_textures`, which the method ``actor`` needs; None if it was not read. picture: x0, y0, x1, y1
    of the part of the frame inside black bars; None for the whole frame. Raises ValueError for another dtype or a size
    below 1.

    >>> mv = mocrop.read_motion_vectors("clip.mp4")
    >>> mv
    MotionVectors(13608 vectors, 50 frames of 320x240 px, 5 key frames with texture)
    >>> mv.frame_size, mv.num_frames, mv.key_frames
    ((240, 320), 50, (0, 12, 24, 36, 48))
    >>> mv.vectors["dx"].dtype, mv.texture.shape
    (dtype('float32'), (5, 30, 40))
    """

    vectors: Vectors
    frame_size: tuple[int, int]
    num_frames: int
    key_frames: tuple[int, ...]
    texture: npt.NDArray[np.uint8] | None = None
    picture: tuple[int, int, int, int] | None = None

    def __post_init__(self) -> None:
        check_vectors("vectors", self.vectors)
        check_size("frame_size", self.frame_size)
        check_count("num_frames", self.num_frames)

    def __len__(self) -> int:
        return len(self.vectors)

    def __repr__(self) -> str:
        height, width = self.frame_size
        texture = "" if self.texture is None else " with texture"
        return (
            f"MotionVectors({len(self.vectors)} vectors, {self.num_frames} frames of {width}x{height} px, "
            f"{len(self.key_frames)} key frames{texture})"
        )

    def flow(self, cell: int = 8) -> Flow:
        """Return the mean displacement in each square cell of each frame.

        cell: side of a cell, px, >= 1. Returns float32 (frames, rows, columns, 2): dx, dy in px per frame, with the
        sign of `vectors`, and NaN for cells without vectors, such as all cells of a key frame. The last row and column
        may extend beyond the frame's edge. Raises ValueError for a cell below 1.

        >>> flow = mocrop.read_motion_vectors("clip.mp4").flow(cell=8)
        >>> flow.shape, flow.dtype
        ((50, 30, 40, 2), dtype('float32'))
        """
        return cell_flow(self.vectors, self.num_frames, self.frame_size, cell)

    def density(self, grid: tuple[int, int] = (30, 40), threshold: float = 0.0) -> Density:
        """Return the number of vectors of the whole video in each cell of a grid.

        grid: rows and columns. threshold: px, >= 0; only strictly longer vectors count. Returns float32 (rows,
        columns), all 0 if nothing moves. Raises ValueError for a grid below 1 or a negative threshold.

        >>> density = mocrop.read_motion_vectors("clip.mp4").density(grid=(6, 8), threshold=1.0)
        >>> density.shape, int(density.sum())
        ((6, 8), 1108)
        """
        return density_map(filter_by_magnitude(self.vectors, threshold), self.frame_size, grid)
