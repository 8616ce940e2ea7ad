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

import asyncio
import ctypes
import mmap
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol, cast

import google_crc32c
import numpy as np
import numpy.typing as npt
import torch
from awscrt.checksums import crc32c

from data_specs.decoding import decode_blosc, decode_raw, decode_zstd
from data_specs.jpeg import decode_jpeg
from data_specs.locations import Replaced
from data_specs.stored import StoreError, is_url, open_store, run, shown
from training.clips import Clips
from training.options import Failed

Frames = npt.NDArray[np.uint8]
Bytes = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
Decoder = Callable[[Bytes, Frames], object]
Version = tuple[Any, ...]
"""Identifies a file or an object, to tell it from others with the same name."""
Index = tuple[npt.NDArray[np.uint64], Version | None]
"""Offset and length of each frame of a shard, (clips, slots, 2), and the version of that shard."""
Request = tuple[str, int, int, Version | None]
"""A byte range of an object: key, start, stop (exclusive), and the version of the object."""
Filler = Callable[[Sequence[Request | None], Frames], Iterator[None]]
"""Fills frames (n, size, size, 3) from n requests (None gives black), yielding after each; raises at the first damaged
one."""


class Source(Protocol):
    """The folder or object store that holds a store."""

    def ends(self, keys: Sequence[str], length: int) -> Iterable[tuple[Bytes | None, Version | None]]:
        """Return the last bytes of each object, at most ``length``, and its version; None for a missing object."""
        ...

    def parts(self, requests: Sequence[Request]) -> Iterable[Bytes | None]:
        """Yield the bytes of each request, valid until the next step; `Replaced` if the version differs."""
        ...


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
        return f"{self.path}/c/{shard}/0/0/0/0"


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
        self._source: Source = _Objects(clips.location) if is_url(clips.location) else _Files(clips.location)
        self._fill = _decodes(self._source, self._layout.decode)
        if self._layout.decode is decode_raw and isinstance(self._source, _Files):
            self._fill = _copies(self._source, 3 * self._layout.size**2, self._fill)
        self._indexes: dict[int, Index] = {}

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
            index, version = indexes[shard]
            start = index.item(clip, slot, 0)
            stop = start + index.item(clip, slot, 1)
            requests.append(None if start == _ABSENT else (self._layout.key(shard), start, stop, version))
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
                indexes[shard] = self._index(found), version
            except (Damaged, ValueError) as error:
                first = int(positions[shards == shard][0])
                raise self._failure(first, f"index of {key}: {error}") from error
            self._indexes[shard] = indexes[shard]
        return indexes

    def _index(self, found: Bytes | None) -> npt.NDArray[np.uint64]:
        """Return the offset and length of each frame; `Damaged` if one is out of range."""
        table = checked(found).copy().view("<u8").reshape(self._layout.shard_clips, self._layout.slots, 2)
        written = table[..., 0] != _ABSENT
        longest = self._layout.longest
        if (table[..., 1][written] > longest).any() or (table[..., 0][written] > _ABSENT >> 1).any():
            raise Damaged(f"it has offsets or lengths that no frame of at most {longest} bytes can have")
        return table

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


def _copies(files: _Files, length: int, carefully: Filler) -> Filler:
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


class _Files:
    """A store in a folder."""

    def __init__(self, location: str) -> None:
        self._location = location

    def ends(self, keys: Sequence[str], length: int) -> Iterator[tuple[Bytes | None, Version | None]]:
        return (self._end(key, length) for key in keys)

    def _end(self, key: str, length: int) -> tuple[Bytes | None, Version | None]:
        try:
            with open(self._path(key), "rb", buffering=0, opener=_without_waiting) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    return None, None
                version = _version(status)
                found = os.pread(file.fileno(), length, max(0, version[0] - length))
                return np.frombuffer(found, np.uint8), version
        except FileNotFoundError:
            return None, None
        except OSError as error:
            raise self._failed(key, error) from error

    def parts(self, requests: Sequence[Request]) -> Iterator[Bytes | None]:
        memory = np.empty(0, np.uint8)  # reused, so that bytes are decoded while in the CPU cache
        for key, mine in groupby(requests, key=itemgetter(0)):  # the frames of a clip are in one file
            try:
                with open(self._path(key), "rb", buffering=0, opener=_without_waiting) as file:
                    version = _version(os.fstat(file.fileno()))
                    for _, start, stop, wanted in mine:
                        if version != wanted:
                            raise Replaced
                        if stop - start > len(memory):
                            memory = np.empty(stop - start, np.uint8)
                        yield memory[: os.preadv(file.fileno(), [memory[: stop - start].data], start)]
            except FileNotFoundError:
                yield from [None for _ in mine]  # noqa: B031 (nothing was taken yet)
            except OSError as error:
                raise self._failed(key, error) from error

    def mapped(self, key: str, version: Version | None) -> tuple[Bytes, int]:
        """Map a file; return its memory and address. ``OSError`` or ``RuntimeError`` if it cannot be mapped."""
        if version is None:
            raise Replaced
        content = torch.from_file(self._path(key), shared=False, size=version[0], dtype=torch.uint8)
        if _version(os.stat(self._path(key))) != version:  # same before and after: the map is of that version
            raise Replaced
        return content.numpy(), content.data_ptr()

    def _path(self, key: str) -> str:
        return f"{self._location}/{key}"

    def _failed(self, key: str, error: OSError) -> Failed:
        return Failed(f"{self._path(key)!r} cannot be read: {error.strerror}")


def _without_waiting(path: str, flags: int) -> int:
    """Open a file without blocking, even if a FIFO has replaced it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _version(status: os.stat_result) -> Version:
    return status.st_size, status.st_ino, status.st_mtime_ns


class _Objects:
    """A store on an object store; the requests of a call run concurrently."""

    def __init__(self, location: str) -> None:
        from data_specs.remote import open_remote  # needs the extra s3

        self._store = open_remote(location, read_only=True)

    def ends(self, keys: Sequence[str], length: int) -> list[tuple[Bytes | None, Version | None]]:
        async def end(key: str) -> tuple[Bytes | None, Version | None]:
            found, tag = await self._store.end(key, length)
            return _bytes(found), (tag,)

        async def together() -> list[tuple[Bytes | None, Version | None]]:
            return list(await asyncio.gather(*map(end, keys)))

        return run(together())

    def parts(self, requests: Sequence[Request]) -> list[Bytes | None]:
        async def part(key: str, start: int, stop: int, version: Version | None) -> Bytes | None:
            if version is None:
                raise Replaced
            return _bytes(await self._store.part(key, start, stop, *version))

        async def together() -> list[Bytes | None]:
            return list(await asyncio.gather(*(part(*request) for request in requests)))

        return run(together()) if requests else []


def _bytes(found: bytes | None) -> Bytes | None:
    return None if found is None else np.frombuffer(found, np.uint8)
