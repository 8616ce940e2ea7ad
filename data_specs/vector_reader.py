"""Reading the motion vectors of a shard."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt
from zarr.abc.store import Store as ZarrStore

from data_specs import schema
from data_specs.arrays import open_array, stored_length
from data_specs.objects import reading
from mocrop_core.vectors import PACKED, VECTOR, in_pixels


class VectorReader:
    """The motion vectors of one shard, clip by clip; each chunk is decoded once if clips are read in order."""

    def __init__(self, store: ZarrStore, shard: int) -> None:
        self._path = schema.motion_path(shard)
        with self._reading():
            tables = {name: self._table(store, shard, name) for name in schema.MOTION_TABLES}
            self._offset, self._scale = tables["offset"], tables["motion_scale"]
            self._texture_offset = tables["texture_offset"]
            for offset in (self._offset, self._texture_offset):
                if len(offset) != len(self._scale) + 1 or offset[0] != 0 or (np.diff(offset) < 0).any():
                    raise ValueError("its offsets are not increasing from 0")
            self._columns = {
                name: open_array(store, schema.motion_column(shard, name, int(self._offset[-1])))
                for name in schema.MOTION_COLUMNS
            }
            self._texture = open_array(store, schema.motion_texture(shard, int(self._texture_offset[-1])))
        self._chunk_length = schema.VECTOR_CHUNK
        self._chunk: tuple[int, npt.NDArray[Any]] = (-1, np.empty(0, PACKED))

    @staticmethod
    def _table(store: ZarrStore, shard: int, name: str) -> npt.NDArray[Any]:
        length = stored_length(store, f"{schema.motion_path(shard)}/{name}", 1 << 20)
        return np.asarray(open_array(store, schema.motion_table(shard, name, length))[:])

    def textures(self, clip: int, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
        """The texture of a clip's key frames, of shape (key frames, rows, columns) of cells."""
        start, stop = (int(bound) for bound in self._texture_offset[clip : clip + 2])
        with self._reading():
            if stop - start != math.prod(shape):
                raise ValueError(f"it has {stop - start} texture cells, not {shape} key frames, rows and columns")
            return np.asarray(self._texture[start:stop], np.uint8).reshape(shape)

    def count(self, clip: int) -> int:
        """The number of vectors of a clip of the shard."""
        return int(self._offset[clip + 1] - self._offset[clip])

    def counts(self) -> list[int]:
        """The number of vectors of each clip of the shard."""
        return [int(count) for count in np.diff(self._offset)]

    def blocks(self, clip: int) -> Iterator[npt.NDArray[Any]]:
        """The vectors of a clip (``mocrop_core.vectors.VECTOR``) in decode order, in blocks of bounded size."""
        start, stop = int(self._offset[clip]), int(self._offset[clip + 1])
        while start < stop:
            index, within = divmod(start, self._chunk_length)
            end = min(stop, (index + 1) * self._chunk_length)
            packed = self._read_chunk(index)[within : within + end - start]
            with self._reading():
                block = in_pixels(packed, int(self._scale[clip]))
            yield block
            start = end

    def read(self, clip: int) -> npt.NDArray[Any]:
        """All vectors of a clip."""
        return np.concatenate([np.empty(0, VECTOR), *self.blocks(clip)])

    def _read_chunk(self, index: int) -> npt.NDArray[Any]:
        if self._chunk[0] != index:
            rows = slice(index * self._chunk_length, (index + 1) * self._chunk_length)
            with self._reading():
                columns = {name: np.asarray(column[rows]) for name, column in self._columns.items()}
                chunk = np.empty(len(columns["frame"]), PACKED)
                for name, values in columns.items():
                    chunk[schema.MOTION_FIELDS[name]] = values
                if not chunk["w"].all():  # a missing chunk reads as zeros
                    raise ValueError(f"vectors from {index * self._chunk_length} on have no size")
            self._chunk = (index, chunk)
        return self._chunk[1]

    def _reading(self) -> AbstractContextManager[None]:
        return reading(f"{self._path} in the store")
