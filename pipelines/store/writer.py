"""Writing a store: the only module that does. Whole shards, one writer each, every object hashed as it is written."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.codec import Codec
from zarr.abc.store import Store as ZarrStore
from zarr.codecs import BloscCodec, BloscShuffle, BytesCodec, Crc32cCodec, ZstdCodec
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.metadata import ArrayV3Metadata
from zarr.storage import LocalStore, MemoryStore, WrapperStore

from data_specs import schema
from data_specs.arrays import open_array
from data_specs.chain import REVISION
from data_specs.datasets import Dataset
from data_specs.documents import parse_json
from data_specs.fingerprints import LENGTH, fingerprint
from data_specs.jpeg import JpegCodec
from data_specs.local_files import refuse_links
from data_specs.recipes import FrameCodec, Recipe, density_grid, moves, view_params
from data_specs.schema import ArraySpec
from data_specs.stored import Attributes, Damaged, Record, Store, StoreError, read_objects, reading, run, zarr_store

ALONE_SECONDS = 10.0


class HashingStore(WrapperStore[ZarrStore]):
    """A store that remembers the SHA-256 and the size of every object written through it, but for records."""

    def __init__(self, store: ZarrStore) -> None:
        super().__init__(store)
        self._objects: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._unsettled: set[str] = set()

    async def set(self, key: str, value: Buffer) -> None:
        await self._store.set(key, value)
        if not key.startswith("progress/"):
            self._objects[key] = hashlib.sha256(value.as_buffer_like()).hexdigest()[:LENGTH]
            self._sizes[key] = len(value)
            self._unsettled.add(key)

    async def delete(self, key: str) -> None:
        await self._store.delete(key)
        self._objects.pop(key, None)
        self._sizes.pop(key, None)

    def taken(self) -> tuple[dict[str, str], dict[str, int]]:
        """The hashes and sizes of what was written since they were last taken, by key."""
        objects, sizes = self._objects, self._sizes
        self._objects, self._sizes = {}, {}
        return objects, sizes

    def settle(self) -> None:
        """Have all that was written reach the disk, so that no loss of power leaves a record without its objects."""
        if isinstance(self._store, LocalStore):
            files = {self._store.root / key for key in self._unsettled}
            for path in sorted(path for path in files | {file.parent for file in files} if path.exists()):
                place = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(place)
                finally:
                    os.close(place)
        self._unsettled.clear()


def put_attributes(store: ZarrStore, path: str, values: Mapping[str, Any]) -> None:
    """Write a group without arrays whose attributes are ``values``, whole or not at all."""
    put_object(store, f"{path}/zarr.json" if path else "zarr.json", group_document(values))


def group_document(attributes: Mapping[str, Any]) -> bytes:
    """A group's ``zarr.json``."""
    document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=True).encode()


def put_object(store: ZarrStore, key: str, value: bytes) -> None:
    """Write an object of the store, whole or not at all."""
    run(store.set(key, default_buffer_prototype().buffer.from_bytes(value)))


def exchange(store: ZarrStore, path: str, expected: bytes | None, values: Mapping[str, Any] | None) -> bool:
    """Put a group with the attributes ``values`` where ``expected`` stands, as the bytes of its ``zarr.json``.

    None means nothing there, before or after. Of several processes at once one succeeds; False for the others, and
    where something else than ``expected`` was found.
    """
    key, value = f"{path}/zarr.json", None if values is None else group_document(values)
    if not isinstance(store, LocalStore):
        return bool(run(cast(Any, store).exchange(key, expected, value)))
    refuse_links(store.root, store.root / path)
    with alone(store.root / path.partition("/")[0]):
        (found,) = read_objects(store, [key])
        if found != expected:
            return False
        if value is None:
            remove_attributes(store, path)
        else:
            put_object(store, key, value)
    return True


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only process in this block for a folder, which is made if it is not there. The kernel sees to it.

    ``StoreError`` if another one stays in it. Where the file system has no locks, nobody is kept out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = os.open(folder, os.O_RDONLY)
    try:
        until = time.monotonic() + ALONE_SECONDS
        while True:
            try:
                fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise StoreError(f"{folder} is held by another process; wait for it, or stop it first") from None
                time.sleep(0.01)
            except OSError:
                break
        yield
    finally:
        os.close(place)


def remove_attributes(store: ZarrStore, path: str) -> None:
    """Remove a group without arrays; nothing happens where there is none."""
    run(store.delete_dir(path))


def write_record(store: ZarrStore, record: Record) -> None:
    """Say that a shard is done. The last thing that a task does."""
    put_attributes(store, record.path, record.as_attributes())


def create(location: str, dataset: Dataset, recipe: Recipe, software: Mapping[str, str]) -> None:
    """Make an empty store for a data set. Its attributes come last.

    Safe to call again after it was cut short, and on a store that lost its attributes: chunks and records are kept.
    """
    store = zarr_store(location, read_only=False)
    mend_documents(store, recipe, len(dataset.clips))
    mend_tables(store, dataset)
    put_attributes(store, "", root_attributes(dataset, recipe, software))


def mend_documents(store: ZarrStore, recipe: Recipe, rows: int) -> None:
    """Write the ``zarr.json`` of each group and array that is missing or damaged; chunks stay as they are."""
    for key, document in wrong_documents(store, recipe, rows).items():
        put_object(store, key, document)


def wrong_documents(store: ZarrStore, recipe: Recipe, rows: int) -> dict[str, bytes]:
    """What should stand under the keys of those ``zarr.json`` that are missing, damaged or of something else.

    The root's and those of the motion vectors are not among them: their content does not follow from the recipe.
    """
    wanted = _documents(recipe, rows)
    found = read_objects(store, wanted)
    return {
        key: document
        for (key, document), there in zip(wanted.items(), found, strict=True)
        if not (there is not None and _same(key, there, document))
    }


def _same(key: str, found: bytes, wanted: bytes) -> bool:
    """Whether two documents mean the same; another version of zarr may write them in another form."""
    if found == wanted:
        return True
    try:
        there, should = parse_json(found, schema.MAX_DOCUMENT), json.loads(wanted)
        if key == "progress/zarr.json":  # its attributes say how long stages took
            return bool(there["node_type"] == "group" and isinstance(there["attributes"], dict))
        if should["node_type"] == "group":
            return bool(there == should)
        old, new = (ArrayV3Metadata.from_dict(document).to_dict() for document in (there, should))
        return json.dumps(old, sort_keys=True, default=str) == json.dumps(new, sort_keys=True, default=str)
    except Exception:  # whatever is wrong with it, it is not what should be there: it is reported or written again
        return False


def _documents(recipe: Recipe, rows: int) -> dict[str, bytes]:
    """The ``zarr.json`` of every group and array that follows from the recipe, by its key."""
    made: dict[str, Buffer] = {}
    memory = MemoryStore(made)
    for group in ("progress", "motion", "views", *(f"progress/{stage}" for stage in schema.STAGES)):
        put_attributes(memory, group, {})
    for spec in schema.tables(rows):
        _create_array(memory, spec, recipe.frames.codec)
    for view in recipe.views:
        params = view_params(view)
        put_attributes(
            memory, f"views/{view.name}", {"params": params, "fingerprint": view_fingerprint(recipe, params)}
        )
        for stage in schema.VIEW_STAGES:
            put_attributes(memory, f"progress/{stage}/{view.name}", {})
        grid = density_grid(view)
        slots, size = recipe.frames.slots, recipe.frames.size
        specs = schema.view_tables(view.name, rows, slots, moves(view))
        for spec in specs + schema.view_shards(view.name, rows, slots, size, recipe.shard_clips, grid):
            _create_array(memory, spec, recipe.frames.codec)
    return {key: value.to_bytes() for key, value in made.items() if key != "zarr.json"}


def dataset_tables(dataset: Dataset) -> dict[str, npt.NDArray[Any]]:
    """The tables that say which clips a store is of."""
    clips = dataset.clips
    return {
        "id": np.array([clip.id for clip in clips], dtype=object),
        "label": np.array([clip.label for clip in clips], dtype=np.int16),
        "split": np.array([clip.split for clip in clips], dtype=np.uint8).reshape(-1, 3),
    }


def mend_tables(store: ZarrStore, dataset: Dataset) -> None:
    """Write those of a data set's tables that do not say what they should, or cannot be read."""
    specs = {spec.path: spec for spec in schema.tables(len(dataset.clips))}
    for name, values in dataset_tables(dataset).items():
        array = open_array(store, specs[name])
        try:
            with reading(name):
                same = np.array_equal(np.asarray(array[:]), values)
        except Damaged:
            same = False
        if not same:
            array[:] = values


def root_attributes(dataset: Dataset, recipe: Recipe, software: Mapping[str, str]) -> Attributes:
    """What the store says of itself: nothing of where it was made, so that the same inputs give the same bytes."""
    return {
        "mocrop_format": schema.FORMAT,
        "dataset": dataset.name,
        "recipe": recipe.model_dump(mode="json"),
        "revision": REVISION,
        "fingerprint": store_fingerprint(dataset, recipe, software),
        "class_names": list(dataset.class_names),
        "software": dict(software),
    }


def store_fingerprint(dataset: Dataset, recipe: Recipe, software: Mapping[str, str]) -> str:
    """The fingerprint of what a store is to hold: clips, classes, splits, recipe, ffmpeg build, the revision."""
    rows = [[clip.id, clip.label, list(clip.split)] for clip in dataset.clips]
    return _store_fingerprint(REVISION, rows, dataset.class_names, recipe, software["ffmpeg"])


def stored_fingerprint(store: Store) -> str:
    """The same from what a store holds."""
    columns = (store.ids, store.table("label").tolist(), store.table("split").tolist())
    rows = [list(row) for row in zip(*columns, strict=True)]
    return _store_fingerprint(store.revision, rows, store.class_names, store.recipe, store.build)


def _store_fingerprint(
    revision: int, rows: list[list[Any]], class_names: Sequence[str], recipe: Recipe, build: str
) -> str:
    views = {view.name: view_params(view) for view in recipe.views}
    return fingerprint("store", revision, rows, list(class_names), recipe.settings(), views, build)


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
    )


def _frame_codecs(codec: FrameCodec) -> tuple[Any, tuple[Any, ...]]:
    match codec.name:
        case "raw":
            return BytesCodec(), ()
        case "lz4":
            return BytesCodec(), (BloscCodec(cname="lz4", clevel=5, shuffle=BloscShuffle.noshuffle, typesize=1),)
        case "zstd":
            return BytesCodec(), (ZstdCodec(level=1),)
        case "jpeg":
            return JpegCodec(quality=codec.quality or 95), ()


def write_table(store: ZarrStore, spec: ArraySpec, values: npt.NDArray[Any]) -> None:
    """Write all rows of a table."""
    open_array(store, spec)[:] = values


def write_rows(store: ZarrStore, path: str, rows: range, values: npt.NDArray[Any]) -> None:
    """Write the whole shard that holds ``rows`` of a shard array; ``ValueError`` for a part of one."""
    array_of_shard(store, path, rows)[rows.start : rows.stop] = values


def array_of_shard(store: ZarrStore, path: str, rows: range) -> zarr.Array[Any]:
    """A shard array, of which ``rows`` are one whole shard; ``ValueError`` if they are a part of one.

    The ``zarr.json`` is as the recipe has it: `mend_documents` sees to it before a run writes.
    """
    array = zarr.open_array(store, path=path, mode="r+", zarr_format=3)
    step = (array.shards or array.chunks)[0]
    if rows.start % step or (len(rows) != step and rows.stop != array.shape[0]):
        raise ValueError(f"{path}: rows {rows.start} to {rows.stop} are not a whole shard of {step}")
    return array


def create_column(store: ZarrStore, spec: ArraySpec, codec: Codec) -> None:
    """Make an array of one axis without its chunks; those that are there already stay."""
    zarr.create_array(
        store,
        name=spec.path,
        shape=spec.shape,
        dtype=spec.dtype,
        chunks=spec.chunks,
        dimension_names=spec.dims,
        compressors=(cast(Any, codec), Crc32cCodec()),
        fill_value=spec.fill,
        attributes={"about": spec.about},
    )
