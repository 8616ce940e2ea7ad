"""Reading a store: the contract's arrays as zarr arrays, the tables as numpy, the records of what is done."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import Store as ZarrStore
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, ObjectStore

from data_specs import schema
from data_specs.fingerprints import fingerprint
from data_specs.recipes import Recipe, parse_recipe
from mocrop_core.vectors import VECTOR

T = TypeVar("T")
Attributes = dict[str, Any]


class StoreError(Exception):
    """A store that cannot be used as asked: one line that says why and what to do."""


def is_url(location: str) -> bool:
    """Whether the store lies on an object store (``s3://bucket/name.zarr``) and not in a local folder."""
    return "://" in location


def shown(location: str) -> str:
    """The location without a password in it, for messages and attributes."""
    if not is_url(location):
        return location
    parts = urlsplit(location)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))


def zarr_store(location: str, *, read_only: bool) -> ZarrStore:
    """The zarr store at a local path or an object-store URL; credentials come from the environment as usual."""
    if not is_url(location):
        return LocalStore(Path(location), read_only=read_only)
    from obstore.store import from_url

    return ObjectStore(from_url(location), read_only=read_only)


def attributes(store: ZarrStore, paths: Iterable[str]) -> list[Attributes | None]:
    """The attributes of the groups at ``paths``, None where there is no group. Read together, in one go."""

    async def read(path: str) -> Attributes | None:
        key = f"{path}/zarr.json" if path else "zarr.json"
        try:
            found = await store.get(key, default_buffer_prototype())
        except FileNotFoundError:  # the folder of a local store itself
            return None
        if found is None:
            return None
        try:
            return cast(Attributes, json.loads(found.to_bytes())["attributes"])
        except (ValueError, KeyError) as error:
            raise StoreError(f"{key} in the store is damaged ({error}); remove it and run mocrop preprocess") from error

    return run(_together([read(path) for path in paths]))


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
    task wrote into the store, by its key.
    """

    stage: str
    view: str | None
    shard: int
    inputs: str
    clips: Mapping[str, Attributes]
    objects: Mapping[str, str]

    @property
    def path(self) -> str:
        return schema.progress_path(self.stage, self.view, self.shard)

    @property
    def output(self) -> str:
        """The fingerprint of what came out: the link to the next stage."""
        return fingerprint(self.stage, self.view, dict(self.clips), dict(self.objects))

    @property
    def reasons(self) -> dict[str, str]:
        """The clips that this stage quarantined, and why."""
        return {id: row["reason"] for id, row in self.clips.items() if "reason" in row}

    def as_attributes(self) -> Attributes:
        """The record as the attributes of its group."""
        return {"inputs": self.inputs, "output": self.output, "clips": self.clips, "objects": self.objects}


def read_records(store: ZarrStore, stage: str, view: str | None, shards: Iterable[int]) -> dict[int, Record]:
    """The records that there are of a stage (and view), by shard."""
    wanted = list(shards)
    found = attributes(store, (schema.progress_path(stage, view, shard) for shard in wanted))
    return {
        shard: Record(stage, view, shard, values["inputs"], values["clips"], values["objects"])
        for shard, values in zip(wanted, found, strict=True)
        if values is not None
    }


class View:
    """One view of a store: its parameters, its tables, its frames."""

    def __init__(self, group: zarr.Group, name: str) -> None:
        self.name = name
        self.group = group
        self.params: Attributes = dict(cast(Attributes, group.attrs["params"]))
        self.fingerprint = cast(str, group.attrs["fingerprint"])

    def table(self, name: str) -> npt.NDArray[Any]:
        """A whole array of the view as numpy: box, score, source, frame_index, density."""
        return np.asarray(self.array(name)[:])

    def array(self, name: str) -> zarr.Array[Any]:
        """An array of the view, not read yet."""
        found = self.group[name]
        assert isinstance(found, zarr.Array)
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
        self.recipe: Recipe = parse_recipe(self.attrs["recipe"], f"of the store {shown(location)!r}")
        self.fingerprint: str = self.attrs["fingerprint"]
        self.class_names: list[str] = self.attrs["class_names"]
        self.group = zarr.open_group(self.zarr, mode="r")

    def table(self, name: str) -> npt.NDArray[Any]:
        """A whole table as numpy: id, label, split, state, reason, num_frames, frame_size."""
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
        group = self.group[f"views/{name}"]
        assert isinstance(group, zarr.Group)
        return View(group, name)

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
        raise StoreError(f"store {where!r}: there is none; mocrop preprocess makes it")
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
        group = zarr.open_group(store, path=schema.motion_path(shard), mode="r")
        self._columns = {name: cast("zarr.Array[Any]", group[name]) for name in schema.MOTION_COLUMNS}
        self._offset = np.asarray(cast("zarr.Array[Any]", group["offset"])[:])
        self._scale = np.asarray(cast("zarr.Array[Any]", group["motion_scale"])[:])
        self._chunk_length = self._columns["frame"].chunks[0]
        self._chunk: tuple[int, npt.NDArray[Any]] = (-1, np.empty(0, VECTOR))

    def count(self, clip: int) -> int:
        """How many vectors a clip of the shard has."""
        return int(self._offset[clip + 1] - self._offset[clip])

    def blocks(self, clip: int) -> Iterator[npt.NDArray[Any]]:
        """The vectors of a clip (``mocrop_core.vectors.VECTOR``) in decode order, in blocks of bounded size."""
        start, stop = int(self._offset[clip]), int(self._offset[clip + 1])
        while start < stop:
            index, within = divmod(start, self._chunk_length)
            end = min(stop, (index + 1) * self._chunk_length)
            yield self._scaled(self._read_chunk(index)[within : within + end - start], int(self._scale[clip]))
            start = end

    def read(self, clip: int) -> npt.NDArray[Any]:
        """All vectors of a clip."""
        return np.concatenate([np.empty(0, VECTOR), *self.blocks(clip)])

    def _read_chunk(self, index: int) -> npt.NDArray[Any]:
        if self._chunk[0] != index:
            rows = slice(index * self._chunk_length, (index + 1) * self._chunk_length)
            columns = {name: np.asarray(column[rows]) for name, column in self._columns.items()}
            chunk = np.empty(len(columns["frame"]), VECTOR)
            for name, values in columns.items():
                chunk[name] = values
            self._chunk = (index, chunk)
        return self._chunk[1]

    @staticmethod
    def _scaled(block: npt.NDArray[Any], scale: int) -> npt.NDArray[Any]:
        scaled = block.copy()
        scaled["dx"] /= scale
        scaled["dy"] /= scale
        return scaled
