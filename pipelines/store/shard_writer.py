"""Incremental writers for shards that are too large to hold uncompressed: a view's frames, and motion vectors."""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
from zarr.abc.store import Store as ZarrStore
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec
from zarr.core.metadata import ArrayV3Metadata

from data_specs import schema
from data_specs.schema import TEXTURE_CHUNK
from data_specs.schema import VECTOR_CHUNK as VECTOR_CHUNK
from data_specs.shard_format import encoder, shard
from data_specs.stored import run
from pipelines.store.writer import array_of_shard, create_column, put_attributes, put_object


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


def _column_codec(name: str) -> BloscCodec:
    """The codec with the smallest output measured: 29 % of the H.264 file for all columns, 33 % with plain zstd."""
    shuffle: Literal["bitshuffle", "shuffle"] = "bitshuffle" if name in ("dx", "dy") else "shuffle"
    bytes_each = np.dtype(schema.MOTION_COLUMNS[name][0]).itemsize
    return BloscCodec(cname="zstd", clevel=3, shuffle=shuffle, typesize=bytes_each)


class _TextureWriter:
    """Appends the texture of key frames to one array in whole chunks; marks work as in `VectorWriter`."""

    def __init__(self, store: ZarrStore, shard: int) -> None:
        self._store, self._shard = store, shard
        self._codec = ZstdCodec(level=3)
        self._encode = encoder((BytesCodec(), self._codec, Crc32cCodec()))
        self._chunks, self._waiting = 0, bytearray()
        self._written = 0

    @property
    def count(self) -> int:
        """Cells appended so far."""
        return self._chunks * TEXTURE_CHUNK + len(self._waiting)

    def mark(self) -> tuple[int, bytes]:
        return self._chunks, bytes(self._waiting)

    def rollback(self, mark: tuple[int, bytes]) -> None:
        self._chunks, self._waiting = mark[0], bytearray(mark[1])

    def append(self, texture: npt.NDArray[np.uint8]) -> None:
        self._waiting += texture.tobytes()
        while len(self._waiting) >= TEXTURE_CHUNK:
            self._put(self._chunks, self._waiting[:TEXTURE_CHUNK])
            del self._waiting[:TEXTURE_CHUNK]
            self._chunks += 1

    def close(self) -> None:
        spec = schema.motion_texture(self._shard, self.count)
        if self._waiting:
            self._put(self._chunks, self._waiting)
        for number in range(schema.num_shards(self.count, TEXTURE_CHUNK), self._written):
            run(self._store.delete(f"{spec.path}/c/{number}"))
        create_column(self._store, spec, self._codec)

    def _put(self, number: int, cells: bytearray) -> None:
        key = f"{schema.motion_texture(self._shard, 0).path}/c/{number}"
        chunk = np.zeros(TEXTURE_CHUNK, np.uint8)
        chunk[: len(cells)] = np.frombuffer(cells, np.uint8)
        if chunk.any():
            put_object(self._store, key, self._encode(chunk))
        else:  # it reads as zeros where nothing is
            run(self._store.delete(key))
        self._written = max(self._written, number + 1)


class VectorWriter:
    """Appends a shard's packed vectors, as columns, and key-frame texture to ``motion/<shard>``.

    Data is written in whole chunks, so memory is bounded. ``mark`` and ``rollback`` discard what a failed clip wrote.
    """

    def __init__(self, store: ZarrStore, shard: int) -> None:
        self._store, self._shard, self._path = store, shard, schema.motion_path(shard)
        run(store.delete_dir(self._path))
        put_attributes(store, self._path, {})
        self._encoders = {
            name: encoder((BytesCodec(), _column_codec(name), Crc32cCodec())) for name in schema.MOTION_COLUMNS
        }
        self._flushed = 0
        self._waiting: list[npt.NDArray[Any]] = []
        self._num_waiting = 0
        self._num_chunks = 0
        self._texture = _TextureWriter(store, shard)

    @property
    def num_cells(self) -> int:
        """Texture cells appended so far."""
        return self._texture.count

    @property
    def count(self) -> int:
        """Vectors appended so far."""
        return self._flushed + self._num_waiting

    def mark(self) -> tuple[Any, ...]:
        """The current position, for ``rollback``."""
        return self._flushed, list(self._waiting), self._num_waiting, self._texture.mark()

    def rollback(self, mark: tuple[Any, ...]) -> None:
        """Discard everything appended since ``mark``; `close` deletes surplus chunks that were already written."""
        self._flushed, self._waiting, self._num_waiting = mark[0], list(mark[1]), mark[2]
        self._texture.rollback(mark[3])

    def append_texture(self, texture: npt.NDArray[np.uint8]) -> None:
        """Append the texture of a key frame: uint8 (rows, columns)."""
        self._texture.append(texture)

    def append(self, block: npt.NDArray[Any]) -> None:
        """Append vectors (`mocrop_core.PACKED`)."""
        self._waiting.append(block)
        self._num_waiting += len(block)
        while self._num_waiting >= VECTOR_CHUNK:
            self._flush(VECTOR_CHUNK)

    def close(self, offsets: list[int], texture_offsets: list[int], scales: list[int]) -> None:
        """Write the rest, the clips' offsets (one more than clips) and the scales of their displacements."""
        self._texture.close()
        length = self.count
        self._flush(self._num_waiting)
        for name in schema.MOTION_COLUMNS:
            for number in range(schema.num_shards(length, VECTOR_CHUNK), self._num_chunks):
                run(self._store.delete(self._key(name, number)))
            create_column(self._store, schema.motion_column(self._shard, name, length), _column_codec(name))
        tables = {"offset": offsets, "texture_offset": texture_offsets, "motion_scale": scales}
        for name, values in tables.items():
            spec = schema.motion_table(self._shard, name, len(values))
            create_column(self._store, spec, ZstdCodec(level=3))[:] = np.array(values, dtype=spec.dtype)

    def _flush(self, count: int) -> None:
        block: npt.NDArray[Any] = np.concatenate(self._waiting) if self._waiting else np.empty(0)
        self._waiting = [block[count:]] if len(block) > count else []
        self._num_waiting -= count
        if not count:
            return
        number = self._flushed // VECTOR_CHUNK
        for name, (dtype, _) in schema.MOTION_COLUMNS.items():
            chunk = np.zeros(VECTOR_CHUNK, dtype)
            chunk[:count] = block[schema.MOTION_FIELDS[name]][:count]
            if chunk.any():
                put_object(self._store, self._key(name, number), self._encoders[name](chunk))
            else:  # it reads as zeros where nothing is
                run(self._store.delete(self._key(name, number)))
        self._flushed += count
        self._num_chunks = max(self._num_chunks, number + 1)

    def _key(self, column: str, number: int) -> str:
        return f"{self._path}/{column}/c/{number}"
