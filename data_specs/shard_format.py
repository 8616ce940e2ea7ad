"""Chunks and shards in the byte format of Zarr v3, encoded in the caller's thread.

zarr-python passes each chunk through an event loop and a thread pool: 30 ms of CPU per clip and view, of which 9 are
compression. Here a chunk costs only its compression, and a shard is assembled from chunks as they arrive, so that at
most one raw frame is in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import Any, cast

import google_crc32c
import numpy as np
import numpy.typing as npt
from numcodecs.blosc import BITSHUFFLE, NOSHUFFLE, SHUFFLE, Blosc
from numcodecs.zstd import Zstd
from zarr.abc.codec import Codec
from zarr.codecs import BytesCodec, Crc32cCodec

from data_specs.decoding import Bytes, decode_blosc, decode_raw, decode_zstd
from data_specs.jpeg import JpegCodec

Encoder = Callable[[npt.NDArray[Any]], bytes]
Decoder = Callable[[Bytes, npt.NDArray[Any]], object]

_SHUFFLES = {"noshuffle": NOSHUFFLE, "shuffle": SHUFFLE, "bitshuffle": BITSHUFFLE}
_CHECKSUM = 4  # bytes of a crc32c
_FIRST_AND_LAST = (BytesCodec, Crc32cCodec)
_DECODERS: dict[str, Decoder] = {"": decode_raw, "zstd": decode_zstd, "blosc": decode_blosc}
NOTHING = 2**64 - 1  # offset and length of a missing chunk


def encoder(codecs: Iterable[Codec]) -> Encoder:
    """A function that encodes a chunk with a chain of codecs, which must be those of this package's arrays.

    Its argument is a complete, contiguous chunk of the array's type. ``ValueError`` for any other codec.
    """
    steps = [_step(codec) for codec in codecs]
    return lambda chunk: cast(bytes, reduce(lambda data, step: step(data), steps, cast(Any, chunk)))


def _step(codec: Codec) -> Callable[[Any], Any]:
    if isinstance(codec, JpegCodec):
        return codec.encoded
    match codec.to_dict():
        case {"name": "bytes", **rest} if rest.get("configuration", {}) in ({}, {"endian": "little"}):
            return _little_endian
        case {"name": "zstd", "configuration": {"level": level, "checksum": checksum}}:
            return cast(Callable[[Any], Any], Zstd(level=level, checksum=checksum).encode)
        case {"name": "blosc", "configuration": {"shuffle": shuffle, **settings}}:
            return cast(
                Callable[[Any], Any], Blosc(shuffle=_SHUFFLES[str(shuffle)], **cast(dict[str, Any], settings)).encode
            )
        case {"name": "crc32c"}:
            return checksummed
    raise ValueError(f"a chunk cannot be encoded with {codec}")


def _little_endian(chunk: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(chunk, chunk.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)


def checksummed(data: Any) -> bytes:
    """The bytes and their crc32c."""
    payload = bytes(data)
    return payload + int(google_crc32c.value(payload)).to_bytes(4, "little")


def shard(chunks: Mapping[tuple[int, ...], bytes], counts: tuple[int, ...]) -> bytes:
    """A shard of these chunks, given by their position in it and written in that order; its index is at the end.

    ``counts`` is the number of chunks along each axis; missing chunks read as the array's fill value.
    """
    index = np.full((*counts, 2), NOTHING, "<u8")
    places = sorted(chunks)
    offset = 0
    for place in places:
        index[place] = offset, len(chunks[place])
        offset += len(chunks[place])
    return b"".join([*(chunks[place] for place in places), checksummed(index.tobytes())])


class Shard:
    """The bytes of a shard, from which chunks of numbers are decoded one by one.

    ``counts`` are its places along each axis, ``codecs`` those of a chunk, as `data_specs.arrays.open_array` accepts
    them for numbers. ``ValueError`` for a shard that is cut short, or whose index is damaged.
    """

    def __init__(self, data: Bytes, counts: tuple[int, ...], codecs: Iterable[Codec]) -> None:
        self._data = data
        length = 16 * math.prod(counts) + _CHECKSUM
        if len(data) < length:
            raise ValueError(f"a shard has {len(data)} bytes, its index alone {length}")
        self._index = content(self._data[-length:]).copy().view("<u8").reshape(*counts, 2)
        name = "".join(str(codec.to_dict()["name"]) for codec in codecs if not isinstance(codec, _FIRST_AND_LAST))
        self._decode = _DECODERS[name]

    def read(self, place: tuple[int, ...], out: npt.NDArray[Any]) -> None:
        """Decode the chunk at a place into ``out`` (contiguous); zeros where there is none.

        ``ValueError`` or ``RuntimeError`` for a damaged chunk.
        """
        offset, length = self._index[place].tolist()
        if offset == NOTHING:
            out[...] = 0
            return
        if offset + length > len(self._data):
            raise ValueError("a chunk ends behind its shard")
        self._decode(content(self._data[offset : offset + length]), out)


def content(data: Bytes) -> Bytes:
    """The bytes before a crc32c; ``ValueError`` if it does not match."""
    payload = data[:-_CHECKSUM]
    if google_crc32c.value(payload) != int.from_bytes(data[-_CHECKSUM:].tobytes(), "little"):
        raise ValueError("a checksum does not match its bytes")
    return payload
