"""Re-reading a store: every object by its hash, every record by its chain, every table by the records."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype

from data_specs import schema
from data_specs.chain import boxes_inputs, clips_inputs, motion_inputs, transcode_inputs
from data_specs.fingerprints import LENGTH
from data_specs.recipes import MotionView, view_params
from data_specs.stored import Record, Store, attributes, open_store, run, zarr_store
from pipelines.progress import Progress, expected_tables
from pipelines.store import put_attributes, stored_fingerprint, view_fingerprint

DAMAGED = "progress/damaged"
"""Group whose attribute ``records`` names what ``mocrop preprocess`` has to do again."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something in a store that is not as it should be: where, what, and the record to do again (None: a table)."""

    where: str
    what: str
    record: str | None = None


def verify(location: str, on_record: Callable[[int, int], None] | None = None) -> list[Fault]:
    """Read all of a store again and list what is wrong; what is found is noted there for ``mocrop preprocess`` to mend.

    ``on_record`` is told how many records are checked, and of how many. ``StoreError`` if there is no store.
    """
    store = open_store(location)
    progress = Progress(store.zarr, store.recipe, store.num_shards)
    records = [record for shard in range(store.num_shards) for record in progress.records_of(shard)]
    stored = attributes(store.zarr, [record.path for record in records])
    faults = list(_root_faults(store))
    for number, (record, values) in enumerate(zip(records, stored, strict=True), 1):
        if values is not None and values["output"] != record.output:
            faults.append(Fault(record.path, "its output fingerprint is not that of its content", record.path))
        faults += _chain_faults(store, progress, record)
        faults += _object_faults(store, record)
        faults += _row_faults(store, progress, record)
        if on_record:
            on_record(number, len(records))
    faults += _table_faults(store, progress)
    note(location, faults)
    return faults


def note(location: str, faults: list[Fault]) -> None:
    """Leave word in the store of the records to do again."""
    records = sorted({fault.record for fault in faults if fault.record})
    if records:
        put_attributes(zarr_store(location, read_only=False), DAMAGED, {"records": records})


def _root_faults(store: Store) -> Iterator[Fault]:
    if store.fingerprint != stored_fingerprint(store):
        yield Fault("zarr.json", "its fingerprint does not follow from its clips, classes and recipe")
    for view in store.recipe.views:
        one, params = store.view(view.name), view_params(view)
        if one.params != params or one.fingerprint != view_fingerprint(store.recipe, params):
            yield Fault(f"views/{view.name}", "its parameters or fingerprint are not those of the recipe")
    frames = store.recipe.frames
    views = [(view.name, view.method().grid if isinstance(view, MotionView) else None) for view in store.recipe.views]
    for spec in schema.all_arrays(len(store.ids), frames.slots, frames.size, store.recipe.shard_clips, views):
        array = store.group.get(spec.path)
        if not isinstance(array, zarr.Array):
            yield Fault(spec.path, "the array is missing")
        elif (array.shape, tuple(getattr(array.metadata, "dimension_names", ()))) != (spec.shape, spec.dims):
            yield Fault(spec.path, f"shape {array.shape}, should be {spec.shape} with dimensions {spec.dims}")


def _chain_faults(store: Store, progress: Progress, record: Record) -> Iterator[Fault]:
    if record.inputs != _expected_inputs(store, progress, record):
        yield Fault(record.path, "its fingerprint does not follow from its inputs", record.path)


def _expected_inputs(store: Store, progress: Progress, record: Record) -> str | None:
    if record.stage == "transcode":
        return transcode_inputs(store.recipe, store.attrs["software"]["ffmpeg"], _shard_ids(store, record.shard))
    if record.stage == "motion":
        before = progress.transcode.get(record.shard)
        return motion_inputs(before) if before else None
    motion = progress.motion.get(record.shard)
    if motion is None or record.view is None:
        return None
    if record.stage == "boxes":
        return boxes_inputs(motion, store.recipe, store.recipe.view(record.view))
    boxes = progress.boxes[record.view].get(record.shard)
    return clips_inputs(motion, boxes, store.recipe) if boxes else None


def _shard_ids(store: Store, shard: int) -> list[str]:
    rows = schema.shard_rows(shard, len(store.ids), store.recipe.shard_clips)
    return store.ids[rows.start : rows.stop]


def _object_faults(store: Store, record: Record) -> Iterator[Fault]:
    """Every object that the record's task wrote, read in full and hashed."""
    for key, digest in record.objects.items():
        found = run(store.zarr.get(key, default_buffer_prototype()))
        if found is None:
            yield Fault(key, "the object is missing", record.path)
        elif hashlib.sha256(found.as_buffer_like()).hexdigest()[:LENGTH] != digest:
            yield Fault(key, "the object's bytes are not those that were written", record.path)


def _row_faults(store: Store, progress: Progress, record: Record) -> Iterator[Fault]:
    """Whether a record's clips are those of its shard, its boxes lie inside their frames, and its counts agree."""
    if list(record.clips) != _shard_ids(store, record.shard) and set(record.clips) != set(
        _shard_ids(store, record.shard)
    ):
        yield Fault(record.path, "its clips are not those of the shard", record.path)
        return
    motion = progress.motion.get(record.shard)
    for id, row in record.clips.items():
        known = motion.clips.get(id, {}) if motion else {}
        if "box" in row and "size" in known:
            height, width = known["size"]
            x0, y0, x1, y1 = row["box"]
            if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
                yield Fault(record.path, f"{id}: box {row['box']} is not inside {width} × {height} px", record.path)
        if "frame_index" in row and not _rising_inside(
            row["frame_index"], known.get("frames", 0), store.recipe.frames.slots
        ):
            yield Fault(record.path, f"{id}: frame indices {row['frame_index']} of {known.get('frames')}", record.path)
    if record.stage == "motion":
        yield from _vector_count_faults(store, record)


def _rising_inside(indices: list[int], frames: int, slots: int) -> bool:
    rising = all(first < second for first, second in pairwise(indices))
    return rising and 0 < len(indices) <= slots and indices[0] >= 0 and indices[-1] < frames


def _vector_count_faults(store: Store, record: Record) -> Iterator[Fault]:
    path = schema.motion_path(record.shard)
    try:
        offset = np.asarray(zarr.open_array(store.zarr, path=f"{path}/offset", mode="r")[:])
        length = zarr.open_array(store.zarr, path=f"{path}/dx", mode="r").shape[0]
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        yield Fault(path, f"cannot be read: {error}", record.path)
        return
    counts = [record.clips[id].get("vectors", 0) for id in _shard_ids(store, record.shard)]
    if np.diff(offset).tolist() != counts or offset[-1] != length:
        yield Fault(path, "the number of vectors is not that of the record", record.path)


def _table_faults(store: Store, progress: Progress) -> Iterator[Fault]:
    for path, expected in expected_tables(store, progress).items():
        try:
            found: Any = np.asarray(store.group[path][:])  # type: ignore[index]
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            yield Fault(path, f"the table cannot be read: {' '.join(str(error).split())}")
            continue
        if not np.array_equal(found, expected, equal_nan=expected.dtype.kind == "f"):
            yield Fault(path, "the table does not say what the records say")
