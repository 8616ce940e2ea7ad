"""Read single frames from a store's shards directly into the memory of a batch: index, checksum and codec.

A shard is a file (or an object) of individually encoded frames, with an index at its end: the offset and length of each
frame, then a checksum (Zarr v3, ``sharding_indexed``). zarr-python can read it too, but takes several times as long;
so can tensorstore, which must not be forked (``python -m tests.benchmarks --only loader`` measures both).

Each call reads a list of frames. Calls from several threads run in parallel, because codecs and file reads release the
GIL. Reacquiring the GIL takes as long as copying a frame, so uncompressed frames in files are copied from mapped memory
and checked several at a time.

A run that repairs a store replaces a shard by a new one, in which frames may have other offsets. An index is used only
for the file or object that it was read from; if that was replaced, the index is read again.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any, cast

import google_crc32c
import numpy as np
import numpy.typing as npt
import torch
from awscrt.checksums import crc32c

from data_specs.decoding import decode_blosc, decode_raw, decode_zstd
from data_specs.jpeg import decode_jpeg
from data_specs.locations import Replaced
from data_specs.schema import chunk_key
from data_specs.stored import StoreError, is_url, open_store, shown
from training.clips import Clips
from training.options import Failed
from training.shard_sources import Bytes, Files, Objects, Request, Source, Version

Frames = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
Decoder = Callable[[Bytes, Frames], object]
Index = tuple[npt.NDArray[Any], npt.NDArray[np.uint32], Version | None]
"""Offset and length of each frame of a shard, both (clips, slots), and the version of that shard. Offsets are uint32
where the shard is below 4 GiB; an absent frame, which is black, has the length 0."""
Filler = Callable[[Sequence[Request | None], Frames], Iterator[None]]
"""Fills frames (n, size, size, 3) from n requests (None gives black), yielding after each; raises at the first damaged
one."""


INDEX_BYTES = 1 << 27  # of all indexes that a reader keeps: those of a million clips with 16 frames each
_CHECKSUM = 4  # bytes of a crc32c
_ABSENT = 2**64 - 1  # offset in the index of an unwritten frame, which is black
_MAPS = 2**14  # files at once; Linux allows 2**16 maps per process by default
_PIECE = 2**20  # bytes copied and checked at once: they fit the cache of a core
_FROM_DISK = 1e9  # bytes per second; a slower copy is waiting for a disk
_ATTEMPTS = 3  # to read frames whose shards are being replaced
_SYSTEM = ctypes.CDLL(None)  # libc: Python's mmap would keep each file open, and there may be thousands
_ASKED = 64  # calls with readahead requests, before one call tests whether they are still needed


class Damaged(Exception):
    """Damaged bytes; the message gives the reason."""


def _decode_jpeg(payload: Bytes, out: Frames) -> None:
    np.copyto(out, decode_jpeg(payload, *out.shape[:2]))


DECODERS: dict[str, Decoder] = {
    "": decode_raw,
    "zstd": decode_zstd,
    "blosc": decode_blosc,
    "mocrop.jpeg": _decode_jpeg,
}
"""Decoders by the codec's name in Zarr; the first is for uncompressed frames."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Layout of the frames: path of the array, clips per shard, slots per clip, side of a frame in px, and codec."""

    path: str
    shard_clips: int
    slots: int
    size: int
    decode: Decoder

    @property
    def index_length(self) -> int:
        """Bytes of a shard's index, including its checksum."""
        return 16 * self.shard_clips * self.slots + _CHECKSUM

    @property
    def longest(self) -> int:
        """Largest size of an encoded frame in bytes: twice its pixels plus a margin for the codec's headers."""
        return 3 * self.size**2 * 2 + (1 << 16)

    def key(self, shard: int) -> str:
        """Return the key of a shard in the store."""
        return chunk_key(self.path, (shard, 0, 0, 0, 0))


def read_layout(location: str, view: str) -> Layout:
    """Return the layout of a view's frames; ``StoreError`` for one that this version does not write."""
    array = open_store(location).view(view).array("frames")  # as in the schema, except for the codec
    (sharding,) = cast(Any, array.metadata).codecs
    assert array.shards is not None
    inner = [codec.to_dict()["name"] for codec in sharding.codecs[:-1]]
    decode = DECODERS["".join(name for name in inner if name != "bytes")]
    _, slots, size, _, _ = array.shape
    return Layout(f"views/{view}/frames", array.shards[0], slots, size, decode)


class FrameReader:
    """Reads frames of a view. Not shared between processes: create it in the process that uses it."""

    def __init__(self, clips: Clips) -> None:
        self._clips = clips
        self._layout = read_layout(clips.location, clips.view)
        self._source: Source = Objects(clips.location) if is_url(clips.location) else Files(clips.location)
        self._fill = _decodes(self._source, self._layout.decode)
        if self._layout.decode is decode_raw and isinstance(self._source, Files):
            self._fill = _copies(self._source, 3 * self._layout.size**2, self._fill)
        self._indexes: dict[int, Index] = {}
        self._most_indexes = max(1, INDEX_BYTES // (8 * self._layout.shard_clips * self._layout.slots))
        self._lock = Lock()

    def read(self, positions: Indices, slots: Indices, out: Frames) -> None:
        """Read the frame in ``slots[i]`` of clip ``positions[i]`` (both (n,)) into ``out[i]`` ((n, size, size, 3)).

        `Failed` names the clip whose bytes are damaged or missing and the commands that repair it, the answer of an
        object store, or shards that keep being replaced.
        """
        shards, within = np.divmod(self._clips.rows[positions], self._layout.shard_clips)
        for _ in range(_ATTEMPTS):
            try:
                return self._read(positions, slots, shards, within, out)
            except Replaced:
                with self._lock:
                    for shard in shards.tolist():
                        self._indexes.pop(shard, None)
            except StoreError as error:
                raise Failed(str(error)) from error
        raise Failed(
            f"store {shown(self._clips.location)}: its shards are replaced while they are read; wait for the run"
        )

    def _read(self, positions: Indices, slots: Indices, shards: Indices, within: Indices, out: Frames) -> None:
        indexes = self._read_indexes(positions, shards)
        requests: list[Request | None] = []
        for shard, clip, slot in zip(shards.tolist(), within.tolist(), slots.tolist(), strict=True):
            offsets, lengths, version = indexes[shard]
            start, length = offsets.item(clip, slot), lengths.item(clip, slot)
            requests.append((self._layout.key(shard), start, start + length, version) if length else None)
        filled = self._fill(requests, out)
        for i in range(len(out)):
            try:
                next(filled)
            except (Damaged, ValueError, RuntimeError, OSError) as error:
                raise self._failure(int(positions[i]), f"frame {slots[i]}: {error}") from error

    def _read_indexes(self, positions: Indices, shards: Indices) -> dict[int, Index]:
        wanted = dict.fromkeys(shards.tolist())
        indexes = {shard: index for shard in wanted if (index := self._indexes.get(shard)) is not None}
        missing = [shard for shard in wanted if shard not in indexes]
        keys = [self._layout.key(shard) for shard in missing]
        ends = self._source.ends(keys, self._layout.index_length)
        for shard, key, (found, version) in zip(missing, keys, ends, strict=True):
            try:
                indexes[shard] = *self._index(found), version
            except (Damaged, ValueError) as error:
                first = int(positions[shards == shard][0])
                raise self._failure(first, f"index of {key}: {error}") from error
            self._keep(shard, indexes[shard])
        return indexes

    def _keep(self, shard: int, index: Index) -> None:
        """Remember an index, instead of the oldest ones where there are too many."""
        with self._lock:
            self._indexes[shard] = index
            while len(self._indexes) > self._most_indexes:
                del self._indexes[next(iter(self._indexes))]

    def _index(self, found: Bytes | None) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint32]]:
        """Return the offset and length of each frame; `Damaged` if one is out of range."""
        table = checked(found).copy().view("<u8").reshape(self._layout.shard_clips, self._layout.slots, 2)
        offsets, lengths = table[..., 0], table[..., 1]
        written = offsets != _ABSENT
        longest = self._layout.longest
        if ((lengths > longest) | (lengths == 0) | (offsets > _ABSENT >> 1))[written].any():
            raise Damaged(f"it has offsets or lengths that no frame of at most {longest} bytes can have")
        small = bool((offsets[written] < 1 << 32).all())
        return np.where(written, offsets, 0).astype("<u4" if small else "<u8"), np.where(written, lengths, 0).astype(
            "<u4"
        )

    def _failure(self, position: int, reason: str) -> Failed:
        store = shown(self._clips.location)
        return Failed(
            f"clip {self._clips.ids[position]!r}, view {self._clips.view!r}, {reason}; mocrop verify {store} marks "
            f"what is damaged, then the mocrop preprocess --source … --store {store} that made it repairs it"
        )


def checked(found: Bytes | None) -> Bytes:
    """Return the bytes without the checksum at their end; `Damaged` if it does not match, or if there are none."""
    if found is None:
        raise Damaged("its shard is missing")
    if len(found) < _CHECKSUM:
        raise Damaged("its shard is truncated")
    payload = found[:-_CHECKSUM]
    if google_crc32c.value(payload) != int.from_bytes(found[-_CHECKSUM:], "little"):
        raise Damaged("its checksum does not match its bytes")
    return payload


def _decodes(source: Source, decode: Decoder) -> Filler:
    def fill(requests: Sequence[Request | None], out: Frames) -> Iterator[None]:
        found = iter(source.parts([request for request in requests if request is not None]))
        for request, frame in zip(requests, out, strict=True):
            if request is None:
                frame[:] = 0
            else:
                decode(checked(next(found)), frame)
            yield

    return fill


def _copies(files: Files, length: int, carefully: Filler) -> Filler:
    """Return a filler for uncompressed frames of ``length`` bytes that copies them from mapped files.

    If a frame is damaged or cannot be mapped, ``carefully`` finds out which. Readahead requests speed up reading from
    disk, but cost time themselves: they are made until a copy without them did not wait for a disk. A mapped file may
    be replaced, but must not be truncated.
    """
    asks = _ASKED
    joined = _joiner(length)
    at_once = max(1, _PIECE // length)
    black = np.zeros(length + _CHECKSUM, np.uint8)
    black[length:] = np.frombuffer(crc32c(bytes(length)).to_bytes(_CHECKSUM, "little"), np.uint8)
    mapped = lru_cache(_MAPS)(files.mapped)

    def found(key: str, start: int, stop: int, version: Version | None) -> Bytes:
        content, address = mapped(key, version)
        if asks:
            page = start & -mmap.PAGESIZE
            _SYSTEM.madvise(ctypes.c_void_p(address + page), ctypes.c_size_t(stop - page), mmap.MADV_WILLNEED)
        return content[start:stop]

    def copied(parts: list[Bytes], out: Bytes) -> bool:
        """Copy the frames; return whether their checksums match."""
        torch.stack([torch.from_numpy(part[:length]) for part in parts], out=torch.from_numpy(out))
        return crc32c(out) == joined(int.from_bytes(part[length:], "little") for part in parts)

    def fill(requests: Sequence[Request | None], out: Frames) -> Iterator[None]:
        nonlocal asks
        began = time.perf_counter()
        try:
            parts = [black if request is None else found(*request) for request in requests]
        except (OSError, RuntimeError):
            parts = []
        whole = [len(part) for part in parts] == [len(black)] * len(requests)
        rows = out.reshape(-1, length)
        pieces = range(0, len(out), at_once)
        if not whole or not all(copied(parts[i : i + at_once], rows[i : i + at_once]) for i in pieces):
            yield from carefully(requests, out)
            return
        waited = time.perf_counter() - began > out.nbytes / _FROM_DISK
        asks = asks - 1 if asks else _ASKED if waited else 0
        yield from (None for _ in requests)

    return fill


def _joiner(length: int) -> Callable[[Iterable[int]], int]:
    """Return a function that combines the CRC-32Cs of consecutive blocks of ``length`` bytes into one.

    The effect of appended zeros on a CRC is linear in its bits (as in zlib's ``crc32_combine``; the tables are ours).
    """
    zeros = bytes(length)
    columns = [crc32c(zeros, 1 << bit) ^ crc32c(zeros) for bit in range(32)]
    tables = [[0], [0], [0], [0]]  # one per byte of the CRC
    for bit, column in enumerate(columns):
        tables[bit // 8] += [entry ^ column for entry in tables[bit // 8]]
    first, second, third, fourth = tables

    def join(checksums: Iterable[int]) -> int:
        crc = 0
        for one in checksums:
            crc = first[crc & 255] ^ second[crc >> 8 & 255] ^ third[crc >> 16 & 255] ^ fourth[crc >> 24] ^ one
        return crc

    return join
