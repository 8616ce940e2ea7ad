"""Re-reading a store: every object by its hash, every record by its chain, every table by the records."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from zarr.abc.store import Store as ZarrStore

from data_specs import schema
from data_specs.chain import boxes_inputs, clips_inputs, motion_inputs, transcode_inputs
from data_specs.stored import (
    Attributes,
    Damaged,
    Record,
    Store,
    StoreError,
    VectorReader,
    attributes,
    hash_objects,
    open_store,
    zarr_store,
)
from pipelines.store.lock import StoreLock, StoreLocked, check_unlocked, locked
from pipelines.store.records import Progress, expected_tables
from pipelines.store.software import as_attribute
from pipelines.store.writer import put_attributes, stored_fingerprint, wrong_documents

ROOT = "zarr.json"
TOGETHER = 16  # objects that are read at the same time
_RECORD = re.compile(r"progress/(transcode|motion|(boxes|clips)/[A-Za-z0-9][A-Za-z0-9_.-]*)/\d+")
DAMAGED = "progress/damaged"
"""Group whose attribute ``records`` names what ``mocrop preprocess`` has to do again."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something in a store that is not as it should be: where, what, and the record to do again.

    ``record`` is None where the next run sees for itself what to do: it reads the chain of the records, and writes
    tables and descriptions of arrays anyway.
    """

    where: str
    what: str
    record: str | None = None


def verify(location: str, on_record: Callable[[int, int], None] | None = None) -> list[Fault]:
    """Read all of a store again and list what is wrong; what is found is noted there for the next run to repair.

    No run can begin meanwhile: this holds the store's lock. Where the lock cannot be written, as in a store that is
    for reading only, what was found is looked at once more, so that nothing is told of a run elsewhere that wrote
    meanwhile. ``on_record`` is told how many records are checked, and of how many. ``StoreError`` if there is no store,
    if its own attributes are damaged or it is of another revision, or while a run is writing it.
    """
    open_store(location)  # the lock would make a folder where there is none
    with _held(location) as lease:
        faults = _faults(open_store(location), on_record)
        if lease:
            lease.check()
        elif faults:
            again = _faults(open_store(location))
            faults = [fault for fault in faults if fault in again]
            check_unlocked(location, "verify it")
        _note(location, faults)
    return faults


@contextmanager
def _held(location: str) -> Iterator[StoreLock | None]:
    """Hold the lock of a store; None where it cannot be written. ``StoreLocked`` if a live process has it."""
    with ExitStack() as stack:
        lease = None
        try:
            lease = stack.enter_context(locked(location, "verified"))
        except StoreLocked:
            raise
        except (OSError, StoreError):  # of the lock: whatever else it may mean is seen when the store is read
            pass
        yield lease


def _faults(store: Store, on_record: Callable[[int, int], None] | None = None) -> list[Fault]:
    faults = _root_faults(store)
    doubtful = any(fault.where == ROOT for fault in faults)  # then what follows from the recipe cannot be told yet
    if not any(fault.where == "id" for fault in faults):  # without the ids nothing below can be told
        progress = Progress.of(store, foreign=True)
        faults += [Fault(path, "the record is damaged", path) for path in progress.damaged]
        records = [record for shard in range(store.num_shards) for record in progress.records_of(shard)]
        for number, record in enumerate(records, 1):
            try:
                if not doubtful:
                    faults += _chain_faults(store, progress, record)
                faults += _row_faults(store, progress, record)
            except (LookupError, TypeError, ValueError) as error:
                faults.append(Fault(record.path, f"its content makes no sense: {error!r}", record.path))
            faults += _object_faults(store, record)
            if on_record:
                on_record(number, len(records))
        faults += [fault for fault in _table_faults(store, progress) if not (doubtful and fault.where == "state")]
        if not doubtful and store.attrs["software"] != as_attribute(store.attrs["software"], progress.software):
            faults.append(Fault(ROOT, "its software is not what the records say"))
    return faults


def _note(location: str, faults: list[Fault]) -> None:
    """Leave word in the store of the records to do again; if that cannot be, it is one more fault."""
    records = sorted({fault.record for fault in faults if fault.record})
    if not records:
        return
    store = zarr_store(location, read_only=False)
    try:
        put_attributes(store, DAMAGED, {"records": sorted({*records, *damaged_records(store)})})
    except (OSError, StoreError) as error:
        faults.append(Fault(DAMAGED, f"mocrop preprocess will not know what to mend: this cannot be written ({error})"))


def damaged_records(store: ZarrStore) -> list[str]:
    """The paths of the records that have been found wrong and not been done again yet."""
    try:
        (found,) = attributes(store, [DAMAGED])
    except Damaged:
        return []
    named = (found or {}).get("records", [])
    return [path for path in named if isinstance(path, str) and _RECORD.fullmatch(path)]  # they are to be removed


def _root_faults(store: Store) -> list[Fault]:
    """What is wrong with the tables that name the clips, the store's fingerprint and the arrays' descriptions."""
    faults = []
    lengths = {}
    for name in ("id", "label", "split"):
        try:
            lengths[name] = len(store.ids if name == "id" else store.table(name))
        except Damaged as error:
            faults.append(Fault(name, f"the table cannot be read: {error.__cause__}"))
    if "id" not in lengths:
        return faults
    faults += [Fault(name, f"the table has {rows} rows") for name, rows in lengths.items() if rows != lengths["id"]]
    if not faults and store.fingerprint != stored_fingerprint(store):
        return [Fault(ROOT, "its fingerprint does not follow from its clips, classes and recipe")]
    wrong = wrong_documents(store.zarr, store.recipe, lengths["id"])
    return faults + [Fault(key, "it is missing, damaged or does not follow from the recipe") for key in wrong]


def _chain_faults(store: Store, progress: Progress, record: Record) -> Iterator[Fault]:
    for path in _sources(progress, record):
        if path in progress.damaged:  # whether this follows from it can be told when it is done again
            return
        yield Fault(path, f"the record is missing, but {record.path} was made from it", path)
        return
    if record.inputs != _expected_inputs(store, progress, record):
        yield Fault(record.path, "it was made from something else than what is in the store now")


def _sources(progress: Progress, record: Record) -> Iterator[str]:
    """The paths of the records that this one was made from and that are not there or damaged."""
    shard = record.shard
    before: list[tuple[str, str | None, dict[int, Record]]] = []
    if record.stage == "motion":
        before = [("transcode", None, progress.transcode)]
    elif record.stage == "boxes":
        before = [("motion", None, progress.motion)]
    elif record.stage == "clips" and record.view is not None:
        before = [("transcode", None, progress.transcode), ("motion", None, progress.motion)]
        before.append(("boxes", record.view, progress.boxes[record.view]))
    yield from (schema.progress_path(stage, view, shard) for stage, view, records in before if shard not in records)


def _expected_inputs(store: Store, progress: Progress, record: Record) -> str:
    if record.stage == "transcode":
        return transcode_inputs(store.recipe, store.build, _shard_ids(store, record.shard))
    if record.stage == "motion":
        return motion_inputs(progress.transcode[record.shard])
    assert record.view is not None
    motion = progress.motion[record.shard]
    if record.stage == "boxes":
        return boxes_inputs(motion, store.recipe, store.recipe.view(record.view))
    boxes = progress.boxes[record.view][record.shard]
    return clips_inputs(progress.transcode[record.shard], motion, boxes, store.recipe)


def _shard_ids(store: Store, shard: int) -> list[str]:
    rows = schema.shard_rows(shard, len(store.ids), store.recipe.shard_clips)
    return store.ids[rows.start : rows.stop]


def _object_faults(store: Store, record: Record) -> Iterator[Fault]:
    """Every object that the record's task wrote, by its hash."""
    keys, frames = list(record.objects), store.recipe.frames
    most = schema.largest_object(frames.slots, frames.size, store.recipe.shard_clips)
    for first in range(0, len(keys), TOGETHER):
        some = keys[first : first + TOGETHER]
        for key, found in zip(some, hash_objects(store.zarr, some, most), strict=True):
            if found is None:
                yield Fault(key, "the object is missing", record.path)
            elif found != record.objects[key]:
                yield Fault(key, "the object's bytes are not those that were written", record.path)


def _row_faults(store: Store, progress: Progress, record: Record) -> Iterator[Fault]:
    """Whether a record's clips are those of its shard, its boxes lie inside their frames, and its counts agree."""
    if set(record.clips) != set(_shard_ids(store, record.shard)):
        yield Fault(record.path, "its clips are not those of the shard", record.path)
        return
    motion = progress.motion.get(record.shard)
    slots = store.recipe.frames.slots
    for id, row in record.clips.items():
        known: Attributes = dict(motion.clips.get(id, {})) if motion else {}
        if "box" in row and "size" in known:
            height, width = known["size"]
            x0, y0, x1, y1 = row["box"]
            if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
                yield Fault(record.path, f"{id}: box {row['box']} is not inside {width} × {height} px", record.path)
        if (
            "frame_index" in row
            and "frames" in known
            and not _rising_inside(row["frame_index"], known["frames"], slots)
        ):
            yield Fault(record.path, f"{id}: frame indices {row['frame_index']} of {known['frames']}", record.path)
    if record.stage == "motion":
        yield from _frame_count_faults(progress, record)
        yield from _vector_count_faults(store, record)


def _rising_inside(indices: list[int], frames: int, slots: int) -> bool:
    rising = all(first < second for first, second in pairwise(indices))
    return rising and 0 < len(indices) <= slots and indices[0] >= 0 and indices[-1] < frames


def _frame_count_faults(progress: Progress, record: Record) -> Iterator[Fault]:
    """Whether the clips have as many frames as were encoded, and their key frames are among these."""
    transcode = progress.transcode.get(record.shard)
    for id, row in record.clips.items():
        if "frames" not in row:
            continue
        encoded = transcode.clips.get(id, {}).get("frames") if transcode else None
        if encoded not in (None, row["frames"]):
            yield Fault(record.path, f"{id}: {row['frames']} frames, {encoded} were encoded", record.path)
        if row["key_frames"] and not _rising_inside(row["key_frames"], row["frames"], row["frames"]):
            yield Fault(record.path, f"{id}: key frames {row['key_frames']} of {row['frames']}", record.path)


def _vector_count_faults(store: Store, record: Record) -> Iterator[Fault]:
    path = schema.motion_path(record.shard)
    try:
        counts_there = VectorReader(store.zarr, record.shard).counts()
    except Damaged as error:
        yield Fault(path, f"it cannot be read: {error.__cause__}", record.path)
        return
    counts = [record.clips[id].get("vectors", 0) for id in _shard_ids(store, record.shard)]
    if counts_there != counts:
        yield Fault(path, "the number of vectors is not that of the record", record.path)


def _table_faults(store: Store, progress: Progress) -> Iterator[Fault]:
    try:
        tables = expected_tables(store, progress)
    except (LookupError, TypeError, ValueError):  # records that make no sense, and are told
        return
    for path, expected in tables.items():
        try:
            found = store.read(path)
            same = np.array_equal(found, expected, equal_nan=expected.dtype.kind == "f")
        except Damaged as error:
            yield Fault(path, f"the table cannot be read: {' '.join(str(error.__cause__).split())}")
            continue
        if not same:
            yield Fault(path, "the table does not say what the records say")
