"""The array ``motion/<shard>``: the motion vectors and the key frames' texture of a shard of clips, in one object.

uint16, in blocks of `VECTOR_CHUNK` values for each column. The vectors of all clips stand one after another, in decode
order, so that ``array[:, c].reshape(-1)`` is column ``c`` of all of them; the blocks behind the last vector hold the
texture, cell after cell. A chunk is one column of one block, a Zarr shard up to `MOTION_BLOCKS` blocks. The array's
attributes say which part each clip has (`MotionIndex`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data_specs.fingerprints import fingerprint
from data_specs.schema import MAX_FRAMES, MAX_VECTORS, ArraySpec, motion_path, num_shards
from mocrop_core.vectors import PACKED

MOTION_COLUMNS: dict[str, str] = {
    "frame": "frame that the block belongs to, from 0: the lower 16 bits",
    "frame_high": "the upper 16 bits of it: 0 in clips of fewer than 65,536 frames",
    "x": "centre of the block, px, in two's complement",
    "y": "centre of the block, px, in two's complement",
    "w": "width of the block, px",
    "h": "height of the block, px",
    "dx": "from the block to where it was in an earlier frame, right is positive, in 1/motion_scale px, zigzag",
    "dy": "from the block to where it was in an earlier frame, down is positive, in 1/motion_scale px, zigzag",
}
"""The columns of a block of vectors. Zigzag turns 0, -1, 1, -2, 2, … into 0, 1, 2, 3, 4, …: it compresses better."""
COLUMNS = len(MOTION_COLUMNS)
VECTOR_CHUNK = 1 << 16  # values in a chunk: 128 kB before compression
MOTION_BLOCKS = 1 << 7  # blocks in an object: 2**23 vectors, which take about 12 MB
_CELLS = VECTOR_CHUNK * COLUMNS  # texture cells in a block

Pages = npt.NDArray[np.uint16]
"""A block: uint16 (columns, `VECTOR_CHUNK`)."""


@dataclass(frozen=True, slots=True)
class MotionIndex:
    """Which part of the array each clip of the shard has.

    ``vectors`` and ``cells`` count the vectors and the texture cells of each clip; ``scales`` are the units of its
    displacements in a pixel, 0 where it has no vectors.
    """

    vectors: tuple[int, ...]
    cells: tuple[int, ...]
    scales: tuple[int, ...]

    @property
    def vector_blocks(self) -> int:
        """Blocks of vectors; those of texture follow them."""
        return num_shards(sum(self.vectors), VECTOR_CHUNK)

    @property
    def blocks(self) -> int:
        """All blocks."""
        return self.vector_blocks + num_shards(sum(self.cells), _CELLS)

    def as_attributes(self) -> dict[str, Any]:
        """The index as attributes of the array; their fingerprint takes the place of a chunk's checksum."""
        return {
            "columns": list(MOTION_COLUMNS),
            "vectors": list(self.vectors),
            "texture_cells": list(self.cells),
            "motion_scale": list(self.scales),
            "fingerprint": fingerprint("motion", self.vectors, self.cells, self.scales),
        }

    @classmethod
    def parse(cls, attributes: Any) -> MotionIndex:
        """The index in the attributes of an array; ``ValueError`` where they are damaged."""
        if not isinstance(attributes, dict):
            raise ValueError("its attributes are no object")
        most = {"vectors": MAX_VECTORS, "texture_cells": MAX_VECTORS, "motion_scale": (1 << 16) - 1}
        index = cls(*(_counts(name, attributes.get(name), bound) for name, bound in most.items()))
        if not len(index.vectors) == len(index.cells) == len(index.scales):
            raise ValueError("its attributes have counts of different lengths")
        if any(attributes.get(name) != value for name, value in index.as_attributes().items()):
            raise ValueError("its attributes do not match their fingerprint")
        if max(sum(index.vectors), sum(index.cells)) > MAX_VECTORS:
            raise ValueError(f"it has more than {MAX_VECTORS:,} vectors or texture cells")
        return index


def _counts(name: str, values: Any, most: int) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int and 0 <= value <= most for value in values):
        raise ValueError(f"{name} is {str(values)[:60]}, expected a list of numbers from 0 to {most:,}")
    return tuple(values)


def motion_array(shard: int, blocks: int) -> ArraySpec:
    """What the schema says of the array of a shard that has so many blocks."""
    return ArraySpec(
        motion_path(shard), "uint16", (blocks, COLUMNS, VECTOR_CHUNK), (1, 1, VECTOR_CHUNK),
        (f"block_{shard:05d}", "column", "value"), 0, "motion vectors, then the texture of key frames, clip after clip",
        shards=(min(max(blocks, 1), MOTION_BLOCKS), COLUMNS, VECTOR_CHUNK),
    )  # fmt: skip


def vector_pages(packed: npt.NDArray[np.void]) -> Pages:
    """A block of at most `VECTOR_CHUNK` vectors (`mocrop_core.PACKED`), filled up with zeros."""
    pages = np.zeros((COLUMNS, VECTOR_CHUNK), "<u2")
    frame, frame_high, x, y, w, h, dx, dy = pages[:, : len(packed)]
    frame[:], frame_high[:] = packed["frame"] & 0xFFFF, packed["frame"] >> 16
    x[:], y[:] = packed["x"].view("<u2"), packed["y"].view("<u2")
    w[:], h[:] = packed["w"], packed["h"]
    for column, field in ((dx, "motion_x"), (dy, "motion_y")):
        moved = packed[field]
        column[:] = ((moved << 1) ^ (moved >> 15)).view("<u2")
    return pages


def vectors_of(pages: Pages) -> npt.NDArray[np.void]:
    """The vectors (`mocrop_core.PACKED`) of a block, or of a part of its rows; ``ValueError`` for what none has."""
    frame, frame_high, x, y, w, h, dx, dy = pages
    if not w.all():  # as where a chunk is missing
        raise ValueError("vectors have no size")
    if max(w.max(initial=0), h.max(initial=0)) > 255 or frame_high.max(initial=0) >= num_shards(MAX_FRAMES, 1 << 16):
        raise ValueError("vectors have numbers that none can have")
    packed = np.empty(pages.shape[1], PACKED)
    packed["frame"] = frame_high
    packed["frame"] <<= 16
    packed["frame"] |= frame
    packed["x"], packed["y"] = x.view("<i2"), y.view("<i2")
    packed["w"], packed["h"] = w, h
    for column, field in ((dx, "motion_x"), (dy, "motion_y")):
        packed[field] = ((column >> 1) ^ (0 - (column & 1))).view("<i2")
    return packed
