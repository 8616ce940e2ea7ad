"""Reading a store: arrays as zarr arrays, tables as NumPy arrays, and the completion records."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import Store as ZarrStore

from data_specs import schema
from data_specs.arrays import open_array, stored_length
from data_specs.clip_rows import Clip
from data_specs.locations import Damaged as Damaged
from data_specs.locations import NoStore as NoStore
from data_specs.locations import StoreError as StoreError
from data_specs.locations import check_location as check_location
from data_specs.locations import is_url as is_url
from data_specs.locations import shown as shown
from data_specs.objects import Attributes as Attributes
from data_specs.objects import attributes as attributes
from data_specs.objects import hash_objects as hash_objects
from data_specs.objects import parse_attributes as parse_attributes
from data_specs.objects import read_objects as read_objects
from data_specs.objects import reading as reading
from data_specs.objects import run as run
from data_specs.objects import zarr_store as zarr_store
from data_specs.recipes import MotionView, Recipe, density_grid, moves, parse_recipe, view_params
from data_specs.records import Record, Row, read_records
from data_specs.schema import ArraySpec
from data_specs.store_content import as_class_names, as_revision, as_text, check_params, is_id
from data_specs.vector_reader import VectorReader as VectorReader

_COMPARED = 20_000  # ids among which a mistyped one is looked for; more would take seconds


class View:
    """One view of a store: its parameters, its tables, its frames."""

    def __init__(self, store: Store, name: str, attributes: Attributes) -> None:
        self.name = name
        self.params: Attributes = dict(attributes["params"])
        self.fingerprint: str = as_text(attributes["fingerprint"])
        self._store = store
        check_params(self.params, view_params(store.recipe.view(name)))

    def table(self, name: str) -> npt.NDArray[Any]:
        """A whole array of the view as a NumPy array: box, score, source, frame_index, density."""
        return self._store.table(f"views/{self.name}/{name}")

    def array(self, name: str) -> zarr.Array[Any]:
        """An array of the view, without reading it."""
        return self._store.array(f"views/{self.name}/{name}")

    @property
    def has_density(self) -> bool:
        """Whether the box was chosen on a density map."""
        return isinstance(self._store.recipe.view(self.name), MotionView)


class Store:
    """A store of format 2, open for reading. Tables are read once, on first use.

    The contents are not trusted: anything that does not match the schema raises `Damaged`.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self.zarr = zarr_store(location, read_only=True)
        self.attrs = _root_attributes(self.zarr, shown(location))
        with reading(f"zarr.json in the store {shown(location)!r}"):
            self.recipe: Recipe = parse_recipe(self.attrs["recipe"], f"of the store {shown(location)!r}")
            _ = self.recipe.clips_per_shard  # ValueError for "auto"
            self.fingerprint: str = as_text(self.attrs["fingerprint"])
            self.class_names: list[str] = as_class_names(self.attrs["class_names"])
            self.attrs["dataset"] = as_text(self.attrs["dataset"])
            self.attrs["software"] = {as_text(name): as_text(what) for name, what in self.attrs["software"].items()}
            self.revision: int = as_revision(self.attrs.get("revision", 1))
            self.build: str = self.attrs["software"]["ffmpeg"]

    def table(self, path: str) -> npt.NDArray[Any]:
        """A whole table as NumPy array: id, label, split, state, reason, num_frames, frame_size, or a view's by path.

        ``Damaged`` for a value out of range, such as an unknown state.
        """
        values = self.read(path)
        low, high = schema.RANGES.get(path.rpartition("/")[2], (None, None))
        with reading(self._named(path)):
            if low is not None and ((values < low) | (values > high)).any():
                raise ValueError(f"it has values outside {low} to {high}")
        return values

    def read(self, path: str) -> npt.NDArray[Any]:
        """The same, without checking the range of the values."""
        with reading(self._named(path)):
            return np.asarray(open_array(self.zarr, self.spec(path))[:])

    def array(self, path: str) -> zarr.Array[Any]:
        """An array by its path, without reading it."""
        with reading(self._named(path)):
            return open_array(self.zarr, self.spec(path))

    def _named(self, path: str) -> str:
        """The name of an array in messages; without the location for a view's, as report pages are shared."""
        return f"{path} in the store" if path.startswith("views/") else f"{path} in the store {shown(self.location)!r}"

    def spec(self, path: str) -> ArraySpec:
        """The schema of an array of this store."""
        with reading(f"id in the store {shown(self.location)!r}"):
            return self._specs[path]

    @cached_property
    def _specs(self) -> dict[str, ArraySpec]:
        """The schema of each array of this store, by its path."""
        rows = stored_length(self.zarr, "id", schema.MAX_CLIPS)
        if not rows:
            raise ValueError("it has no clips")
        frames, views = self.recipe.frames, self.recipe.views
        kinds = [(view.name, density_grid(view), moves(view)) for view in views]
        specs = schema.all_arrays(rows, frames.slots, frames.size, self.recipe.clips_per_shard, kinds)
        return {spec.path: spec for spec in specs}

    @cached_property
    def ids(self) -> list[str]:
        ids = [str(id) for id in self.table("id")]
        with reading(f"id in the store {shown(self.location)!r}"):
            if wrong := [id for id in ids if not is_id(id)]:
                raise ValueError(f"{len(wrong)} ids are not valid clip names, such as {wrong[0][:60]!r}")
            if len(set(ids)) != len(ids):
                raise ValueError("an id occurs more than once")
        return ids

    @cached_property
    def windows(self) -> list[tuple[str, float, float] | None]:
        """The video, start and end (s) of each clip that is a window of a video; None for whole videos."""
        videos, windows = self.table("video"), self.table("window")
        with reading(f"window in the store {shown(self.location)!r}"):
            whole = np.isnan(windows)
            if (whole[:, 0] != whole[:, 1]).any() or (whole[:, 0] != (videos == "")).any():
                raise ValueError("a window has no video, or no end")
            if (windows[:, 0] >= windows[:, 1]).any():
                raise ValueError("a window does not end after it starts")
        return [
            None if none else (str(video), *times)
            for none, video, times in zip(whole[:, 0], videos, windows.tolist(), strict=True)
        ]

    def clips(self, rows: Iterable[int]) -> list[Clip]:
        """The clips of some rows as far as their H.264 files depend on them: without path, label, split and group."""
        return [
            Clip(self.ids[row], "", -1, video=video, start=start, end=end)
            for row in rows
            for video, start, end in [self.windows[row] or ("", None, None)]
        ]

    @property
    def views(self) -> list[str]:
        """The names of the views, in the recipe's order."""
        return [view.name for view in self.recipe.views]

    def view(self, name: str) -> View:
        """The view with this name; a ``StoreError`` lists the existing ones."""
        if name not in self.views:
            raise StoreError(f"view {name!r} is not in {shown(self.location)!r}; there are: {', '.join(self.views)}")
        with reading(f"views/{name} in the store {shown(self.location)!r}"):
            (found,) = attributes(self.zarr, [f"views/{name}"])
            if found is None:
                raise FileNotFoundError("it is missing")
            return View(self, name, found)

    def row(self, id: str) -> int:
        """The row of a clip; ``StoreError`` for an unknown id."""
        try:
            return self.ids.index(id)
        except ValueError:
            near = [known for known in self.ids if id.lower() in known.lower()][:3]
            near = near or get_close_matches(id, self.ids[:_COMPARED], cutoff=0.8)
            hint = f"did you mean {' or '.join(near)}?" if near else f"an id looks like {self.ids[0]!r}"
            raise StoreError(f"clip {id!r} is not in {shown(self.location)!r}; {hint}") from None

    @property
    def num_shards(self) -> int:
        return schema.num_shards(len(self.ids), self.recipe.clips_per_shard)

    def records(self, row_type: type[Row], view: str | None = None) -> dict[int, Record[Row]]:
        """The records of a stage (and view), by shard, without shards that are not done."""
        return read_records(self.zarr, row_type, view, range(self.num_shards))


def open_store(location: str | Path) -> Store:
    """Open a store for reading; ``StoreError`` if there is none, or it has another format."""
    return Store(str(location))


_AGAIN = (
    "Create it again with mocrop preprocess --source … --store NEW and the --clips, --splits and --recipe of this one; "
    "then this one can be removed"
)


def _root_attributes(store: ZarrStore, where: str) -> Attributes:
    (found,) = attributes(store, [""])
    if found is None:
        raise NoStore(f"store {where!r}: no such store; create it with mocrop preprocess")
    if "mocrop_format" not in found:
        raise StoreError(
            f"store {where!r}: a Zarr group, but not a mocrop store (its creation may have been interrupted)"
        )
    if (written := found["mocrop_format"]) != schema.FORMAT:
        older = type(written) is int and 0 < written < schema.FORMAT
        raise StoreError(
            f"store {where!r} has format {str(written)[:60]}; this version reads format {schema.FORMAT}"
            + (f". {_AGAIN}" if older else "")
        )
    return found
