"""Packing and checking FFmpeg's motion vectors, and converting them to the coordinates of displayed frames."""

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
"""The used fields of FFmpeg's ``AVMotionVector`` (libavutil/motion_vector.h), in its layout on 64-bit machines."""


class VectorPacker:
    """Collects the vectors of frames and passes them on in blocks of dtype `mocrop_core.PACKED`.

    ``sink`` gets the blocks, each with ``block`` vectors or up to one frame's more; ``offsets`` are those of an H.264
    stream, None for other codecs. ``total`` is the number of vectors passed on, ``scale`` their units per px, 0 before
    the first. Displacements that refer to a later frame, as in B-frames, are reversed: all point back in time.
    """

    def __init__(self, sink: Callable[[np.ndarray], None], block: int, offsets: CropOffsets | None) -> None:
        self.total, self.scale = 0, 0
        self._sink, self._offsets = sink, offsets
        self._most, self._waiting = block * _AV_MOTION_VECTOR.itemsize, 0
        self._held: list[tuple[int, bytes]] = []

    def add(self, number: int, vectors: bytes) -> bool:
        """Add a frame's side data; return whether a block is full."""
        self._held.append((number, vectors))
        self._waiting += len(vectors)
        return self._waiting >= self._most

    def flush(self, size: tuple[int, int], coded: tuple[int, int]) -> None:
        """Pass on the collected vectors of frames of this ``size``, from pictures of size ``coded``, (height, width).

        Raises VideoError if a vector does not fit the dtype, scales differ, or the cropping is unknown.
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
                raise VideoError(f"a motion vector of {longest:g} px along one axis is too long to store")
            packed[field] = narrow
        return packed

    def _in_frame(self, packed: np.ndarray, size: tuple[int, int], coded: tuple[int, int]) -> np.ndarray:
        """Vectors of a coded picture in the coordinates of its frame, without those of completely cropped blocks."""
        offsets = self._offsets.offsets if self._offsets is not None else {(0, 0)}
        if len(offsets) > 1:
            places = " and ".join(f"{left},{top}" for left, top in sorted(offsets))
            raise VideoError(f"its cropping changes: frames start at the pixels {places} of the coded picture")
        if not offsets and size != coded:
            raise VideoError("its frames are cropped by an unknown offset: it has no readable sequence parameter set")
        left, top = next(iter(offsets), (0, 0))
        if not left and not top:
            return packed
        packed["x"] -= left
        packed["y"] -= top
        height, width = size
        inside = (packed["x"] + packed["w"] // 2 > 0) & (packed["x"] - packed["w"] // 2 < width)
        inside &= (packed["y"] + packed["h"] // 2 > 0) & (packed["y"] - packed["h"] // 2 < height)
        return packed[inside]
