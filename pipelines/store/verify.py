"""Verification of a store: objects against their hashes, records against their inputs, tables against the records."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sized
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from typing import Any

import numpy as np
from zarr.abc.store import Store as ZarrStore

from data_specs import schema
from data_specs.chain import boxes_inputs, clips_inputs, motion_inputs, transcode_inputs
from data_specs.records import BoxRow, CropRow, MotionRow, Record
from data_specs.resources import usable_cores
from data_specs.stored import (
    Damaged,
    Store,
    StoreError,
    VectorReader,
    attributes,
    hash_objects,
    open_store,
    shown,
    zarr_store,
)
from pipelines.store.lock import StoreLock, StoreLocked, check_unlocked, locked
from pipelines.store.progress import Progress, other_revision
from pipelines.store.record_blocks import BLOCK, RecordBlock
from pipelines.store.software import as_attribute
from pipelines.store.specification import stored_fingerprint
from pipelines.store.writer import put_attributes, wrong_documents

ROOT = "zarr.json"
TOGETHER = 16  # objects read concurrently
ALONE = 4  # blocks of shards from which on several processes check them, each of which takes a second to start
_RECORD = re.compile(r"progress/(transcode|motion|(boxes|clips)/[A-Za-z0-9][A-Za-z0-9_.-]*)/\d+")
DAMAGED = "progress/damaged"
"""Group whose attribute ``records`` lists the records that ``mocrop preprocess`` must recreate."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault in a store: where, what, and the path of the record to recreate.

    ``record`` is None if the next run repairs the fault anyway: it checks the inputs of all records, and writes tables
    and array metadata.
    """

    where: str
    what: str
    record: str | None = None


def verify(location: str, on_record: Callable[[int, int], None] | None = None) -> list[Fault]:
    """Read a whole store, return its faults, and record in it which shards must be reprocessed.

    The store is locked meanwhile, so that no run can start. If the lock cannot be written, as in a read-only store,
    faults are checked a second time, to exclude those caused by a run that wrote meanwhile. ``on_record`` is called
    with the number of checked records and of all records. Raises ``StoreError`` if there is no store, its root
    attributes are damaged, it has another revision, or a run is writing it.
    """
    open_store(location)  # raises before the lock creates a folder
    with _held(location) as lock:
        faults = _faults(open_store(location), on_record)
        if lock:
            lock.check()
        elif faults:
            again = _faults(open_store(location))
            faults = [fault for fault in faults if fault in again]
            check_unlocked(location, "verify it")
        _note(location, faults)
    return faults


@contextmanager
def _held(location: str) -> Iterator[StoreLock | None]:
    """Hold the lock of a store; yield None if it cannot be written. ``StoreLocked`` if a live process holds it."""
    with ExitStack() as stack:
        lock = None
        try:
            lock = stack.enter_context(locked(location, "verified"))
        except StoreLocked:
            raise
        except (OSError, StoreError):  # the lock cannot be written; other problems show up when the store is read
            pass
        yield lock


def _faults(store: Store, on_record: Callable[[int, int], None] | None = None) -> list[Fault]:
    faults = _root_faults(store)
    # the recipe, or what the clips are, cannot be trusted
    doubtful = any(fault.where in (ROOT, "video", "window") for fault in faults)
    if not any(fault.where == "id" for fault in faults):  # the checks below need the ids
        if problem := other_revision(store):
            raise StoreError(problem)
        checked = 0
        done = 0
        for of_block, records, shards in _checked(store, doubtful):
            faults += of_block
            checked, done = checked + records, done + shards
            if on_record:  # of about as many in all as the shards so far let expect
                on_record(checked, checked * store.num_shards // done)
        progress = Progress(store.zarr, store.recipe, store.ids, foreign=True)
        faults += [fault for fault in _table_faults(store, progress) if not (doubtful and fault.where == "state")]
        if not doubtful and store.attrs["software"] != as_attribute(store.attrs["software"], progress.software):
            faults.append(Fault(ROOT, "its software versions do not match the records"))
    return faults


def _checked(store: Store, doubtful: bool) -> Iterator[tuple[list[Fault], int, int]]:
    """For some shards at a time their faults, the numbers of their records and of shards; by several processes if there
    are many."""
    blocks = [range(first, min(first + BLOCK, store.num_shards)) for first in range(0, store.num_shards, BLOCK)]
    if len(blocks) < ALONE:
        yield from (check_shards(store, range(shard, shard + 1), doubtful) for shard in range(store.num_shards))
        return
    with ProcessPoolExecutor(usable_cores(), mp_context=get_context("spawn")) as pool:
        try:
            yield from pool.map(partial(_check_apart, store.location, doubtful=doubtful), blocks)
        except BrokenProcessPool:
            raise StoreError(
                f"store {shown(store.location)!r}: a process that verifies it was killed; run mocrop verify again"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


_opened = lru_cache(maxsize=1)(open_store)


def _check_apart(location: str, shards: range, doubtful: bool) -> tuple[list[Fault], int, int]:
    return check_shards(_opened(location), shards, doubtful)


def check_shards(store: Store, shards: range, doubtful: bool) -> tuple[list[Fault], int, int]:
    """The faults of some shards, the numbers of records and of shards; if ``doubtful``, inputs are not checked."""
    block = RecordBlock(store.zarr, store.recipe, shards)
    faults = [Fault(path, "the record is damaged", path) for path in block.damaged]
    records = [record for shard in shards for record in block.records_of(shard)]
    for record in records:
        try:
            if not doubtful:
                faults += _chain_faults(store, block, record)
            faults += _row_faults(store, block, record)
        except (LookupError, TypeError, ValueError) as error:
            faults.append(Fault(record.path, f"its content is invalid: {error!r}", record.path))
        faults += _object_faults(store, record)
    return faults, len(records), len(shards)


def _note(location: str, faults: list[Fault]) -> None:
    """Record in the store which records must be recreated; if that fails, add a fault."""
    records = sorted({fault.record for fault in faults if fault.record})
    if not records:
        return
    store = zarr_store(location, read_only=False)
    try:
        put_attributes(store, DAMAGED, {"records": sorted({*records, *damaged_records(store)})})
    except (OSError, StoreError) as error:
        faults.append(Fault(DAMAGED, f"cannot be written, so mocrop preprocess will not repair the faults ({error})"))


def damaged_records(store: ZarrStore) -> list[str]:
    """The paths of the records that were found wrong and not recreated yet."""
    try:
        (noted,) = attributes(store, [DAMAGED])
    except Damaged:
        return []
    paths = (noted or {}).get("records", [])
    return [path for path in paths if isinstance(path, str) and _RECORD.fullmatch(path)]  # callers remove these paths


def _root_faults(store: Store) -> list[Fault]:
    """Faults of the tables that name the clips, of the store's fingerprint and of the array metadata."""
    faults = []
    lengths = {}
    checking: dict[str, Callable[[], Sized]] = {"id": lambda: store.ids, "window": lambda: store.windows}
    for name in ("id", "label", "split", "group", "video", "window"):
        try:
            lengths[name] = len(checking[name]() if name in checking else store.table(name))
        except Damaged as error:
            faults.append(Fault(name, f"the table cannot be read: {error.__cause__}"))
    if "id" not in lengths:
        return faults
    faults += [Fault(name, f"the table has {rows} rows") for name, rows in lengths.items() if rows != lengths["id"]]
    if not faults and store.fingerprint != stored_fingerprint(store):
        return [Fault(ROOT, "its fingerprint does not follow from its clips, classes and recipe")]
    wrong = wrong_documents(store.zarr, store.recipe, lengths["id"])
    return faults + [Fault(key, "it is missing, damaged or does not follow from the recipe") for key in wrong]


def _chain_faults(store: Store, block: RecordBlock, record: Record[Any]) -> Iterator[Fault]:
    for path in _sources(block, record):
        if path in block.damaged:  # already a fault; the inputs can be checked when it has been recreated
            return
        yield Fault(path, f"the record is missing, but {record.path} was made from it", path)
        return
    if record.inputs != _expected_inputs(store, block, record):
        yield Fault(record.path, "its inputs differ from what is in the store now")


def _sources(block: RecordBlock, record: Record[Any]) -> Iterator[str]:
    """The paths of the records that this one was made from and that are missing or damaged."""
    shard = record.shard
    before: list[tuple[str, str | None, dict[int, Record[Any]]]] = []
    if record.stage == "motion":
        before = [("transcode", None, block.transcode)]
    elif record.stage == "boxes":
        before = [("motion", None, block.motion)]
    elif record.stage == "clips" and record.view is not None:
        before = [("transcode", None, block.transcode), ("motion", None, block.motion)]
        before.append(("boxes", record.view, block.boxes[record.view]))
    yield from (schema.progress_path(stage, view, shard) for stage, view, records in before if shard not in records)


def _expected_inputs(store: Store, block: RecordBlock, record: Record[Any]) -> str:
    if record.stage == "transcode":
        rows = schema.shard_rows(record.shard, len(store.ids), store.recipe.clips_per_shard)
        return transcode_inputs(store.recipe, store.build, store.clips(rows))
    if record.stage == "motion":
        return motion_inputs(block.transcode[record.shard])
    assert record.view is not None
    motion = block.motion[record.shard]
    if record.stage == "boxes":
        return boxes_inputs(motion, store.recipe, store.recipe.view(record.view))
    boxes = block.boxes[record.view][record.shard]
    return clips_inputs(block.transcode[record.shard], motion, boxes, store.recipe)


def _shard_ids(store: Store, shard: int) -> list[str]:
    rows = schema.shard_rows(shard, len(store.ids), store.recipe.clips_per_shard)
    return store.ids[rows.start : rows.stop]


def _object_faults(store: Store, record: Record[Any]) -> Iterator[Fault]:
    """Compare every object that the record's task wrote with its hash."""
    keys, frames = list(record.objects), store.recipe.frames
    most = schema.largest_object(frames.slots, frames.size, store.recipe.clips_per_shard)
    for first in range(0, len(keys), TOGETHER):
        some = keys[first : first + TOGETHER]
        for key, digest in zip(some, hash_objects(store.zarr, some, most), strict=True):
            if digest is None:
                yield Fault(key, "the object is missing", record.path)
            elif digest != record.objects[key]:
                yield Fault(key, "the object's bytes differ from those that were written", record.path)


def _row_faults(store: Store, block: RecordBlock, record: Record[Any]) -> Iterator[Fault]:
    """Check that a record's clips are those of its shard, its boxes lie in their frames, and its counts agree."""
    if record.ids != set(_shard_ids(store, record.shard)):
        yield Fault(record.path, "its clips are not those of the shard", record.path)
        return
    motion = block.motion.get(record.shard)
    slots = store.recipe.frames.slots
    for id, row in record.clips.items():
        video = motion.clips.get(id) if motion else None
        if isinstance(row, BoxRow) and video and not row.inside(video.size):
            height, width = video.size
            problem = f"{id}: box {list(row.box.corners)} is not inside {width} × {height} px"
            yield Fault(record.path, problem, record.path)
        if isinstance(row, CropRow) and video and not _fit(row.frame_index, video.frames, slots):
            problem = f"{id}: invalid frame indices {list(row.frame_index)} for {video.frames} frames"
            yield Fault(record.path, problem, record.path)
    if record.stage == "motion":
        yield from _frame_count_faults(block, record)
        yield from _vector_count_faults(store, record)


def _fit(indices: tuple[int, ...], frames: int, slots: int) -> bool:
    """Return whether increasing indices are those of at most ``slots`` of some frames."""
    return 0 < len(indices) <= slots and indices[-1] < frames


def _frame_count_faults(block: RecordBlock, record: Record[MotionRow]) -> Iterator[Fault]:
    """Check that the clips have as many frames as were encoded, and that their key frames are among these."""
    transcode = block.transcode.get(record.shard)
    for id, row in record.clips.items():
        video = transcode.clips.get(id) if transcode else None
        if video and video.frames not in (None, row.frames):
            yield Fault(record.path, f"{id}: {row.frames} frames, {video.frames} were encoded", record.path)
        if row.key_frames and row.key_frames[-1] >= row.frames:
            problem = f"{id}: invalid key frames {list(row.key_frames)} for {row.frames} frames"
            yield Fault(record.path, problem, record.path)


def _vector_count_faults(store: Store, record: Record[MotionRow]) -> Iterator[Fault]:
    path = schema.motion_path(record.shard)
    try:
        stored_counts = VectorReader(store.zarr, record.shard).counts()
    except Damaged as error:
        yield Fault(path, f"it cannot be read: {error.__cause__}", record.path)
        return
    counts = [record.clips[id].vectors if id in record.clips else 0 for id in _shard_ids(store, record.shard)]
    if stored_counts != counts:
        yield Fault(path, "the number of vectors differs from the record", record.path)


def _table_faults(store: Store, progress: Progress) -> Iterator[Fault]:
    try:
        tables = progress.tables()
    except (LookupError, TypeError, ValueError):  # invalid records, which are faults already
        return
    for path, expected in tables.items():
        try:
            same = np.array_equal(store.read(path), expected, equal_nan=expected.dtype.kind == "f")
        except Damaged as error:
            yield Fault(path, f"the table cannot be read: {' '.join(str(error.__cause__).split())}")
            continue
        if not same:
            yield Fault(path, "the table does not match the records")
