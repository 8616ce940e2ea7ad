"""Reading single frames out of a store's shards: index, checksum and codec, straight into the batch's memory.

A shard is a file (or an object) of frames that are encoded one by one, and of an index at its end: for each frame its
offset and length, then a checksum (Zarr v3, ``sharding_indexed``). zarr-python reads it too, in a multiple of the time,
and tensorstore, which must not be forked (``python -m tests.benchmarks --only loader`` measures both).
Every call here reads a list of frames; calls from several threads run side by side, as codecs and files let go of the
interpreter's lock. To get that lock back takes as long as to copy a frame, so frames that are stored as they are, in
files, are copied out of mapped memory and checked several at a time.

A run that mends a store puts a new shard in an old one's place, in which frames may lie elsewhere. An index is used for
the very file or object that it was read from; where another has taken its place, the index is read again.
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
"""What tells a file or an object from any other that had, or gets, its name."""
Index = tuple[npt.NDArray[np.uint64], Version | None]
"""Offset and length of each frame of a shard, (clips, slots, 2), and the version of the shard that has it."""
Request = tuple[str, int, int, Version | None]
"""Bytes of an object: its key, the first and the one behind the last, and of which version of it."""
Filler = Callable[[Sequence[Request | None], Frames], Iterator[None]]
"""Fills the frames (n, size, size, 3) from n requests, black where there is none, and goes through them in turn; raises
at the one whose bytes are damaged."""


class Source(Protocol):
    """Where the objects of a store lie."""

    def ends(self, keys: Sequence[str], length: int) -> Iterable[tuple[Bytes | None, Version | None]]:
        """The last bytes of each object, at most ``length``, and its version; None where there is no such object."""
        ...

    def parts(self, requests: Sequence[Request]) -> Iterable[Bytes | None]:
        """The bytes of each request in turn, valid until the next are taken; `Replaced` if the version is another."""
        ...


_CHECKSUM = 4  # bytes of a crc32c
_ABSENT = 2**64 - 1  # offset in the index of a frame that was not written: it is black
_MAPS = 2**14  # files at once; Linux allows a process 2**16 maps, if nobody changed it
_PIECE = 2**20  # bytes that are copied and checked while they are in the cache of one core
_FROM_DISK = 1e9  # bytes a second; a copy that is slower waits for a disk
_ATTEMPTS = 3  # to read frames whose shards are replaced meanwhile
_SYSTEM = ctypes.CDLL(None)  # the C library: Python's own mmap keeps a file open, of which there may be a thousand
_ASKED = 64  # calls that ask the disk beforehand, before one tries whether there is still need to


class Damaged(Exception):
    """Bytes that are not what was written: why."""


def _decode_jpeg(payload: Bytes, out: Frames) -> None:
    np.copyto(out, decode_jpeg(payload, *out.shape[:2]))


DECODERS: dict[str, Decoder] = {
    "": decode_raw,
    "zstd": decode_zstd,
    "blosc": decode_blosc,
    "mocrop.jpeg": _decode_jpeg,
}
"""How a frame's bytes become pixels, by the codec's name in Zarr; the first is for frames as they are."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where frames lie: the array's path, clips a shard, slots a clip, the side of a frame in px, and the codec."""

    path: str
    shard_clips: int
    slots: int
    size: int
    decode: Decoder

    @property
    def index_length(self) -> int:
        """Bytes of a shard's index with its checksum."""
        return 16 * self.shard_clips * self.slots + _CHECKSUM

    @property
    def longest(self) -> int:
        """Bytes that an encoded frame may have at most: any codec's own are few beside the pixels."""
        return 3 * self.size**2 * 2 + (1 << 16)

    def key(self, shard: int) -> str:
        """The name of a shard in the store."""
        return f"{self.path}/c/{shard}/0/0/0/0"


def read_layout(location: str, view: str) -> Layout:
    """The layout of a view's frames; ``StoreError`` for one that this version of the package does not write."""
    array = open_store(location).view(view).array("frames")  # as the schema has it, but for the codec
    (sharding,) = cast(Any, array.metadata).codecs
    assert array.shards is not None
    inner = [codec.to_dict()["name"] for codec in sharding.codecs[:-1]]
    decode = DECODERS["".join(name for name in inner if name != "bytes")]
    _, slots, size, _, _ = array.shape
    return Layout(f"views/{view}/frames", array.shards[0], slots, size, decode)


class FrameReader:
    """Reads frames of a view, whole requests at a time. For one process: make it where it is used."""

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

        `Failed` names the clip whose bytes are damaged or missing, and the commands that mend it; or it says what an
        object store answered, or that something replaces the shards all the time.
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
        """Where each frame lies; `Damaged` for a length that no frame has."""
        table = checked(found).copy().view("<u8").reshape(self._layout.shard_clips, self._layout.slots, 2)
        written = table[..., 0] != _ABSENT
        longest = self._layout.longest
        if (table[..., 1][written] > longest).any() or (table[..., 0][written] > _ABSENT >> 1).any():
            raise Damaged(f"it has places where no frame of at most {longest} bytes can lie")
        return table

    def _failure(self, position: int, reason: str) -> Failed:
        store = shown(self._clips.location)
        return Failed(
            f"clip {self._clips.ids[position]!r}, view {self._clips.view!r}, {reason}; mocrop verify {store} marks "
            f"what is damaged, then the mocrop preprocess --source … --store {store} that made it mends it"
        )


def checked(found: Bytes | None) -> Bytes:
    """The bytes before the checksum that ends them; `Damaged` if they do not fit it, or there are none."""
    if found is None:
        raise Damaged("its shard is missing")
    if len(found) < _CHECKSUM:
        raise Damaged("its shard is cut short")
    payload = found[:-_CHECKSUM]
    if google_crc32c.value(payload) != int.from_bytes(found[-_CHECKSUM:], "little"):
        raise Damaged("its checksum does not fit its bytes")
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
    """Of frames as they are, of ``length`` bytes; where one is damaged or cannot be mapped, ``carefully`` says which.

    A disk is quicker with what it was asked for beforehand, but to ask takes time in itself: it is asked until a copy
    without that did not wait for one. While it is mapped, a file may be replaced, not shortened.
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
        """Whether it is what was written."""
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
    """Makes the CRC-32C of blocks of ``length`` bytes, one after the other, out of those of each block.

    What becomes of a CRC when zeros follow is linear in its bits (the tables are ours, the fact is known from zlib's
    ``crc32_combine``).
    """
    zeros = bytes(length)
    columns = [crc32c(zeros, 1 << bit) ^ crc32c(zeros) for bit in range(32)]
    tables = [[0], [0], [0], [0]]  # of each byte of the CRC
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
    """In a folder."""

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
        memory = np.empty(0, np.uint8)  # of all requests: what is read is decoded while it is in the processor's cache
        for key, mine in groupby(requests, key=itemgetter(0)):  # a clip's frames lie in one file
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
        """A file as memory, and its address; ``OSError`` or ``RuntimeError`` where it cannot be mapped."""
        if version is None:
            raise Replaced
        content = torch.from_file(self._path(key), shared=False, size=version[0], dtype=torch.uint8)
        if _version(os.stat(self._path(key))) != version:  # it bore this name before, and does again: it did throughout
            raise Replaced
        return content.numpy(), content.data_ptr()

    def _path(self, key: str) -> str:
        return f"{self._location}/{key}"

    def _failed(self, key: str, error: OSError) -> Failed:
        return Failed(f"{self._path(key)!r} cannot be read: {error.strerror}")


def _without_waiting(path: str, flags: int) -> int:
    """Open a file, and a FIFO that has taken its place without waiting for who writes into it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _version(status: os.stat_result) -> Version:
    return status.st_size, status.st_ino, status.st_mtime_ns


class _Objects:
    """On an object store; the requests of a call are under way together."""

    def __init__(self, location: str) -> None:
        from data_specs.remote import open_remote  # with the extra s3

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
