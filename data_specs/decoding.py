"""Decoding chunks: the sizes in a chunk's header are compared with the schema before a decoder sees the chunk.

A chunk may come from an untrusted store. zstd and Blosc state the decoded size in a header; numcodecs allocates
whatever it says, and passes Blosc chunks to the C library without their length. Here the decoded size is known in
advance, a header with another size is refused, and every output buffer is filled completely. The classes are zarr's
own codecs with these checks; they encode exactly as zarr's do.
"""

from __future__ import annotations

import asyncio
import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from numcodecs import blosc, zstd
from numcodecs.vlen import VLenUTF8
from zarr.codecs import BloscCodec, VLenUTF8Codec, ZstdCodec
from zarr.core.dtype import VariableLengthUTF8

from data_specs.schema import MAX_TEXT_BYTES, MAX_TEXTS_BYTES

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer

Bytes = npt.NDArray[np.uint8]

_ZSTD_MAGIC = 0xFD2FB528
_BLOSC_HEADER = struct.Struct("<BBBBIII")
_BLOSC_VERSION = 2
_BLOSC_COMPRESSORS = {"lz4": 1, "zstd": 4}  # upper three bits of the header's flags; lz4hc writes lz4
_BLOSC_BITSHUFFLE, _BLOSC_BYTESHUFFLE = 4, 1


def zstd_content_size(payload: Bytes) -> int | None:
    """The content size in a zstd frame's header, bytes; None if it has none. ``ValueError`` unless a zstd frame.

    Source: RFC 8878, section 3.1.1.1.
    """
    head = payload[:18].tobytes()
    if len(head) < 6 or int.from_bytes(head[:4], "little") != _ZSTD_MAGIC:
        raise ValueError("not a zstd frame")
    descriptor = head[4]
    single_segment = bool(descriptor & 0x20)
    size_bytes = (int(single_segment), 2, 4, 8)[descriptor >> 6]
    start = 5 + (not single_segment) + (0, 1, 2, 4)[descriptor & 3]
    if not size_bytes:
        return None
    if len(head) < start + size_bytes:
        raise ValueError("its zstd header is truncated")
    return int.from_bytes(head[start : start + size_bytes], "little") + (256 if size_bytes == 2 else 0)


def decode_zstd(payload: Bytes, out: npt.NDArray[Any]) -> None:
    """Decode a zstd frame into all of ``out`` (contiguous); ``ValueError`` or ``RuntimeError`` if it does not fit."""
    size = zstd_content_size(payload)
    if size not in (None, out.nbytes):
        raise ValueError(f"its zstd header says {size} bytes, expected {out.nbytes}")
    zstd.decompress(payload, out)


def decode_blosc(payload: Bytes, out: npt.NDArray[Any]) -> None:
    """Decode a Blosc chunk of lz4 or zstd into all of ``out`` (contiguous); ``ValueError`` if it does not fit.

    The C library bounds its reads by the length in the header and its writes by the content size there, so both must
    be correct.
    """
    if len(payload) < _BLOSC_HEADER.size:
        raise ValueError("its Blosc header is truncated")
    version, _, flags, typesize, size, block, length = _BLOSC_HEADER.unpack(payload[: _BLOSC_HEADER.size].tobytes())
    if (size, length) != (out.nbytes, len(payload)):
        raise ValueError(f"its Blosc header says {size} bytes in {length}, expected {out.nbytes} in {len(payload)}")
    shuffles = flags & (_BLOSC_BITSHUFFLE | _BLOSC_BYTESHUFFLE)
    if (
        version != _BLOSC_VERSION
        or flags >> 5 not in _BLOSC_COMPRESSORS.values()
        or shuffles == _BLOSC_BITSHUFFLE | _BLOSC_BYTESHUFFLE
        or not typesize
        or not 0 < block <= max(size, 1)
        or block % typesize  # an incomplete last block would leave memory uninitialised
    ):
        raise ValueError("its Blosc header is not one that this version reads")
    blosc.decompress(payload, out)


def decode_raw(payload: Bytes, out: npt.NDArray[Any]) -> None:
    """Copy the bytes of an uncompressed chunk into ``out``; ``ValueError`` if the sizes differ."""
    np.copyto(out, payload.view(out.dtype).reshape(out.shape))


def text_bound(count: int) -> int:
    """The maximum decoded size of a chunk of ``count`` strings, bytes."""
    return min(4 + count * (4 + MAX_TEXT_BYTES), MAX_TEXTS_BYTES)


class CheckedZstd(ZstdCodec):
    """zarr's zstd codec, limited to the chunk's decoded size."""

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        payload = _bytes(chunk_bytes)
        size = _decoded_size(chunk_spec)
        if size is None:  # texts
            size, most = zstd_content_size(payload), text_bound(math.prod(chunk_spec.shape))
            if size is None or size > most:
                raise ValueError(f"its zstd header says {size} bytes, at most {most} are expected")
        out = np.empty(size, np.uint8)
        decode_zstd(payload, out)
        return chunk_spec.prototype.buffer.from_array_like(out)

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._decode_sync, chunk_bytes, chunk_spec)


class CheckedBlosc(BloscCodec):
    """zarr's Blosc codec, which refuses chunks with wrong sizes before the C library sees them."""

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        size = _decoded_size(chunk_spec)
        if size is None:
            raise ValueError("strings are not stored with Blosc")
        out = np.empty(size, np.uint8)
        decode_blosc(_bytes(chunk_bytes), out)
        return chunk_spec.prototype.buffer.from_array_like(out)

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._decode_sync, chunk_bytes, chunk_spec)


class CheckedStrings(VLenUTF8Codec):
    """zarr's string codec, which allocates no more strings than the chunk has."""

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        payload = _bytes(chunk_bytes)
        count = math.prod(chunk_spec.shape)
        stated = int.from_bytes(payload[:4].tobytes(), "little")
        if len(payload) < 4 + 4 * count or stated != count:
            raise ValueError(f"it claims {stated} strings in {len(payload)} bytes, expected {count}")
        texts = VLenUTF8().decode(np.ascontiguousarray(payload)).reshape(chunk_spec.shape)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(
            texts.astype(chunk_spec.dtype.to_native_dtype(), copy=False)
        )

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_bytes, chunk_spec)


CheckedStrings.__name__ = VLenUTF8Codec.__name__  # zarr recognises a string codec by this


def _bytes(chunk: Buffer) -> Bytes:
    return np.ascontiguousarray(chunk.as_numpy_array()).view(np.uint8)


def _decoded_size(spec: ArraySpec) -> int | None:
    """Bytes of a decoded chunk; None for strings."""
    if isinstance(spec.dtype, VariableLengthUTF8):
        return None
    return math.prod(spec.shape) * spec.dtype.to_native_dtype().itemsize
