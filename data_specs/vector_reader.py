"""Reading the motion vectors of a shard."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from zarr.abc.store import Store as ZarrStore
from zarr.codecs import ShardingCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.metadata import ArrayV3Metadata

from data_specs import schema
from data_specs.arrays import bounded, open_array, read_document
from data_specs.motion_format import COLUMNS, VECTOR_CHUNK, MotionIndex, Pages, motion_array, vectors_of
from data_specs.objects import reading, run
from data_specs.shard_format import Shard
from mocrop_core.vectors import VECTOR, in_pixels


class VectorReader:
    """The motion vectors of one shard, in two reads; each block is decoded once if clips are read in order."""

    def __init__(self, store: ZarrStore, shard: int) -> None:
        self._path = schema.motion_path(shard)
        with self._reading():
            document = read_document(store, self._path)
            self._index = MotionIndex.parse(document.get("attributes"))
            spec = motion_array(shard, self._index.blocks)
            array = open_array(store, spec, document)
        assert spec.shards is not None
        self._store, self._metadata = bounded(store, spec), cast(ArrayV3Metadata, array.metadata)
        self._blocks = spec.shards[0]  # in an object
        self._offset = np.cumsum([0, *self._index.vectors])
        self._texture_offset = np.cumsum([0, *self._index.cells])
        self._object: tuple[int, Shard] | None = None
        self._block: tuple[int, Pages] | None = None

    def textures(self, clip: int, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
        """The texture of a clip's key frames, of shape (key frames, rows, columns) of cells."""
        with self._reading():
            start, stop = self._part(self._texture_offset, clip)
            if stop - start != math.prod(shape):
                raise ValueError(f"it has {stop - start} texture cells, not {shape} key frames, rows and columns")
            parts = [np.empty(0, np.uint16)]
            for block, within in _pieces(start, stop, VECTOR_CHUNK * COLUMNS):
                parts.append(self._read(self._index.vector_blocks + block).reshape(-1)[within])
            cells = np.concatenate(parts)
            if cells.max(initial=0) > 255:
                raise ValueError("its texture has numbers above 255")
            return cells.astype(np.uint8).reshape(shape)

    def count(self, clip: int) -> int:
        """The number of vectors of a clip of the shard."""
        with self._reading():
            start, stop = self._part(self._offset, clip)
        return stop - start

    def counts(self) -> list[int]:
        """The number of vectors of each clip of the shard."""
        return list(self._index.vectors)

    def blocks(self, clip: int) -> Iterator[npt.NDArray[Any]]:
        """The vectors of a clip (``mocrop_core.vectors.VECTOR``) in decode order, in blocks of bounded size."""
        with self._reading():
            start, stop = self._part(self._offset, clip)
        for block, within in _pieces(start, stop, VECTOR_CHUNK):
            with self._reading():
                vectors = in_pixels(vectors_of(self._read(block)[:, within]), self._index.scales[clip])
            yield vectors

    def read(self, clip: int) -> npt.NDArray[Any]:
        """All vectors of a clip."""
        return np.concatenate([np.empty(0, VECTOR), *self.blocks(clip)])

    def read_many(self, clips: Iterable[int]) -> list[npt.NDArray[Any]]:
        """All vectors of each of several clips, in the order asked for; what they share is read and decoded once."""
        wanted = list(clips)
        found = {clip: self.read(clip) for clip in sorted(set(wanted))}
        return [found[clip] for clip in wanted]

    def _part(self, offset: npt.NDArray[np.int64], clip: int) -> tuple[int, int]:
        if not 0 <= clip < len(offset) - 1:
            raise ValueError(f"it has {len(offset) - 1} clips, and no clip {clip}")
        return int(offset[clip]), int(offset[clip + 1])

    def _read(self, block: int) -> Pages:
        """A block; the last one is kept."""
        if self._block is None or self._block[0] != block:
            number, within = divmod(block, self._blocks)
            if self._object is None or self._object[0] != number:
                self._object = number, self._shard(number)
            pages = np.empty((COLUMNS, VECTOR_CHUNK), "<u2")
            for column, page in enumerate(pages):
                self._object[1].read((within, column, 0), page)
            self._block = block, pages
        return self._block[1]

    def _shard(self, number: int) -> Shard:
        key = schema.chunk_key(self._path, (number, 0, 0))
        found = run(self._store.get(key, default_buffer_prototype()))
        if found is None:
            raise FileNotFoundError(f"{key} is missing")
        (sharding,) = self._metadata.codecs
        return Shard(
            found.as_numpy_array().view(np.uint8), (self._blocks, COLUMNS, 1), cast(ShardingCodec, sharding).codecs
        )

    def _reading(self) -> AbstractContextManager[None]:
        return reading(f"{self._path} in the store")


def _pieces(start: int, stop: int, length: int) -> Iterator[tuple[int, slice]]:
    """The blocks of ``length`` that ``start`` to ``stop`` lie in, and which part of each."""
    while start < stop:
        block, within = divmod(start, length)
        end = min(stop, (block + 1) * length)
        yield block, slice(within, within + end - start)
        start = end
