"""Packed records: the records of up to `PACK` finished shards in one object, and reading a record wherever it is.

The array ``progress/<stage>[/<view>]/records`` has one string a shard: the ``zarr.json`` that the record had as a group
of its own, or "" if it is not packed. A chunk is one string, a Zarr shard `PACK` of them. A group of its own takes
precedence over a packed record, so that a record is replaced, or removed (`REMOVED`), without touching the pack.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numcodecs.zstd import Zstd
from zarr.abc.store import Store as ZarrStore

from data_specs import schema
from data_specs.decoding import decode_zstd, zstd_content_size
from data_specs.local_files import LocalFiles
from data_specs.locations import Replaced, StoreError
from data_specs.objects import Attributes, read_objects, run
from data_specs.schema import MAX_DOCUMENT, SEPARATOR, ArraySpec
from data_specs.shard_format import NOTHING, checksummed, content, shard

PACK = 1 << 10  # shards whose records are in one object
LEAST = 32  # shards of a store from which on its records are packed: fewer take few files anyway
MAX_PACK = 1 << 28  # bytes of the documents in an object; records that take more stay groups of their own
REMOVED: Attributes = {"removed": True}
"""The attributes of a group that stands for a removed record, which the pack still has."""

_INDEX = 16 * PACK + 4  # bytes of an object's index
_FEW = 64  # shards whose groups are read without listing the folder first
_TOGETHER = 1 << 24  # bytes of an object that are read at once, unless one record takes more
_LONGEST = 2 * MAX_DOCUMENT  # bytes of an encoded record, which zstd does not make longer than that
_TRIES = 5  # to read an object that is replaced meanwhile
_HEAD = struct.Struct("<II")  # vlen-utf8: the number of strings, then the bytes of each before its text
_encode = Zstd(level=3, checksum=False).encode


def is_packed(num_shards: int) -> bool:
    """Whether the records of a store of so many shards are packed."""
    return num_shards >= LEAST


def record_folder(stage: str, view: str | None) -> str:
    """The group below which the records of a stage (and view) are."""
    return f"progress/{stage}/{view}" if view else f"progress/{stage}"


def pack_array(folder: str, num_shards: int) -> ArraySpec:
    """The array of packed records of a `record_folder`."""
    about = "zarr.json of the record of a finished shard, empty if it is a group of its own"
    return ArraySpec(f"{folder}/records", "string", (num_shards,), (1,), ("shard",), "", about, shards=(PACK,))


def pack_of(path: str) -> str:
    """The key of the object that has the record at a path if it is packed."""
    folder, _, number = path.rpartition("/")
    return f"{folder}/records/c{SEPARATOR}{int(number) // PACK}"


def encoded(document: bytes) -> bytes:
    """A record's document (ASCII) as a chunk of an object."""
    return checksummed(_encode(_HEAD.pack(1, len(document)) + document))


def pack(chunks: Mapping[int, bytes]) -> bytes:
    """The object with the encoded documents of these shards, all of one pack."""
    return shard({(number % PACK,): chunk for number, chunk in chunks.items()}, (PACK,))


def record_documents(
    store: ZarrStore, stage: str, view: str | None, shards: Iterable[int], own: Collection[str] | None = None
) -> dict[int, bytes]:
    """The ``zarr.json`` of each existing record of a stage (and view), by shard, packed or not; b"" for a damaged one.

    ``own`` has the paths of the records that are groups of their own, if that is known; otherwise, all may be.
    """
    wanted = list(shards)
    alone = _own(store, record_folder(stage, view), wanted) if own is None else wanted
    paths = {number: schema.progress_path(stage, view, number) for number in alone}
    paths = {number: path for number, path in paths.items() if own is None or path in own}
    texts = dict(zip(paths, read_objects(store, [f"{path}/zarr.json" for path in paths.values()]), strict=True))
    # A pack is written before the groups are removed: whatever is not found here has been packed.
    found = {number: text for number, text in texts.items() if text is not None}
    found |= _packed(store, record_folder(stage, view), (number for number in wanted if number not in found))
    return {number: found[number] for number in wanted if number in found}


def _own(store: ZarrStore, folder: str, shards: list[int]) -> list[int]:
    """Of many shards those whose record is a group of its own; all if they are few."""
    if len(shards) <= _FEW:
        return shards
    if isinstance(store, LocalFiles):
        try:
            names = set(os.listdir(Path(store.root, folder)))
        except (FileNotFoundError, NotADirectoryError):
            return []
    elif hasattr(store, "tags"):
        keys: Iterable[str] = run(store.tags(f"{folder}/"))
        names = {key.removeprefix(f"{folder}/").removesuffix("/zarr.json") for key in keys}
    else:
        return shards
    return [number for number in shards if f"{number:05d}" in names]


class _Parts(Protocol):
    async def end(self, key: str, length: int) -> tuple[bytes | None, str | None]: ...

    async def part(self, key: str, start: int, stop: int, tag: str | None) -> bytes | None: ...


def _packed(store: ZarrStore, folder: str, shards: Iterable[int]) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for number, some in groupby(sorted(shards), key=lambda shard: shard // PACK):
        found |= _read_pack(cast(_Parts, store), f"{folder}/records/c{SEPARATOR}{number}", list(some))
    return found


def _read_pack(store: _Parts, key: str, shards: list[int]) -> dict[int, bytes]:
    """The documents of some shards in an object, of one version of it; b"" for damaged ones."""
    for _ in range(_TRIES):
        with suppress(Replaced):
            end, tag = run(store.end(key, _INDEX))
            if end is None:
                return {}
            try:
                index = content(np.frombuffer(end, np.uint8)).view("<u8").reshape(PACK, 2)
            except ValueError:
                return dict.fromkeys(shards, b"")
            found = dict.fromkeys((number for number in shards if index[number % PACK, 0] != NOTHING), b"")
            places = {number: tuple(index[number % PACK].tolist()) for number in found}
            room = MAX_PACK  # an object from a stranger may have one chunk in all of its places
            for start, stop, members in _spans(places):
                part = np.frombuffer(run(store.part(key, start, stop, tag)) or b"", np.uint8)
                for number in members:
                    offset, length = places[number]
                    found[number] = _document(part[offset - start : offset - start + length], room)
                    room -= len(found[number])
            return found
    raise StoreError(f"{key} in the store changed each time that it was read; try again")


def _spans(places: Mapping[int, tuple[int, int]]) -> Iterator[tuple[int, int, list[int]]]:
    """Parts of an object to read, from where to where, and the shards whose documents are in each."""
    start, stop, members = 0, 0, list[int]()
    for number, (offset, length) in sorted(places.items(), key=lambda item: item[1]):
        if length > _LONGEST or offset > MAX_PACK:
            continue
        if members and offset + length - start > _TOGETHER:
            yield start, stop, members
            members = []
        if not members:
            start, stop = offset, offset
        members.append(number)
        stop = max(stop, offset + length)
    if members:
        yield start, stop, members


def _document(chunk: Any, most: int) -> bytes:
    """The document in a chunk, b"" if it is damaged or has more than ``most`` bytes."""
    try:
        payload = content(chunk)
        size = zstd_content_size(payload)
        if size is None or not _HEAD.size <= size <= _HEAD.size + min(most, MAX_DOCUMENT):
            return b""
        text = np.empty(size, np.uint8)
        decode_zstd(payload, text)
    except (ValueError, RuntimeError):
        return b""
    return text[_HEAD.size :].tobytes() if _HEAD.unpack(text[: _HEAD.size].tobytes()) == (1, size - _HEAD.size) else b""
