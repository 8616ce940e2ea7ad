"""Writing a store: the only module that does. Whole shards, one writer each, every object hashed as it is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import Store as ZarrStore
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ZstdCodec
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import WrapperStore

from data_specs import schema
from data_specs.datasets import Dataset
from data_specs.fingerprints import LENGTH, fingerprint
from data_specs.jpeg import JpegCodec
from data_specs.recipes import FrameCodec, MotionView, Recipe, View, view_params
from data_specs.schema import ArraySpec
from data_specs.stored import Attributes, Record, Store, run, zarr_store

VECTOR_CHUNK = 1 << 17  # vectors in a chunk of a motion column: 256 kB of int16 before compression


class HashingStore(WrapperStore[ZarrStore]):
    """A store that remembers the SHA-256 of every chunk object written through it."""

    def __init__(self, store: ZarrStore) -> None:
        super().__init__(store)
        self.objects: dict[str, str] = {}

    async def set(self, key: str, value: Buffer) -> None:
        await self._store.set(key, value)
        if not key.endswith("zarr.json"):
            self.objects[key] = hashlib.sha256(value.as_buffer_like()).hexdigest()[:LENGTH]

    async def delete(self, key: str) -> None:
        await self._store.delete(key)
        self.objects.pop(key, None)


def put_attributes(store: ZarrStore, path: str, values: Mapping[str, Any], *, only_new: bool = False) -> None:
    """Write a group without arrays whose attributes are ``values``, whole or not at all.

    With ``only_new`` nothing is written where one is already: read it back to see who was first.
    """
    document = {"zarr_format": 3, "node_type": "group", "attributes": values}
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=True)
    value = default_buffer_prototype().buffer.from_bytes(text.encode())
    put = store.set_if_not_exists if only_new else store.set
    run(put(f"{path}/zarr.json" if path else "zarr.json", value))


def remove_attributes(store: ZarrStore, path: str) -> None:
    """Remove a group without arrays; nothing happens where there is none."""
    run(store.delete_dir(path))


def write_record(store: ZarrStore, record: Record) -> None:
    """Say that a shard is done. The last thing that a task does."""
    put_attributes(store, record.path, record.as_attributes())


def create(location: str, dataset: Dataset, recipe: Recipe, software: Mapping[str, str]) -> None:
    """Make an empty store for a data set; safe to call again after it was cut short. Its attributes come last."""
    store = zarr_store(location, read_only=False)
    rows = len(dataset.clips)
    for group in ("", "motion", "views", "progress", *(f"progress/{stage}" for stage in schema.STAGES)):
        put_attributes(store, group, {})
    for spec in schema.tables(rows):
        _create_array(store, spec, recipe.frames.codec)
    root = zarr.open_group(store, mode="r+")
    clips = dataset.clips
    write_table(root, "id", np.array([clip.id for clip in clips], dtype=object))
    write_table(root, "label", np.array([clip.label for clip in clips], dtype=np.int16))
    write_table(root, "split", np.array([clip.split for clip in clips], dtype=np.uint8))
    add_views(location, recipe, recipe.views, rows)
    put_attributes(store, "", root_attributes(dataset, recipe, software))


def root_attributes(dataset: Dataset, recipe: Recipe, software: Mapping[str, str]) -> Attributes:
    """What the store says of itself: nothing of where it was made, so that the same inputs give the same bytes."""
    return {
        "mocrop_format": schema.FORMAT,
        "dataset": dataset.name,
        "recipe": recipe.model_dump(mode="json"),
        "fingerprint": store_fingerprint(dataset, recipe, software),
        "class_names": list(dataset.class_names),
        "software": dict(software),
    }


def store_fingerprint(dataset: Dataset, recipe: Recipe, software: Mapping[str, str]) -> str:
    """The fingerprint of what a store is to hold: its clips, classes and splits, its recipe, the ffmpeg build."""
    rows = [[clip.id, clip.label, list(clip.split)] for clip in dataset.clips]
    return _store_fingerprint(rows, dataset.class_names, recipe, software)


def stored_fingerprint(store: Store) -> str:
    """The same from what a store holds."""
    columns = (store.ids, store.table("label").tolist(), store.table("split").tolist())
    rows = [list(row) for row in zip(*columns, strict=True)]
    return _store_fingerprint(rows, store.class_names, store.recipe, store.attrs["software"])


def _store_fingerprint(
    rows: list[list[Any]], class_names: Sequence[str], recipe: Recipe, software: Mapping[str, str]
) -> str:
    views = {view.name: view_params(view) for view in recipe.views}
    return fingerprint("store", rows, list(class_names), recipe.settings(), views, software["ffmpeg"])


def add_views(location: str, recipe: Recipe, views: tuple[View, ...], rows: int) -> None:
    """Make the empty arrays of views."""
    store = zarr_store(location, read_only=False)
    for view in views:
        params = view_params(view)
        put_attributes(store, f"views/{view.name}", {"params": params, "fingerprint": view_fingerprint(recipe, params)})
        for stage in schema.VIEW_STAGES:
            put_attributes(store, f"progress/{stage}/{view.name}", {})
        grid = view.method().grid if isinstance(view, MotionView) else None
        slots, size = recipe.frames.slots, recipe.frames.size
        specs = schema.view_tables(view.name, rows, slots)
        specs += schema.view_shards(view.name, rows, slots, size, recipe.shard_clips, grid)
        for spec in specs:
            _create_array(store, spec, recipe.frames.codec)


def view_fingerprint(recipe: Recipe, params: Attributes) -> str:
    """The fingerprint of how a view's boxes and crops are made."""
    return fingerprint("view", recipe.settings(), params)


def _create_array(store: ZarrStore, spec: ArraySpec, frame_codec: FrameCodec) -> None:
    serializer, compressors = _frame_codecs(frame_codec) if spec.frames else ("auto", (ZstdCodec(level=3),))
    zarr.create_array(
        store,
        name=spec.path,
        shape=spec.shape,
        dtype=spec.dtype,
        chunks=spec.chunks,
        shards=spec.shards,
        dimension_names=spec.dims,
        fill_value=spec.fill,
        serializer=cast(Any, serializer),
        compressors=(*compressors, Crc32cCodec()),
        attributes={"about": spec.about},
        overwrite=True,
    )


def _frame_codecs(codec: FrameCodec) -> tuple[Any, tuple[Any, ...]]:
    match codec.name:
        case "raw":
            return BytesCodec(), ()
        case "lz4":
            return BytesCodec(), (BloscCodec(cname="lz4", clevel=5, shuffle="noshuffle", typesize=1),)
        case "zstd":
            return BytesCodec(), (ZstdCodec(level=1),)
        case "jpeg":
            return JpegCodec(quality=codec.quality or 95), ()


def write_table(group: zarr.Group, name: str, values: npt.NDArray[Any]) -> None:
    """Write all rows of a table."""
    array = group[name]
    assert isinstance(array, zarr.Array)
    array[:] = values


def write_rows(store: ZarrStore, path: str, rows: range, values: npt.NDArray[Any]) -> None:
    """Write the whole shard that holds ``rows`` of a shard array; ``ValueError`` for a part of one."""
    array = zarr.open_array(store, path=path, mode="r+")
    step = (array.shards or array.chunks)[0]
    if rows.start % step or (len(rows) != step and rows.stop != array.shape[0]):
        raise ValueError(f"{path}: rows {rows.start} to {rows.stop} are not a whole shard of {step}")
    array[rows.start : rows.stop] = values


def _column_codec(name: str) -> BloscCodec:
    """The smallest of those measured: 29 % of the H.264 file for all columns together, 33 % with plain zstd."""
    shuffle = "bitshuffle" if name in ("dx", "dy") else "shuffle"
    return BloscCodec(cname="zstd", clevel=3, shuffle=shuffle)


class VectorWriter:
    """Appends packed vectors to the columns of ``motion/<shard>``, a whole chunk at a time, in bounded memory.

    ``mark`` and ``rollback`` take back what a clip wrote that failed in its middle.
    """

    def __init__(self, store: ZarrStore, shard: int) -> None:
        path = schema.motion_path(shard)
        put_attributes(store, path, {})
        self._columns = {
            name: zarr.create_array(
                store,
                name=f"{path}/{name}",
                shape=(0,),
                dtype=dtype,
                chunks=(VECTOR_CHUNK,),
                dimension_names=("vector",),
                compressors=(_column_codec(name), Crc32cCodec()),
                fill_value=0,
                attributes={"about": about},
                overwrite=True,
            )
            for name, (dtype, about) in schema.MOTION_COLUMNS.items()
        }
        self._store, self._path = store, path
        self._flushed = 0
        self._waiting: list[npt.NDArray[Any]] = []
        self._num_waiting = 0

    @property
    def count(self) -> int:
        """Vectors appended so far."""
        return self._flushed + self._num_waiting

    def mark(self) -> tuple[int, list[npt.NDArray[Any]], int]:
        """The place where the writer stands."""
        return self._flushed, list(self._waiting), self._num_waiting

    def rollback(self, mark: tuple[int, list[npt.NDArray[Any]], int]) -> None:
        """Go back to a place: what was appended since is forgotten."""
        self._flushed, self._waiting, self._num_waiting = mark[0], list(mark[1]), mark[2]

    def append(self, block: npt.NDArray[Any]) -> None:
        """Append packed vectors."""
        self._waiting.append(block)
        self._num_waiting += len(block)
        while self._num_waiting >= VECTOR_CHUNK:
            self._flush(VECTOR_CHUNK)

    def close(self, offsets: list[int], scales: list[int]) -> None:
        """Write what is left, the bounds of the clips (one more than clips) and the units of their displacements."""
        self._flush(self._num_waiting)
        for column in self._columns.values():
            column.resize((self._flushed,))
        tables = (
            (
                "offset",
                "bound",
                offsets,
                "int64",
                "clip i of the shard has the vectors offset[i] to offset[i + 1]",
            ),
            (
                "motion_scale",
                "clip",
                scales,
                "uint16",
                "units of dx and dy in a pixel; 0 where there is no vector",
            ),
        )
        for name, dim, values, dtype, about in tables:
            zarr.create_array(
                self._store,
                name=f"{self._path}/{name}",
                data=np.array(values, dtype=dtype),
                chunks=(len(values),),
                dimension_names=(dim,),
                compressors=(ZstdCodec(level=3), Crc32cCodec()),
                attributes={"about": about},
                overwrite=True,
            )

    def _flush(self, count: int) -> None:
        block: npt.NDArray[Any] = np.concatenate(self._waiting) if self._waiting else np.empty(0)
        self._waiting = [block[count:]] if len(block) > count else []
        self._num_waiting -= count
        if count:
            stop = self._flushed + count
            for name, column in self._columns.items():
                column.resize((max(stop, column.shape[0]),))
                column[self._flushed : stop] = block[name][:count]
            self._flushed = stop
