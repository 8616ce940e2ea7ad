"""Writing to a store: whole shards, one writer each, every object hashed as it is written."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import zarr
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
from data_specs.fingerprints import LENGTH
from data_specs.jpeg import JpegCodec
from data_specs.local_files import refuse_links
from data_specs.recipes import FrameCodec, Recipe, density_grid, moves, view_params
from data_specs.record_packs import REMOVED, is_packed, pack_array, pack_of, record_folder
from data_specs.records import Record
from data_specs.schema import SEPARATOR, ArraySpec
from data_specs.stored import Attributes, Damaged, StoreError, read_objects, reading, run, zarr_store
from pipelines.store.specification import dataset_tables, store_fingerprint, view_fingerprint

ALONE_SECONDS = 10.0


class HashingStore(WrapperStore[ZarrStore]):
    """A store that collects the SHA-256 and the size of every object written through it, except records."""

    def __init__(self, store: ZarrStore) -> None:
        super().__init__(store)
        self._objects: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._unsynced: set[str] = set()

    async def set(self, key: str, value: Buffer) -> None:
        await self._store.set(key, value)
        if not key.startswith("progress/"):
            self._objects[key] = hashlib.sha256(value.as_buffer_like()).hexdigest()[:LENGTH]
            self._sizes[key] = len(value)
            self._unsynced.add(key)

    async def delete(self, key: str) -> None:
        await self._store.delete(key)
        self._objects.pop(key, None)
        self._sizes.pop(key, None)

    async def end(self, key: str, length: int) -> tuple[bytes | None, str | None]:
        return cast("tuple[bytes | None, str | None]", await cast(Any, self._store).end(key, length))

    async def part(self, key: str, start: int, stop: int, tag: str | None) -> bytes | None:
        return cast("bytes | None", await cast(Any, self._store).part(key, start, stop, tag))

    def taken(self) -> tuple[dict[str, str], dict[str, int]]:
        """The hashes and sizes, by key, of the objects written since the last call."""
        objects, sizes = self._objects, self._sizes
        self._objects, self._sizes = {}, {}
        return objects, sizes

    def settle(self) -> None:
        """Flush everything written to disk, so that a power failure leaves no record without its objects."""
        settle(self._store, self._unsynced)
        self._unsynced.clear()


def settle(store: ZarrStore, keys: Iterable[str]) -> None:
    """Flush objects of a store in a folder to disk, and the folders that name them."""
    if isinstance(store, LocalStore):
        files = {store.root / key for key in keys}
        for path in sorted(path for path in files | {file.parent for file in files} if path.exists()):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def put_attributes(store: ZarrStore, path: str, values: Mapping[str, Any]) -> None:
    """Atomically write a group whose attributes are ``values``."""
    put_object(store, f"{path}/zarr.json" if path else "zarr.json", group_document(values))


def group_document(attributes: Mapping[str, Any]) -> bytes:
    """The ``zarr.json`` of a group with these attributes."""
    document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=True).encode()


def put_object(store: ZarrStore, key: str, value: bytes) -> None:
    """Atomically write an object of the store."""
    run(store.set(key, default_buffer_prototype().buffer.from_bytes(value)))


def exchange(store: ZarrStore, path: str, expected: bytes | None, values: Mapping[str, Any] | None) -> bool:
    """Atomically replace the ``zarr.json`` of a group if its bytes are ``expected`` (compare and swap).

    ``values`` are the new attributes. None means that the group does not exist, before or after. Returns False if the
    current bytes differ from ``expected``; of several concurrent calls exactly one succeeds.
    """
    key, value = f"{path}/zarr.json", None if values is None else group_document(values)
    if not isinstance(store, LocalStore):
        return bool(run(cast(Any, store).exchange(key, expected, value)))
    refuse_links(store.root, store.root / path)
    with alone(store.root / path.partition("/")[0]):
        (current,) = read_objects(store, [key])
        if current != expected:
            return False
        if value is None:
            remove_attributes(store, path)
        else:
            put_object(store, key, value)
    return True


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold an exclusive ``flock`` on a folder during the block; create the folder if it is missing.

    Raises ``StoreError`` if another process holds the lock for ``ALONE_SECONDS``. On file systems without locks, the
    block is not exclusive.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        until = time.monotonic() + ALONE_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise StoreError(f"{folder} is held by another process; wait for it, or stop it first") from None
                time.sleep(0.01)
            except OSError:
                break
        yield
    finally:
        os.close(descriptor)


def remove_record(store: ZarrStore, path: str) -> None:
    """Remove a record, if it exists; if it is packed, write a group in its place that says so.

    It is gone from the disk when this returns: what it describes may be replaced then.
    """
    if run(store.exists(pack_of(path))):
        put_attributes(store, path, REMOVED)
    else:
        remove_attributes(store, path)
    settle(store._store if isinstance(store, HashingStore) else store, [path, f"{path}/zarr.json"])


def remove_attributes(store: ZarrStore, path: str) -> None:
    """Remove a group without arrays, if it exists."""
    run(store.delete_dir(path))


def remove_groups(store: ZarrStore, paths: Iterable[str]) -> None:
    """Remove many groups without arrays or other contents."""
    if isinstance(store, LocalStore):
        for path in paths:
            remove_attributes(store, path)
    else:
        run(cast(Any, store).delete_all([f"{path}/zarr.json" for path in paths]))


def write_record(store: ZarrStore, record: Record[Any]) -> None:
    """Write the completion record of a shard, as the last step of a task."""
    put_attributes(store, record.path, record.as_attributes())


def create(location: str, dataset: Dataset, recipe: Recipe, software: Mapping[str, str]) -> None:
    """Create an empty store for a data set; its root attributes are written last.

    Safe to repeat after an interruption, and on a store that lost its attributes: chunks and records are kept.
    """
    store = zarr_store(location, read_only=False)
    repair_documents(store, recipe, len(dataset.clips))
    repair_tables(store, dataset)
    put_attributes(store, "", root_attributes(dataset, recipe, software))


def repair_documents(store: ZarrStore, recipe: Recipe, rows: int) -> None:
    """Rewrite each group's and array's ``zarr.json`` that is missing or damaged; chunks are not touched."""
    for key, document in wrong_documents(store, recipe, rows).items():
        put_object(store, key, document)


def wrong_documents(store: ZarrStore, recipe: Recipe, rows: int) -> dict[str, bytes]:
    """The correct contents, by key, of each ``zarr.json`` that is missing or wrong.

    The root's and those of the motion vectors are not checked: their content does not follow from the recipe.
    """
    expected = _documents(recipe, rows)
    stored = read_objects(store, expected)
    return {
        key: document
        for (key, document), current in zip(expected.items(), stored, strict=True)
        if not (current is not None and _equivalent(key, current, document))
    }


def _equivalent(key: str, stored: bytes, expected: bytes) -> bool:
    """Return whether two documents mean the same; other versions of zarr may format them differently."""
    if stored == expected:
        return True
    try:
        current, correct = parse_json(stored, schema.MAX_DOCUMENT), json.loads(expected)
        if key == "progress/zarr.json":  # its attributes hold the run times of the stages
            return bool(current["node_type"] == "group" and isinstance(current["attributes"], dict))
        if correct["node_type"] == "group":
            return bool(current == correct)
        old, new = (ArrayV3Metadata.from_dict(document).to_dict() for document in (current, correct))
        return json.dumps(old, sort_keys=True, default=str) == json.dumps(new, sort_keys=True, default=str)
    except Exception:  # anything that cannot be parsed is wrong, and is reported or rewritten
        return False


def _documents(recipe: Recipe, rows: int) -> dict[str, bytes]:
    """The ``zarr.json`` of every group and array that follows from the recipe, by key."""
    groups: dict[str, Attributes] = {name: {} for name in ("progress", "motion", "views")}
    groups |= {f"progress/{stage}": {} for stage in schema.STAGES}
    specs = schema.tables(rows)
    slots, size, step = recipe.frames.slots, recipe.frames.size, recipe.clips_per_shard
    for view in recipe.views:
        params = view_params(view)
        groups[f"views/{view.name}"] = {"params": params, "fingerprint": view_fingerprint(recipe, params)}
        groups |= {f"progress/{stage}/{view.name}": {} for stage in schema.VIEW_STAGES}
        specs += schema.view_tables(view.name, rows, slots, moves(view))
        specs += schema.view_shards(view.name, rows, slots, size, step, density_grid(view))
    if is_packed(shards := schema.num_shards(rows, step)):
        folders = [record_folder(stage, None) for stage in schema.STAGES if stage not in schema.VIEW_STAGES]
        folders += [record_folder(stage, view.name) for stage in schema.VIEW_STAGES for view in recipe.views]
        specs += [pack_array(folder, shards) for folder in folders]
    documents = {f"{path}/zarr.json": group_document(values) for path, values in groups.items()}
    for spec in specs:
        codecs = _frame_codecs(recipe.frames.codec) if spec.frames else ("auto", (ZstdCodec(level=3),))
        documents[f"{spec.path}/zarr.json"] = array_document(spec, *codecs)
    return documents


def repair_tables(store: ZarrStore, dataset: Dataset) -> None:
    """Rewrite the data set's tables that are wrong or cannot be read."""
    specs = {spec.path: spec for spec in schema.tables(len(dataset.clips))}
    for name, values in dataset_tables(dataset).items():
        array = open_array(store, specs[name])
        try:
            with reading(name):
                same = np.array_equal(np.asarray(array[:]), values, equal_nan=values.dtype.kind == "f")
        except Damaged:
            same = False
        if not same:
            array[:] = values


def root_attributes(
    dataset: Dataset, recipe: Recipe, software: Mapping[str, str], fingerprint: str | None = None
) -> Attributes:
    """The store's root attributes; they do not name the machine, so that equal inputs give equal bytes.

    ``fingerprint`` is the `store_fingerprint`, if already known.
    """
    return {
        "mocrop_format": schema.FORMAT,
        "dataset": dataset.name,
        "recipe": recipe.model_dump(mode="json"),
        "revision": REVISION,
        "fingerprint": fingerprint or store_fingerprint(dataset, recipe, software),
        "class_names": list(dataset.class_names),
        "software": dict(software),
    }


def array_document(spec: ArraySpec, serializer: Any, compressors: tuple[Any, ...], **attributes: Any) -> bytes:
    """The ``zarr.json`` of an array, with ``attributes`` beside its description; a checksum follows ``compressors``.

    It is made in memory: on a store, zarr would also read and try to write the array's parents.
    """
    made: dict[str, Buffer] = {}
    zarr.create_array(
        MemoryStore(made),
        name=spec.path,
        shape=spec.shape,
        dtype=spec.dtype,
        chunks=spec.chunks,
        shards=spec.shards,
        dimension_names=spec.dims,
        fill_value=spec.fill,
        serializer=serializer,
        compressors=(*compressors, Crc32cCodec()),
        chunk_key_encoding={"name": "default", "separator": SEPARATOR},
        attributes={"about": spec.about, **attributes},
    )
    return made[f"{spec.path}/zarr.json"].to_bytes()


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
    """Write ``rows`` of an array, which must be exactly one shard, else ``ValueError``."""
    array_of_shard(store, path, rows)[rows.start : rows.stop] = values


def array_of_shard(store: ZarrStore, path: str, rows: range) -> zarr.Array[Any]:
    """Open an array of which ``rows`` are exactly one shard, else ``ValueError``.

    Its ``zarr.json`` matches the recipe, because `repair_documents` runs before anything is written.
    """
    array = zarr.open_array(store, path=path, mode="r+", zarr_format=3)
    step = (array.shards or array.chunks)[0]
    if rows.start % step or (len(rows) != step and rows.stop != array.shape[0]):
        raise ValueError(f"{path}: rows {rows.start} to {rows.stop} are not a whole shard of {step}")
    return array
