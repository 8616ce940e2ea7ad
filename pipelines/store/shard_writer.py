"""Incremental writers for shards that are too large to hold uncompressed: a view's frames, and motion vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from zarr.abc.store import Store as ZarrStore
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec
from zarr.core.metadata import ArrayV3Metadata

from data_specs import schema
from data_specs.motion_format import (
    COLUMNS,
    MOTION_BLOCKS,
    VECTOR_CHUNK,
    MotionIndex,
    Pages,
    motion_array,
    vector_pages,
)
from data_specs.shard_format import encoder, shard
from data_specs.stored import run
from pipelines.store.writer import array_document, array_of_shard, put_object, remove_record

_CELLS = VECTOR_CHUNK * COLUMNS  # texture cells in a block


class FrameWriter:
    """Collects the frames of one shard of a view, each encoded when it is added.

    ``rows`` must be exactly one shard, else ``ValueError``.
    """

    def __init__(self, store: ZarrStore, path: str, rows: range) -> None:
        array = array_of_shard(store, path, rows)
        metadata = cast(ArrayV3Metadata, array.metadata)
        (sharding,) = metadata.codecs
        assert isinstance(sharding, ShardingCodec)
        assert array.shards is not None
        first = (rows.start // array.shards[0], *(0 for _ in array.shape[1:]))
        self._store, self._key = store, f"{path}/{metadata.encode_chunk_key(first)}"
        self._encode = encoder(sharding.codecs)
        self._chunk = array.chunks
        self._counts = tuple(length // chunk for length, chunk in zip(array.shards, array.chunks, strict=True))
        self._frames: dict[tuple[int, ...], bytes] = {}
        self._rows: set[int] = set()  # rows with frames, including black ones

    def put(self, row: int, slot: int, picture: npt.NDArray[np.uint8]) -> None:
        """Add a frame of the shard's clip ``row``. All-black frames are not stored: a missing one reads as black."""
        self._rows.add(row)
        if picture.any():
            self._frames[(row, slot, 0, 0, 0)] = self._encode(picture.reshape(self._chunk))

    def drop(self, row: int) -> None:
        """Discard the frames of a clip."""
        self._rows.discard(row)
        self._frames = {place: frame for place, frame in self._frames.items() if place[0] != row}

    def write(self) -> None:
        """Write the shard, or delete it if it has no clips."""
        if self._rows:
            put_object(self._store, self._key, shard(self._frames, self._counts))
        else:
            run(self._store.delete(self._key))


_MOTION_CODEC = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle", typesize=2)
"""The vectors take 27 % of the H.264 file: 34 % with bitshuffle, 31 % with zstd alone, 25 % with level 5, which takes
twice the time (measured on the UCF-101 clips)."""
_encode_pages = encoder((BytesCodec(), _MOTION_CODEC, Crc32cCodec()))


def _encoded(pages: Pages) -> list[bytes]:
    """The chunks of a block, b"" for one of zeros, which is not stored."""
    return [_encode_pages(page) if page.any() else b"" for page in pages]


def _make_room(store: ZarrStore, shard: int) -> None:
    """Remove the objects of a shard's vectors, and before them the record, which must not be without them."""
    path = schema.motion_path(shard)
    if run(_any_in(store, path)):
        remove_record(store, schema.progress_path("motion", None, shard))
        run(store.delete_dir(path))


async def _any_in(store: ZarrStore, path: str) -> bool:
    return bool([name async for name in store.list_dir(path)])


class VectorWriter:
    """Appends a shard's packed vectors and key-frame texture to ``motion/<shard>``.

    They are encoded block by block, and vectors are written when an object is full, so memory is bounded. ``mark`` and
    ``rollback`` discard what a failed clip wrote. Vectors that exist are removed first, with their record.
    """

    def __init__(self, store: ZarrStore, shard: int) -> None:
        self._store, self._shard, self._path = store, shard, schema.motion_path(shard)
        _make_room(store, shard)
        self.count = 0
        self._waiting: tuple[npt.NDArray[Any], ...] = ()  # vectors of the block that is not full
        self._blocks: tuple[list[bytes], ...] = ()  # of the object that is not full
        self._objects = 0  # full ones
        self._written = 0  # objects, including those that were rolled back
        self.num_cells = 0
        self._cells: tuple[bytes, ...] = ()  # texture of the block that is not full
        self._texture: tuple[list[bytes], ...] = ()

    def mark(self) -> tuple[Any, ...]:
        """The current position, for ``rollback``."""
        vectors = self.count, self._waiting, self._blocks, self._objects
        return *vectors, self.num_cells, self._cells, self._texture

    def rollback(self, mark: tuple[Any, ...]) -> None:
        """Discard everything appended since ``mark``; `close` deletes surplus objects that were already written."""
        self.count, self._waiting, self._blocks, self._objects, self.num_cells, self._cells, self._texture = mark

    def append_texture(self, textures: npt.NDArray[np.uint8]) -> None:
        """Append the texture of some key frames: uint8 (frames, rows, columns)."""
        self._cells += (textures.tobytes(),)
        self.num_cells += textures.size
        if sum(map(len, self._cells)) >= _CELLS:
            self._flush_texture()

    def append(self, block: npt.NDArray[Any]) -> None:
        """Append vectors (`mocrop_core.PACKED`)."""
        self._waiting += (block,)
        self.count += len(block)
        if sum(map(len, self._waiting)) >= VECTOR_CHUNK:
            self._flush_vectors()

    def close(self, vectors: Sequence[int], cells: Sequence[int], scales: Sequence[int]) -> None:
        """Write the rest, and for each clip its number of vectors and texture cells and the scale of its vectors."""
        if self._waiting:
            self._flush_vectors(whole=False)
        if self._cells:
            self._flush_texture(whole=False)
        for block in self._texture:
            self._add(block)
        index = MotionIndex(tuple(vectors), tuple(cells), tuple(scales))
        spec = motion_array(self._shard, index.blocks)
        assert spec.shards is not None
        if self._blocks:
            self._put(spec.shards[0])
        for number in range(self._objects, self._written):
            run(self._store.delete(self._key(number)))
        document = array_document(spec, "auto", (_MOTION_CODEC,), **index.as_attributes())
        put_object(self._store, f"{self._path}/zarr.json", document)

    def _flush_vectors(self, whole: bool = True) -> None:
        """Encode the blocks that are full, or also the last one."""
        vectors = np.concatenate(self._waiting)
        stop = len(vectors) // VECTOR_CHUNK * VECTOR_CHUNK if whole else len(vectors)
        for start in range(0, stop, VECTOR_CHUNK):
            self._add(_encoded(vector_pages(vectors[start : min(start + VECTOR_CHUNK, stop)])))
        self._waiting = (vectors[stop:].copy(),) if stop < len(vectors) else ()

    def _flush_texture(self, whole: bool = True) -> None:
        """Encode the blocks that are full, or also the last one."""
        cells = np.frombuffer(b"".join(self._cells), np.uint8)
        stop = len(cells) // _CELLS * _CELLS if whole else len(cells)
        for start in range(0, stop, _CELLS):
            some = cells[start : min(start + _CELLS, stop)]
            block = np.zeros(_CELLS, "<u2")
            block[: len(some)] = some
            self._texture += (_encoded(block.reshape(COLUMNS, VECTOR_CHUNK)),)
        self._cells = (cells[stop:].tobytes(),) if stop < len(cells) else ()

    def _add(self, block: list[bytes]) -> None:
        self._blocks += (block,)
        if len(self._blocks) == MOTION_BLOCKS:
            self._put(MOTION_BLOCKS)

    def _put(self, places: int) -> None:
        """Write the blocks so far as one object that has so many places for blocks."""
        chunks: dict[tuple[int, ...], bytes] = {}
        for number, block in enumerate(self._blocks):
            chunks |= {(number, column, 0): chunk for column, chunk in enumerate(block) if chunk}
        put_object(self._store, self._key(self._objects), shard(chunks, (places, COLUMNS, 1)))
        self._blocks = ()
        self._objects += 1
        self._written = max(self._written, self._objects)

    def _key(self, number: int) -> str:
        return schema.chunk_key(self._path, (number, 0, 0))
