"""FFmpeg's motion vectors as they are kept: packed, checked, and in the coordinates of the frames that are shown."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mocrop_core.vectors import PACKED
from pipelines.media.containers import VideoError
from pipelines.media.sps import CropOffsets

_AV_MOTION_VECTOR = np.dtype(
    {
        "names": ["source", "w", "h", "dst_x", "dst_y", "motion_x", "motion_y", "motion_scale"],
        "formats": ["<i4", "u1", "u1", "<i2", "<i2", "<i4", "<i4", "<u2"],
        "offsets": [0, 4, 5, 10, 12, 24, 28, 32],
        "itemsize": 40,
    }
)
"""The fields in use of FFmpeg's ``AVMotionVector`` (libavutil/motion_vector.h), as laid out on 64-bit
machines."""


class VectorPacker:
    """Gathers the vectors of frames and hands them on in blocks of dtype `mocrop_core.PACKED`.

    ``sink`` gets the blocks, each with ``block`` vectors or up to one frame's more; ``offsets`` are those of an H.264
    stream, None for another. ``total`` is the number of vectors handed on, ``scale`` their number of units in a px, 0
    before the first. A displacement that refers to a later frame, as in B-frames, is reversed: all point back in time.
    """

    def __init__(self, sink: Callable[[np.ndarray], None], block: int, offsets: CropOffsets | None) -> None:
        self.total, self.scale = 0, 0
        self._sink, self._offsets = sink, offsets
        self._most, self._waiting = block * _AV_MOTION_VECTOR.itemsize, 0
        self._held: list[tuple[int, bytes]] = []

    def add(self, number: int, vectors: bytes) -> bool:
        """Take in a frame's side data; whether a block is full."""
        self._held.append((number, vectors))
        self._waiting += len(vectors)
        return self._waiting >= self._most

    def flush(self, size: tuple[int, int], coded: tuple[int, int]) -> None:
        """Hand on what was gathered of frames of this ``size``, coded as pictures of size ``coded``: height and width.

        VideoError where a vector does not fit the type, scales differ, or it is not known how frames were cropped.
        """
        if self._held:
            packed = self._in_frame(self._packed(), size, coded)
            self._held, self._waiting, self.total = [], 0, self.total + len(packed)
            if len(packed):
                self._sink(packed)

    def _packed(self) -> np.ndarray:
        raw = np.frombuffer(b"".join(data for _, data in self._held), _AV_MOTION_VECTOR)
        self.scale = self.scale or int(raw["motion_scale"][0])
        if self.scale == 0 or (raw["motion_scale"] != self.scale).any():
            raise VideoError("its motion vectors have more than one scale")
        packed = np.empty(len(raw), PACKED)
        numbers, counts = zip(*((number, len(data) // raw.itemsize) for number, data in self._held), strict=True)
        packed["frame"] = np.repeat(numbers, counts)
        for column, field in (("x", "dst_x"), ("y", "dst_y"), ("w", "w"), ("h", "h")):
            packed[column] = raw[field]
        later = raw["source"] > 0
        for field in ("motion_x", "motion_y"):
            exact = np.ascontiguousarray(raw[field])
            np.negative(exact, out=exact, where=later)
            narrow = exact.astype(np.int16)
            if not np.array_equal(narrow, exact):
                longest = np.abs(exact).max() / self.scale
                raise VideoError(f"a motion vector of {longest:g} px along one axis is too long to be kept")
            packed[field] = narrow
        return packed

    def _in_frame(self, packed: np.ndarray, size: tuple[int, int], coded: tuple[int, int]) -> np.ndarray:
        """Vectors of a coded picture in the coordinates of its frame, without those of blocks wholly cropped away."""
        found = self._offsets.found if self._offsets is not None else {(0, 0)}
        if len(found) > 1:
            places = " and ".join(f"{left},{top}" for left, top in sorted(found))
            raise VideoError(f"its cropping changes: frames begin at the pixels {places} of what is coded")
        if not found and size != coded:
            raise VideoError("its frames are cropped, and how cannot be read: it has no sequence parameter set")
        left, top = next(iter(found), (0, 0))
        if not left and not top:
            return packed
        packed["x"] -= left
        packed["y"] -= top
        height, width = size
        inside = (packed["x"] + packed["w"] // 2 > 0) & (packed["x"] - packed["w"] // 2 < width)
        inside &= (packed["y"] + packed["h"] // 2 > 0) & (packed["y"] - packed["h"] // 2 < height)
        return packed[inside]
