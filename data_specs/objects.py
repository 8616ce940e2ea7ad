"""Concurrent, bounded reads of a store's objects; raises ``Damaged`` for invalid ones."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from zarr.abc.store import Store as ZarrStore
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from data_specs import schema
from data_specs.documents import parse_json
from data_specs.fingerprints import LENGTH
from data_specs.local_files import LocalFiles, read_part
from data_specs.locations import Damaged, is_url
from data_specs.resources import lack_of_memory
from data_specs.text import printable

_MANY, _THREADS = 64, 8  # files that are read by several threads, which hides the latency of network file systems
T = TypeVar("T")
Attributes = dict[str, Any]


def zarr_store(location: str, *, read_only: bool) -> ZarrStore:
    """The zarr store at a local path or an object-store URL; credentials come from the environment as usual."""
    if not is_url(location):
        return LocalFiles(Path(location), read_only=read_only)
    from data_specs.remote import open_remote

    return open_remote(location, read_only=read_only)


def attributes(store: ZarrStore, paths: Iterable[str]) -> list[Attributes | None]:
    """The attributes of the groups at ``paths``, None for missing groups, read concurrently.

    ``Damaged`` if one is.
    """
    keys = [f"{path}/zarr.json" if path else "zarr.json" for path in paths]
    found = [parse_attributes(key, text) for key, text in zip(keys, read_objects(store, keys), strict=True)]
    for values in found:
        if isinstance(values, Damaged):
            raise values
    return cast("list[Attributes | None]", found)


def parse_attributes(key: str, text: bytes | None) -> Attributes | Damaged | None:
    """The attributes in a group's ``zarr.json``; for a damaged one, the error, returned rather than raised."""
    if text is None:
        return None
    try:
        document = parse_json(text, schema.MAX_DOCUMENT)
        if document["node_type"] == "group" and isinstance(document["attributes"], dict):
            return cast(Attributes, document["attributes"])
        problem = "not a group"
    except (ValueError, KeyError, TypeError) as error:
        problem = printable(str(error))[:200]
    return Damaged(
        f"{key} in the store is damaged ({problem}); run the same mocrop preprocess command again to rewrite it"
    )


def read_objects(store: ZarrStore, keys: Iterable[str]) -> list[bytes | None]:
    """The documents of a store under ``keys``, None for missing ones, read concurrently.

    A document of more than ``MAX_DOCUMENT`` bytes reads as empty: mocrop writes none of that size.
    """
    if isinstance(store, LocalFiles):
        return _read_files([store.root / key for key in keys])
    bounded = store.with_most(schema.MAX_DOCUMENT) if hasattr(store, "with_most") else store

    async def read(key: str) -> bytes | None:
        try:
            found = await bounded.get(key, default_buffer_prototype())
        except FileNotFoundError:  # the local store's root folder
            return None
        except ValueError:
            return b""
        return None if found is None else found.to_bytes()

    return run(_together([read(key) for key in keys]))


def _read_files(paths: list[Path]) -> list[bytes | None]:
    """The same from a folder, which takes a third of the time without the event loop; many by several threads."""

    def read(some: list[Path]) -> list[bytes | None]:
        return [_read_file(path) for path in some]

    if len(paths) < _MANY:
        return read(paths)
    parts = [paths[part::_THREADS] for part in range(_THREADS)]
    contents: list[bytes | None] = [None] * len(paths)
    with ThreadPoolExecutor(_THREADS) as pool:
        for part, found in enumerate(pool.map(read, parts)):
            contents[part::_THREADS] = found
    return contents


def _read_file(path: Path) -> bytes | None:
    try:
        return read_part(path, None, schema.MAX_DOCUMENT)
    except ValueError:
        return b""


class _Hashed(Protocol):
    async def digest(self, key: str, most: int) -> str | None: ...


def hash_objects(store: ZarrStore, keys: Iterable[str], most: int) -> list[str | None]:
    """The SHA-256 of the objects under ``keys``, truncated as in records; None if missing, "" above ``most`` bytes.

    Objects are read in pieces.
    """
    hashed = cast(_Hashed, store)
    found = run(_together([hashed.digest(key, most) for key in keys]))
    return [value and value[:LENGTH] for value in found]


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Convert what zarr raises for damaged objects to ``Damaged``, whose message names the remedy.

    Other file and network errors are not converted.
    """
    try:
        yield
    except (OSError, *_DAMAGE) as error:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise
        if isinstance(error, RuntimeError) and lack_of_memory(
            error
        ):  # the process lacks memory; the store may be intact
            raise
        cause = printable(" ".join(f"{type(error).__name__}: {error}".split())[:200])
        raise Damaged(
            f"{what} is damaged ({cause}); mocrop verify marks the damage, and the next mocrop preprocess repairs it"
        ) from error


_DAMAGE = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError, MemoryError)


async def _together(jobs: list[Coroutine[Any, Any, T]]) -> list[T]:
    limit = asyncio.Semaphore(64)

    async def one(job: Coroutine[Any, Any, T]) -> T:
        async with limit:
            return await job

    return list(await asyncio.gather(*map(one, jobs)))


def run(job: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine on zarr's own event loop."""
    return sync(job)
