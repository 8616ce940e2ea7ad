"""Reading a store: the contract's arrays as zarr arrays, the tables as numpy, the records of what is done."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import Store as ZarrStore
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from data_specs import schema
from data_specs.fingerprints import fingerprint
from data_specs.locations import Damaged as Damaged
from data_specs.locations import NoStore as NoStore
from data_specs.locations import StoreError as StoreError
from data_specs.locations import check_location as check_location
from data_specs.locations import is_url as is_url
from data_specs.locations import shown as shown
from data_specs.recipes import Recipe, parse_recipe
from mocrop_core.vectors import PACKED, VECTOR, in_pixels

T = TypeVar("T")
Attributes = dict[str, Any]


def zarr_store(location: str, *, read_only: bool) -> ZarrStore:
    """The zarr store at a local path or an object-store URL; credentials come from the environment as usual."""
    if not is_url(location):
        return LocalStore(Path(location), read_only=read_only)
    from data_specs.remote import open_remote

    return open_remote(location, read_only=read_only)


def attributes(store: ZarrStore, paths: Iterable[str]) -> list[Attributes | None]:
    """The attributes of the groups at ``paths``, None where there is no group. Read together, in one go.

    ``Damaged`` where one is.
    """
    found = _documents(store, paths)
    for values in found:
        if isinstance(values, Damaged):
            raise values
    return cast("list[Attributes | None]", found)


def _documents(store: ZarrStore, paths: Iterable[str]) -> list[Attributes | Damaged | None]:
    """The same, with an error in the place of each group that is damaged."""
    keys = [f"{path}/zarr.json" if path else "zarr.json" for path in paths]
    return [parse_attributes(key, text) for key, text in zip(keys, read_objects(store, keys), strict=True)]


def parse_attributes(key: str, text: bytes | None) -> Attributes | Damaged | None:
    """The attributes in a group's ``zarr.json``; what is wrong with it, not raised, where it is damaged."""
    if text is None:
        return None
    try:
        document = json.loads(text)
        if document["node_type"] == "group" and isinstance(document["attributes"], dict):
            return cast(Attributes, document["attributes"])
        problem: object = "not a group"
    except (ValueError, KeyError, TypeError) as error:
        problem = error
    return Damaged(f"{key} in the store is damaged ({problem}); the mocrop preprocess that made it writes it again")


def read_objects(store: ZarrStore, keys: Iterable[str]) -> list[bytes | None]:
    """The objects of a store under ``keys``, None where there is none. Read together, in one go."""

    async def read(key: str) -> bytes | None:
        try:
            found = await store.get(key, default_buffer_prototype())
        except FileNotFoundError:  # the folder of a local store itself
            return None
        return None if found is None else found.to_bytes()

    return run(_together([read(key) for key in keys]))


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever zarr raises at damaged objects into ``Damaged``, which says how they are mended.

    Other trouble with files and with the network keeps its own error.
    """
    try:
        yield
    except (OSError, *_DAMAGE) as error:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise Damaged(
            f"{what} is damaged ({cause}); mocrop verify marks what is, then the same mocrop preprocess mends it"
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


@dataclass(frozen=True, slots=True)
class Record:
    """That a shard of a stage is done, what it was made from and what came out.

    ``inputs`` is the fingerprint of all that decides the result; ``clips`` has, for each clip id, what is known of it
    after the stage, or ``{"reason": …}`` if it was quarantined there; ``objects`` the SHA-256 of every object that the
    task wrote into the store, by its key; ``sizes`` their bytes, by which a file that was cut short is told at once;
    ``software`` the versions of the packages that made them.
    """

    stage: str
    view: str | None
    shard: int
    inputs: str
    clips: Mapping[str, Attributes]
    objects: Mapping[str, str]
    sizes: Mapping[str, int] = field(default_factory=dict)
    software: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return schema.progress_path(self.stage, self.view, self.shard)

    @property
    def output(self) -> str:
        """The fingerprint of what went in and what came out, whichever versions made it: the link to the next stage."""
        return fingerprint(self.stage, self.view, self.inputs, dict(self.clips), dict(self.objects))

    @property
    def reasons(self) -> dict[str, str]:
        """The clips that this stage quarantined, and why."""
        return {id: row["reason"] for id, row in self.clips.items() if "reason" in row}

    @property
    def notes(self) -> dict[str, dict[str, str]]:
        """What this stage noted: for each kind (`schema.NOTES`) the clips, and one line on each."""
        found: dict[str, dict[str, str]] = {}
        for id, row in self.clips.items():
            for kind, text in row.get("notes", {}).items():
                found.setdefault(kind, {})[id] = text
        return found

    def as_attributes(self) -> Attributes:
        """The record as the attributes of its group."""
        return {
            "inputs": self.inputs,
            "output": self.output,
            "clips": self.clips,
            "objects": self.objects,
            "sizes": self.sizes,
            "software": self.software,
        }


def read_records(
    store: ZarrStore, stage: str, view: str | None, shards: Iterable[int], damaged: list[str] | None = None
) -> dict[int, Record]:
    """The records that there are of a stage (and view), by shard.

    One that is damaged, which its own fingerprint tells, counts as none; its path is appended to ``damaged``.
    """
    wanted = list(shards)
    found = _documents(store, (schema.progress_path(stage, view, shard) for shard in wanted))
    records = {}
    for shard, values in zip(wanted, found, strict=True):
        record = None if isinstance(values, Damaged) else _record(stage, view, shard, values or {})
        if record is not None:
            records[shard] = record
        elif values is not None and damaged is not None:
            damaged.append(schema.progress_path(stage, view, shard))
    return records


def _record(stage: str, view: str | None, shard: int, values: Attributes) -> Record | None:
    try:
        names = ("inputs", "clips", "objects", "sizes", "software")
        record = Record(stage, view, shard, *(values[name] for name in names))
        known = all(isinstance(one, str) for one in record.software.values())
        return record if known and values["output"] == record.output else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


class View:
    """One view of a store: its parameters, its tables, its frames."""

    def __init__(self, group: zarr.Group, name: str) -> None:
        self.name = name
        self.group = group
        self.params: Attributes = dict(cast(Attributes, group.attrs["params"]))
        self.fingerprint = cast(str, group.attrs["fingerprint"])

    def table(self, name: str) -> npt.NDArray[Any]:
        """A whole array of the view as numpy: box, score, source, frame_index, density."""
        with reading(f"views/{self.name}/{name} in the store"):
            return np.asarray(self.array(name)[:])

    def array(self, name: str) -> zarr.Array[Any]:
        """An array of the view, not read yet."""
        with reading(f"views/{self.name}/{name} in the store"):
            found = self.group[name]
            if not isinstance(found, zarr.Array):
                raise TypeError("not an array")
        return found

    @property
    def has_density(self) -> bool:
        """Whether the box was chosen on a density map."""
        return "density" in self.group


class Store:
    """A store of format 1, open for reading. Tables are read once, when first asked for."""

    def __init__(self, location: str) -> None:
        self.location = location
        self.zarr = zarr_store(location, read_only=True)
        self.attrs = _root_attributes(self.zarr, shown(location))
        with reading(f"zarr.json in the store {shown(location)!r}"):
            self.recipe: Recipe = parse_recipe(self.attrs["recipe"], f"of the store {shown(location)!r}")
            self.fingerprint: str = self.attrs["fingerprint"]
            self.class_names: list[str] = self.attrs["class_names"]
            self.revision: int = self.attrs.get("revision", 1)
            self.build: str = self.attrs["software"]["ffmpeg"]
            self.group = zarr.open_group(self.zarr, mode="r")

    def table(self, name: str) -> npt.NDArray[Any]:
        """A whole table as numpy: id, label, split, state, reason, num_frames, frame_size."""
        with reading(f"{name} in the store {shown(self.location)!r}"):
            return np.asarray(cast("zarr.Array[Any]", self.group[name])[:])

    @cached_property
    def ids(self) -> list[str]:
        return [str(id) for id in self.table("id")]

    @property
    def views(self) -> list[str]:
        """The names of the views, in the recipe's order."""
        return [view.name for view in self.recipe.views]

    def view(self, name: str) -> View:
        """The view of that name; ``StoreError`` that names those there are."""
        if name not in self.views:
            raise StoreError(f"view {name!r} is not in {shown(self.location)!r}; there are: {', '.join(self.views)}")
        with reading(f"views/{name} in the store {shown(self.location)!r}"):
            return View(cast(zarr.Group, self.group[f"views/{name}"]), name)

    def row(self, id: str) -> int:
        """The row of a clip; ``StoreError`` for an id that is not there."""
        try:
            return self.ids.index(id)
        except ValueError:
            near = [known for known in self.ids if id.lower() in known.lower()][:3]
            hint = f"did you mean {', '.join(near)}" if near else f"an id looks like {self.ids[0]!r}"
            raise StoreError(f"clip {id!r} is not in {shown(self.location)!r}; {hint}") from None

    @property
    def num_shards(self) -> int:
        return schema.num_shards(len(self.ids), self.recipe.shard_clips)

    def records(self, stage: str, view: str | None = None) -> dict[int, Record]:
        """The records of a stage (and view), by shard; shards that are not done are left out."""
        return read_records(self.zarr, stage, view, range(self.num_shards))


def open_store(location: str | Path) -> Store:
    """Open a store for reading; ``StoreError`` where there is none, or one of another format."""
    return Store(str(location))


def _root_attributes(store: ZarrStore, where: str) -> Attributes:
    (found,) = attributes(store, [""])
    if found is None:
        raise NoStore(f"store {where!r}: there is none; mocrop preprocess makes it")
    if "mocrop_format" not in found:
        raise StoreError(f"store {where!r}: a Zarr group, but not a mocrop store (its making may have been cut short)")
    if found["mocrop_format"] != schema.FORMAT:
        raise StoreError(
            f"store {where!r} has format {found['mocrop_format']}; this version reads format {schema.FORMAT}"
        )
    return found


class VectorReader:
    """The motion vectors of one shard, clip by clip, each chunk decoded once when clips are read in order."""

    def __init__(self, store: ZarrStore, shard: int) -> None:
        self._path = schema.motion_path(shard)
        with self._reading():
            group = zarr.open_group(store, path=self._path, mode="r")
            self._columns = {name: cast("zarr.Array[Any]", group[name]) for name in schema.MOTION_COLUMNS}
            self._offset = np.asarray(cast("zarr.Array[Any]", group["offset"])[:])
            self._scale = np.asarray(cast("zarr.Array[Any]", group["motion_scale"])[:])
        self._chunk_length = self._columns["frame"].chunks[0]
        self._chunk: tuple[int, npt.NDArray[Any]] = (-1, np.empty(0, PACKED))

    def count(self, clip: int) -> int:
        """How many vectors a clip of the shard has."""
        return int(self._offset[clip + 1] - self._offset[clip])

    def blocks(self, clip: int) -> Iterator[npt.NDArray[Any]]:
        """The vectors of a clip (``mocrop_core.vectors.VECTOR``) in decode order, in blocks of bounded size."""
        start, stop = int(self._offset[clip]), int(self._offset[clip + 1])
        while start < stop:
            index, within = divmod(start, self._chunk_length)
            end = min(stop, (index + 1) * self._chunk_length)
            yield in_pixels(self._read_chunk(index)[within : within + end - start], int(self._scale[clip]))
            start = end

    def read(self, clip: int) -> npt.NDArray[Any]:
        """All vectors of a clip."""
        return np.concatenate([np.empty(0, VECTOR), *self.blocks(clip)])

    def _read_chunk(self, index: int) -> npt.NDArray[Any]:
        if self._chunk[0] != index:
            rows = slice(index * self._chunk_length, (index + 1) * self._chunk_length)
            with self._reading():
                columns = {name: np.asarray(column[rows]) for name, column in self._columns.items()}
                chunk = np.empty(len(columns["frame"]), PACKED)
                for name, values in columns.items():
                    chunk[schema.MOTION_FIELDS[name]] = values
            self._chunk = (index, chunk)
        return self._chunk[1]

    def _reading(self) -> AbstractContextManager[None]:
        return reading(f"{self._path} in the store")
