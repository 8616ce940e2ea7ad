"""Reading a store: the contract's arrays as zarr arrays, the tables as numpy, the records of what is done."""

from __future__ import annotations

import asyncio
import hashlib
import os
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

from data_specs import schema
from data_specs.arrays import open_array, stored_length
from data_specs.documents import parse_json
from data_specs.fingerprints import LENGTH, fingerprint
from data_specs.local_files import LocalFiles, hash_file
from data_specs.locations import Damaged as Damaged
from data_specs.locations import NoStore as NoStore
from data_specs.locations import StoreError as StoreError
from data_specs.locations import check_location as check_location
from data_specs.locations import is_url as is_url
from data_specs.locations import shown as shown
from data_specs.recipes import MotionView, Recipe, parse_recipe, view_params
from data_specs.record_content import check_content
from data_specs.schema import ArraySpec
from data_specs.text import printable
from mocrop_core.vectors import PACKED, VECTOR, in_pixels

_FEW = 64  # shards, whose records are asked for one by one

T = TypeVar("T")
Attributes = dict[str, Any]


def zarr_store(location: str, *, read_only: bool) -> ZarrStore:
    """The zarr store at a local path or an object-store URL; credentials come from the environment as usual."""
    if not is_url(location):
        return LocalFiles(Path(location), read_only=read_only)
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
        document = parse_json(text, schema.MAX_DOCUMENT)
        if document["node_type"] == "group" and isinstance(document["attributes"], dict):
            return cast(Attributes, document["attributes"])
        problem = "not a group"
    except (ValueError, KeyError, TypeError) as error:
        problem = printable(str(error))[:200]
    return Damaged(f"{key} in the store is damaged ({problem}); the mocrop preprocess that made it writes it again")


def read_objects(store: ZarrStore, keys: Iterable[str]) -> list[bytes | None]:
    """The documents of a store under ``keys``, None where there is none. Read together, in one go.

    One of more than ``MAX_DOCUMENT`` bytes reads as empty: it is not one of ours.
    """
    bounded = store.with_most(schema.MAX_DOCUMENT) if hasattr(store, "with_most") else store

    async def read(key: str) -> bytes | None:
        try:
            found = await bounded.get(key, default_buffer_prototype())
        except FileNotFoundError:  # the folder of a local store itself
            return None
        except ValueError:
            return b""
        return None if found is None else found.to_bytes()

    return run(_together([read(key) for key in keys]))


def hash_objects(store: ZarrStore, keys: Iterable[str], most: int) -> list[str | None]:
    """The SHA-256 of the objects under ``keys``, cut as in records; None where there is none, "" above ``most`` bytes.

    Files are read piece by piece.
    """

    async def digest(key: str) -> str | None:
        if isinstance(store, LocalFiles):
            return await asyncio.to_thread(hash_file, store.root / key, most)
        found = await store.get(key, default_buffer_prototype())
        if found is None:
            return None
        return hashlib.sha256(found.as_buffer_like()).hexdigest() if len(found) <= most else ""

    found = run(_together([digest(key) for key in keys]))
    return [value and value[:LENGTH] for value in found]


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
        cause = printable(" ".join(f"{type(error).__name__}: {error}".split())[:200])
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
    wanted = _existing(store, stage, view, list(shards))
    found = _documents(store, (schema.progress_path(stage, view, shard) for shard in wanted))
    records = {}
    for shard, values in zip(wanted, found, strict=True):
        record = None if isinstance(values, Damaged) else _record(stage, view, shard, values or {})
        if record is not None:
            records[shard] = record
        elif values is not None and damaged is not None:
            damaged.append(schema.progress_path(stage, view, shard))
    return records


def _existing(store: ZarrStore, stage: str, view: str | None, shards: list[int]) -> list[int]:
    """Those of many shards for which there is a folder, where one listing tells; all of them on an object store."""
    if len(shards) <= _FEW or not isinstance(store, LocalFiles):
        return shards
    folder = Path(store.root, schema.progress_path(stage, view, 0)).parent
    names = set(os.listdir(folder)) if folder.is_dir() else set()
    return [shard for shard in shards if Path(schema.progress_path(stage, view, shard)).name in names]


def _record(stage: str, view: str | None, shard: int, values: Attributes) -> Record | None:
    try:
        check_content(stage, values)
        names = ("inputs", "clips", "objects", "sizes", "software")
        record = Record(stage, view, shard, *(values[name] for name in names))
        return record if values["output"] == record.output else None
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


class View:
    """One view of a store: its parameters, its tables, its frames."""

    def __init__(self, store: Store, name: str, attributes: Attributes) -> None:
        self.name = name
        self.params: Attributes = dict(attributes["params"])
        self.fingerprint: str = _text(attributes["fingerprint"])
        self._store = store
        _check_params(self.params, view_params(store.recipe.view(name)))

    def table(self, name: str) -> npt.NDArray[Any]:
        """A whole array of the view as numpy: box, score, source, frame_index, density."""
        return self._store.table(f"views/{self.name}/{name}")

    def array(self, name: str) -> zarr.Array[Any]:
        """An array of the view, not read yet."""
        return self._store.array(f"views/{self.name}/{name}")

    @property
    def has_density(self) -> bool:
        """Whether the box was chosen on a density map."""
        return isinstance(self._store.recipe.view(self.name), MotionView)


class Store:
    """A store of format 1, open for reading. Tables are read once, when first asked for.

    What it says is taken for what a stranger says: `Damaged` for whatever is not as the schema has it.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self.zarr = zarr_store(location, read_only=True)
        self.attrs = _root_attributes(self.zarr, shown(location))
        with reading(f"zarr.json in the store {shown(location)!r}"):
            self.recipe: Recipe = parse_recipe(self.attrs["recipe"], f"of the store {shown(location)!r}")
            self.fingerprint: str = _text(self.attrs["fingerprint"])
            self.class_names: list[str] = _class_names(self.attrs["class_names"])
            self.attrs["dataset"] = _text(self.attrs["dataset"])
            self.attrs["software"] = {_text(name): _text(what) for name, what in self.attrs["software"].items()}
            self.revision: int = _revision(self.attrs.get("revision", 1))
            self.build: str = self.attrs["software"]["ffmpeg"]

    def table(self, path: str) -> npt.NDArray[Any]:
        """A whole array as numpy: id, label, split, state, reason, num_frames, frame_size, or a view's by its path.

        ``Damaged`` for a number that the array cannot have, such as a state that is unknown.
        """
        values = self.read(path)
        low, high = schema.RANGES.get(path.rpartition("/")[2], (None, None))
        with reading(self._named(path)):
            if low is not None and ((values < low) | (values > high)).any():
                raise ValueError(f"it has numbers outside {low} to {high}")
        return values

    def read(self, path: str) -> npt.NDArray[Any]:
        """The same, whatever the numbers are."""
        with reading(self._named(path)):
            return np.asarray(open_array(self.zarr, self.spec(path))[:])

    def array(self, path: str) -> zarr.Array[Any]:
        """An array by its path, not read yet."""
        with reading(self._named(path)):
            return open_array(self.zarr, self.spec(path))

    def _named(self, path: str) -> str:
        """An array for messages; those of a view go into pages that are passed on, and say nothing of this machine."""
        return f"{path} in the store" if path.startswith("views/") else f"{path} in the store {shown(self.location)!r}"

    def spec(self, path: str) -> ArraySpec:
        """What the schema says of an array of this store."""
        with reading(f"id in the store {shown(self.location)!r}"):
            return self._specs[path]

    @cached_property
    def _specs(self) -> dict[str, ArraySpec]:
        """What the schema says of each array of this store, by its path."""
        rows = stored_length(self.zarr, "id", schema.MAX_CLIPS)
        if not rows:
            raise ValueError("it has no clips")
        frames, views = self.recipe.frames, self.recipe.views
        grids = [(view.name, view.method().grid if isinstance(view, MotionView) else None) for view in views]
        specs = schema.all_arrays(rows, frames.slots, frames.size, self.recipe.shard_clips, grids)
        return {spec.path: spec for spec in specs}

    @cached_property
    def ids(self) -> list[str]:
        ids = [str(id) for id in self.table("id")]
        with reading(f"id in the store {shown(self.location)!r}"):
            if wrong := [id for id in ids if not _is_id(id)]:
                raise ValueError(f"{len(wrong)} ids are empty, too long or not printable, such as {wrong[0][:60]!r}")
            if len(set(ids)) != len(ids):
                raise ValueError("an id is there twice")
        return ids

    @property
    def views(self) -> list[str]:
        """The names of the views, in the recipe's order."""
        return [view.name for view in self.recipe.views]

    def view(self, name: str) -> View:
        """The view of that name; ``StoreError`` that names those there are."""
        if name not in self.views:
            raise StoreError(f"view {name!r} is not in {shown(self.location)!r}; there are: {', '.join(self.views)}")
        with reading(f"views/{name} in the store {shown(self.location)!r}"):
            (found,) = attributes(self.zarr, [f"views/{name}"])
            if found is None:
                raise FileNotFoundError("it is missing")
            return View(self, name, found)

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
            f"store {where!r} has format {str(found['mocrop_format'])[:60]}; this version reads format {schema.FORMAT}"
        )
    return found


def _is_id(id: str) -> bool:
    """Whether an id is one that a path below a folder can be made of, and that may be shown."""
    return len(id) <= schema.MAX_ID and printable(id) == id and not {"", ".", ".."} & set(id.split("/"))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:60]!r} is not text")
    return value


def _revision(value: object) -> int:
    if type(value) is not int or not 0 < value < 1 << 31:
        raise ValueError(f"revision is {str(value)[:60]}")
    return value


def _class_names(value: object) -> list[str]:
    if not isinstance(value, list) or not 0 < len(value) <= schema.MAX_CLASSES:
        raise ValueError(f"class_names is {str(value)[:60]}, expected a list of 1 to {schema.MAX_CLASSES} names")
    if wrong := [name for name in value if not isinstance(name, str) or not 0 < len(name) <= schema.MAX_ID]:
        raise ValueError(f"a class name is {str(wrong[0])[:60]!r}")
    return value


def _check_params(params: Attributes, expected: Attributes) -> None:
    """``ValueError`` unless the numbers of a view are of the types that its recipe's have."""
    needed = {"kind", "grid", "crop_ratio", "tolerance"} & expected.keys()
    for name, value in expected.items():
        given = params.get(name)
        alike = type(given) is type(value) or {type(given), type(value)} == {int, float}
        if isinstance(value, list):
            alike = isinstance(given, list) and list(map(type, given)) == list(map(type, value))
        if not alike and (name in params or name in needed):
            raise ValueError(f"its {name} is {str(given)[:60]}")
    grid, ratio, tolerance = params.get("grid", [1, 1]), params.get("crop_ratio", 1), params.get("tolerance", 0)
    if not (all(1 <= side <= 240 for side in grid) and 0 < ratio <= 1 and 0 <= tolerance <= 1):
        raise ValueError(f"its grid is {str(grid)[:60]}, crop_ratio {ratio:g}, tolerance {tolerance:g}")


class VectorReader:
    """The motion vectors of one shard, clip by clip, each chunk decoded once when clips are read in order."""

    def __init__(self, store: ZarrStore, shard: int) -> None:
        self._path = schema.motion_path(shard)
        with self._reading():
            bounds, clips = (stored_length(store, f"{self._path}/{name}", 1 << 20) for name in schema.MOTION_TABLES)
            self._offset, self._scale = (
                np.asarray(open_array(store, schema.motion_table(shard, name, length))[:])
                for name, length in zip(schema.MOTION_TABLES, (bounds, clips), strict=True)
            )
            if bounds != clips + 1 or self._offset[0] != 0 or (np.diff(self._offset) < 0).any():
                raise ValueError("its offsets do not rise from 0")
            self._columns = {
                name: open_array(store, schema.motion_column(shard, name, int(self._offset[-1])))
                for name in schema.MOTION_COLUMNS
            }
        self._chunk_length = schema.VECTOR_CHUNK
        self._chunk: tuple[int, npt.NDArray[Any]] = (-1, np.empty(0, PACKED))

    def count(self, clip: int) -> int:
        """How many vectors a clip of the shard has."""
        return int(self._offset[clip + 1] - self._offset[clip])

    def counts(self) -> list[int]:
        """How many vectors each clip of the shard has."""
        return [int(count) for count in np.diff(self._offset)]

    def blocks(self, clip: int) -> Iterator[npt.NDArray[Any]]:
        """The vectors of a clip (``mocrop_core.vectors.VECTOR``) in decode order, in blocks of bounded size."""
        start, stop = int(self._offset[clip]), int(self._offset[clip + 1])
        while start < stop:
            index, within = divmod(start, self._chunk_length)
            end = min(stop, (index + 1) * self._chunk_length)
            packed = self._read_chunk(index)[within : within + end - start]
            with self._reading():
                block = in_pixels(packed, int(self._scale[clip]))
            yield block
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
                if not chunk["w"].all():  # as where a chunk is missing
                    raise ValueError(f"vectors from {index * self._chunk_length} on have no size")
            self._chunk = (index, chunk)
        return self._chunk[1]

    def _reading(self) -> AbstractContextManager[None]:
        return reading(f"{self._path} in the store")
