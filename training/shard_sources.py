"""Where the bytes of a store's shards come from: a folder, or an object store."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from data_specs.locations import Replaced
from data_specs.stored import run
from training.options import Failed

Bytes = npt.NDArray[np.uint8]
Version = tuple[Any, ...]
"""Identifies a file or an object, to tell it from others with the same name."""
Request = tuple[str, int, int, Version | None]
"""A byte range of an object: key, start, stop (exclusive), and the version of the object."""

GAP, SPAN = 1 << 20, 1 << 24  # of requests to an object store that are sent as one: bytes between two, and of all


class Source(Protocol):
    """The folder or object store that holds a store."""

    def ends(self, keys: Sequence[str], length: int) -> Iterable[tuple[Bytes | None, Version | None]]:
        """Return the last bytes of each object, at most ``length``, and its version; None for a missing object."""
        ...

    def parts(self, requests: Sequence[Request]) -> Iterable[Bytes | None]:
        """Yield the bytes of each request, valid until the next step; `Replaced` if the version differs."""
        ...


class Files:
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


class Objects:
    """A store on an object store; the requests of a call run concurrently, neighbours in a shard as one."""

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
            return list(await asyncio.gather(*(part(*request) for request, _ in spans)))

        spans = joined(requests)
        parts: list[Bytes | None] = [None] * len(requests)
        for found, ((_, first, _, _), members) in zip(run(together()) if spans else [], spans, strict=True):
            for number in members if found is not None else ():
                _, start, stop, _ = requests[number]
                parts[number] = found[start - first : stop - first]  # type: ignore[index]
        return parts


def joined(requests: Sequence[Request]) -> list[tuple[Request, list[int]]]:
    """Return the ranges to ask for, and the numbers of the requests in each: those of a shard that lie close together.

    A request to an object store takes as long as reading about `GAP` more bytes; one asks for at most `SPAN` bytes.
    """
    spans: list[tuple[Request, list[int]]] = []
    for number in sorted(range(len(requests)), key=lambda number: requests[number][:2]):
        key, start, stop, version = requests[number]
        if spans:
            (last, first, end, tag), members = spans[-1]
            if (last, tag) == (key, version) and start <= end + GAP and max(end, stop) - first <= SPAN:
                spans[-1] = (last, first, max(end, stop), tag), [*members, number]
                continue
        spans.append(((key, start, stop, version), [number]))
    return spans


def _bytes(found: bytes | None) -> Bytes | None:
    return None if found is None else np.frombuffer(found, np.uint8)
