"""Reading single frames out of a store's shards: index, checksum and codec, straight into the batch's memory.

A shard is a file (or an object) of frames that are encoded one by one, and of an index at its end: for each frame its
offset and length, then a checksum (Zarr v3, ``sharding_indexed``). zarr-python reads it too, in a multiple of the time,
and tensorstore, which must not be forked (``python -m tests.benchmarks --only loader`` measures both).
Every call here reads a list of frames; calls from several threads run side by side, as codecs and files let go of the
interpreter's lock. To get that lock back takes as long as to copy a frame, so frames that are stored as they are, in
files, are copied out of mapped memory and checked several at a time.
"""

from __future__ import annotations

import asyncio
import io
import mmap
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import torch
from awscrt.checksums import crc32c
from numcodecs import blosc, zstd
from PIL import Image
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype

from data_specs.stored import StoreError, is_url, open_store, run, shown, zarr_store
from training.clips import Clips
from training.options import Failed

Frames = npt.NDArray[np.uint8]
Bytes = npt.NDArray[np.uint8]
Decoder = Callable[[Bytes, Frames], object]
Request = tuple[str, int, int | None]
"""A key, and the first byte and the one behind the last as in a slice; (key, -n, None) are the last n."""
Fetcher = Callable[[Sequence[Request]], Iterable[Bytes | None]]
"""Brings the bytes of each request in turn, None where there is no such object; valid until the next are taken."""
Filler = Callable[[Sequence[Request | None], Frames], Iterator[None]]
"""Fills the frames (n, size, size, 3) from n requests, black where there is none, and goes through them in turn; raises
at the one whose bytes are damaged."""

_CHECKSUM = 4  # bytes of a crc32c
_ABSENT = 2**64 - 1  # offset in the index of a frame that was not written: it is black
_MAPS = 2**14  # files at once; Linux allows a process 2**16 maps, if nobody changed it
_PIECE = 2**20  # bytes that are copied and checked while they are in the cache of one core
_FROM_DISK = 1e9  # bytes a second; a copy that is slower waits for a disk
_ASKED = 64  # calls that ask the disk beforehand, before one tries whether there is still need to


class Damaged(Exception):
    """Bytes that are not what was written: why."""


def _decode_raw(payload: Bytes, out: Frames) -> None:
    np.copyto(out, payload.reshape(out.shape))


def _decode_jpeg(payload: Bytes, out: Frames) -> None:
    with Image.open(io.BytesIO(payload.data), formats=("JPEG",)) as image:
        np.copyto(out, np.asarray(image))


DECODERS: dict[str, Decoder] = {
    "": _decode_raw,
    "zstd": lambda payload, out: zstd.decompress(payload, out),
    "blosc": lambda payload, out: blosc.decompress(payload, out),
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

    def key(self, shard: int) -> str:
        """The name of a shard in the store."""
        return f"{self.path}/c/{shard}/0/0/0/0"


def read_layout(location: str, view: str) -> Layout:
    """The layout of a view's frames; ``StoreError`` for one that no version of this package writes."""
    array = open_store(location).view(view).array("frames")
    metadata: Any = array.metadata.to_dict()
    _, slots, size, _, _ = array.shape
    try:
        (sharding,) = metadata["codecs"]
        chain = sharding["configuration"]
        names = [codec["name"] for codec in chain["codecs"]]
        known = (
            sharding["name"] == "sharding_indexed"
            and tuple(chain["chunk_shape"]) == (1, 1, size, size, 3)
            and chain["index_location"] == "end"
            and [codec["name"] for codec in chain["index_codecs"]] == ["bytes", "crc32c"]
            and names[-1] == "crc32c"
            and metadata["data_type"] == "uint8"
        )
        inner = [name for name in names[:-1] if name != "bytes"]
        decode = DECODERS["".join(inner)] if known else None
    except (KeyError, ValueError, IndexError):
        decode = None
    if decode is None or array.shards is None:
        raise StoreError(
            f"store {shown(location)!r}: this version cannot read how the frames of view {view!r} are kept"
        )
    return Layout(f"views/{view}/frames", array.shards[0], slots, size, decode)


class FrameReader:
    """Reads frames of a view, whole requests at a time. For one process: make it where it is used."""

    def __init__(self, clips: Clips) -> None:
        self._clips = clips
        self._layout = read_layout(clips.location, clips.view)
        self._fetch = _object_fetcher(clips.location) if is_url(clips.location) else _file_fetcher(clips.location)
        self._fill = _decodes(self._fetch, self._layout.decode)
        if self._layout.decode is _decode_raw and not is_url(clips.location):
            self._fill = _copies(clips.location, 3 * self._layout.size**2, self._fill)
        count = int(clips.rows.max()) // self._layout.shard_clips + 1
        self._known = np.zeros(count, np.bool_)  # of each shard: its index was read
        self._index = np.empty((count, self._layout.shard_clips, self._layout.slots, 2), "<u8")

    def read(self, positions: npt.NDArray[np.int64], slots: npt.NDArray[np.int64], out: Frames) -> None:
        """Read the frame in ``slots[i]`` of clip ``positions[i]`` (both (n,)) into ``out[i]`` ((n, size, size, 3)).

        `Failed` names the clip whose bytes are damaged or missing, and the commands that mend it; or it says what an
        object store answered.
        """
        try:
            self._read(positions, slots, out)
        except StoreError as error:
            raise Failed(str(error)) from error

    def _read(self, positions: npt.NDArray[np.int64], slots: npt.NDArray[np.int64], out: Frames) -> None:
        rows = self._clips.rows[positions]
        shards, within = np.divmod(rows, self._layout.shard_clips)
        self._read_indexes(positions, shards)
        spans = self._index[shards, within, slots].tolist()
        requests: list[Request | None] = [
            None if start == _ABSENT else (key, start, start + length)
            for key, (start, length) in zip(map(self._layout.key, shards.tolist()), spans, strict=True)
        ]
        filled = self._fill(requests, out)
        for i in range(len(out)):
            try:
                next(filled)
            except (Damaged, ValueError, RuntimeError, OSError) as error:
                raise self._failure(int(positions[i]), f"frame {slots[i]}: {error}") from error

    def _read_indexes(self, positions: npt.NDArray[np.int64], shards: npt.NDArray[np.int64]) -> None:
        new = ~self._known[shards]
        if not new.any():
            return
        missing, first = np.unique(shards[new], return_index=True)
        keys = [self._layout.key(shard) for shard in missing.tolist()]
        requests: list[Request] = [(key, -self._layout.index_length, None) for key in keys]
        for shard, i, key, found in zip(missing, first, keys, self._fetch(requests), strict=True):
            try:
                self._index[shard] = checked(found).copy().view("<u8").reshape(self._index.shape[1:])
                self._known[shard] = True
            except (Damaged, ValueError) as error:
                raise self._failure(int(positions[new][i]), f"index of {key}: {error}") from error

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


def _decodes(fetch: Fetcher, decode: Decoder) -> Filler:
    def fill(requests: Sequence[Request | None], out: Frames) -> Iterator[None]:
        found = iter(fetch([request for request in requests if request is not None]))
        for request, frame in zip(requests, out, strict=True):
            if request is None:
                frame[:] = 0
            else:
                decode(checked(next(found)), frame)
            yield

    return fill


def _copies(location: str, length: int, carefully: Filler) -> Filler:
    """Of frames as they are, of ``length`` bytes, in files; all that is not whole is left to ``carefully``.

    A disk is quicker with what it was asked for beforehand, but to ask takes time in itself: it is asked until a copy
    without that did not wait for one. While it is mapped, a file may be replaced, not shortened.
    """
    asks = _ASKED
    joined = _joiner(length)
    at_once = max(1, _PIECE // length)

    @lru_cache(_MAPS)
    def mapped(key: str) -> tuple[mmap.mmap, Bytes]:
        with open(f"{location}/{key}", "rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # torch takes no memory that is read-only
        return memory, np.frombuffer(memory, np.uint8)

    def found(key: str, start: int, stop: int | None) -> Bytes:
        memory, content = mapped(key)
        if asks and stop:
            page = start & -mmap.PAGESIZE
            memory.madvise(mmap.MADV_WILLNEED, page, stop - page)
        return content[start:stop]

    def copied(parts: list[Bytes], out: Bytes) -> bool:
        """Whether it is what was written."""
        torch.stack([torch.from_numpy(part[:length]) for part in parts], out=torch.from_numpy(out))
        return crc32c(out) == joined(int.from_bytes(part[length:], "little") for part in parts)

    def fill(requests: Sequence[Request | None], out: Frames) -> Iterator[None]:
        nonlocal asks
        began = time.perf_counter()
        try:
            parts = [found(*request) for request in requests if request is not None]
        except (OSError, ValueError):
            parts = []
        whole = [len(part) for part in parts] == [length + _CHECKSUM] * len(requests)
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


def _file_fetcher(location: str) -> Fetcher:
    def fetch(requests: Sequence[Request]) -> Iterator[Bytes | None]:
        memory = np.empty(0, np.uint8)  # of all requests: what is read is decoded while it is in the processor's cache
        for key, mine in groupby(requests, key=itemgetter(0)):  # a clip's frames lie in one file
            path = f"{location}/{key}"
            try:
                with open(path, "rb", buffering=0) as file:
                    for _, start, stop in mine:
                        if stop is None:
                            start, stop = (max(0, os.fstat(file.fileno()).st_size + place) for place in (start, 0))
                        length = stop - start
                        if length > len(memory):
                            memory = np.empty(length, np.uint8)
                        yield memory[: os.preadv(file.fileno(), [memory[:length].data], start)]
            except FileNotFoundError:
                yield from [None for _ in mine]  # noqa: B031 (nothing was taken yet)
            except OSError as error:
                raise Failed(f"{path!r} cannot be read: {error.strerror}") from error

    return fetch


def _object_fetcher(location: str) -> Fetcher:
    store = zarr_store(location, read_only=True)

    async def get(key: str, start: int, stop: int | None) -> Bytes | None:
        wanted = SuffixByteRequest(-start) if stop is None else RangeByteRequest(start, stop)
        try:
            found = await store.get(key, default_buffer_prototype(), byte_range=wanted)
        except FileNotFoundError:
            return None
        return None if found is None else np.frombuffer(found.to_bytes(), np.uint8)

    async def together(requests: Sequence[Request]) -> list[Bytes | None]:
        return list(await asyncio.gather(*(get(*request) for request in requests)))

    return lambda requests: run(together(requests)) if requests else []
