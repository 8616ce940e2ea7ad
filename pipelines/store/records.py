"""Progress of a store according to its records, and the tables derived from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from zarr.abc.store import Store as ZarrStore

from data_specs import schema
from data_specs.chain import REVISION, boxes_inputs, clips_inputs, motion_inputs, transcode_inputs
from data_specs.datasets import Clip
from data_specs.recipes import Recipe, View, moves
from data_specs.records import BoxRow, CropRow, MotionRow, Record, Row, TranscodeRow, read_records
from data_specs.schema import State
from data_specs.stored import Attributes, Store, StoreError, open_store, shown, zarr_store
from pipelines.store.software import Versions, as_attribute, versions_of
from pipelines.store.writer import put_attributes, write_table


@dataclass(frozen=True, slots=True)
class Summary:
    """Progress of a store: clips by state, reasons of quarantined clips, and (done, all) shards of each stage.

    ``notes`` maps each kind of `schema.NOTES` that occurs to the clip ids and one line on each; ``software`` counts,
    by stage and package, the records that each version made.
    """

    store: str
    clips: int
    done: int
    pending: int
    quarantined: dict[str, str]
    stages: dict[str, tuple[int, int]]
    notes: dict[str, dict[str, str]] = field(default_factory=dict)
    software: Versions = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The summary as JSON-like values."""
        return asdict(self)


def other_revision(store: Store) -> str:
    """Why the records of a store cannot be read by this version, in one line; "" if they can."""
    if store.revision == REVISION:
        return ""
    maker = store.attrs["software"].get("mocrop", "unknown")
    return (
        f"store {shown(store.location)!r} was made by another version of mocrop ({maker}): it has revision "
        f"{store.revision}, this version reads and writes revision {REVISION}; use that version, or remove the store "
        "and create it again"
    )


Fingerprints = Callable[[Iterable[str]], Mapping[str, str]]
"""Returns the fingerprints of source files by path, without those that cannot be read."""


class Progress:
    """The records of a store, and what is done according to them; ``damaged`` are the paths of unusable records.

    With ``ids``, the store's clip ids, a record also counts as damaged if its clips are not those of its shard, a box
    exceeds its frame, or it has more frames than the recipe's slots.
    """

    def __init__(self, store: ZarrStore, recipe: Recipe, num_shards: int, ids: Sequence[str] | None = None) -> None:
        self.recipe = recipe
        self.num_shards = num_shards
        self.damaged: list[str] = []

        def read(row_type: type[Row], view: str | None = None) -> dict[int, Record[Row]]:
            return read_records(store, row_type, view, range(num_shards), self.damaged)

        self.transcode = read(TranscodeRow)
        self.motion = read(MotionRow)
        self.boxes = {view.name: read(BoxRow, view.name) for view in recipe.views}
        self.clips = {view.name: read(CropRow, view.name) for view in recipe.views}
        if ids is not None:
            self._drop_foreign(ids)

    def _drop_foreign(self, ids: Sequence[str]) -> None:
        for records in self._by_stage:
            for shard, record in list(records.items()):
                rows = schema.shard_rows(shard, len(ids), self.recipe.clips_per_shard)
                if record.ids != set(ids[rows.start : rows.stop]) or not self._fits(record):
                    del records[shard]
                    self.damaged.append(record.path)

    @property
    def _by_stage(self) -> list[dict[int, Record[Any]]]:
        return [self.transcode, self.motion, *self.boxes.values(), *self.clips.values()]

    def _fits(self, record: Record[Any]) -> bool:
        motion = self.motion.get(record.shard)
        for id, row in record.clips.items():
            video = motion.clips.get(id) if motion else None
            if isinstance(row, BoxRow) and video and not row.inside(video.size):
                return False
            if isinstance(row, CropRow) and (
                len(row.frame_index) > self.recipe.frames.slots or (video and row.frame_index[-1] >= video.frames)
            ):
                return False
        return True

    @classmethod
    def of(cls, store: Store, *, foreign: bool = False) -> Progress:
        """Read the records of a store, with ``foreign`` also those that do not fit it.

        Raises ``StoreError`` if the store has another revision.
        """
        if problem := other_revision(store):
            raise StoreError(problem)
        return cls(store.zarr, store.recipe, store.num_shards, None if foreign else store.ids)

    def records_of(self, shard: int) -> list[Record[Any]]:
        """The existing records of a shard, in the order of the stages."""
        return [records[shard] for records in self._by_stage if shard in records]

    @property
    def software(self) -> Versions:
        """The versions that made the records."""
        return versions_of(record for shard in range(self.num_shards) for record in self.records_of(shard))

    def to_transcode(
        self, build: str, clips_of: Callable[[int], Sequence[Clip]], fingerprints: Fingerprints
    ) -> list[int]:
        """The shards whose H.264 files were not made by this recipe and build from the current source files."""
        sources = fingerprints(clip.path for shard in self.transcode for clip in clips_of(shard))
        shards = range(self.num_shards)
        return [shard for shard in shards if not self.transcoded(shard, build, clips_of(shard), sources)]

    def transcoded(self, shard: int, build: str, clips: Sequence[Clip], sources: Mapping[str, str]) -> bool:
        """Return whether a shard's H.264 files were made by this recipe and build from the current source files.

        ``sources`` maps the path of each source file to its fingerprint. H.264 files of missing source files stay
        valid; quarantined clips are ignored.
        """
        record = self.transcode.get(shard)
        if record is None or record.inputs != transcode_inputs(self.recipe, build, [clip.id for clip in clips]):
            return False
        rows = [(record.clips.get(clip.id), sources.get(clip.path)) for clip in clips]
        return all(row is None or source in (None, row.source) for row, source in rows)

    def vectors(self, shard: int) -> bool:
        """Return whether a shard's motion vectors were made from its current H.264 files."""
        record, before = self.motion.get(shard), self.transcode.get(shard)
        return record is not None and before is not None and record.inputs == motion_inputs(before)

    def chosen(self, shard: int, view: View) -> bool:
        """Return whether a shard's boxes in a view were made from its current vectors."""
        record, before = self.boxes[view.name].get(shard), self.motion.get(shard)
        return record is not None and before is not None and record.inputs == boxes_inputs(before, self.recipe, view)

    def cached(self, shard: int, view: View) -> bool:
        """Return whether a shard's crops in a view were made from its current boxes."""
        record, transcode = self.clips[view.name].get(shard), self.transcode.get(shard)
        motion, boxes = self.motion.get(shard), self.boxes[view.name].get(shard)
        if record is None or transcode is None or motion is None or boxes is None:
            return False
        return record.inputs == clips_inputs(transcode, motion, boxes, self.recipe)

    def complete(self, shard: int, view: View) -> bool:
        """Return whether all stages of a shard are done in a view, according to the records."""
        return self.vectors(shard) and self.chosen(shard, view) and self.cached(shard, view)

    def missing(self, stage: str, shard: int) -> list[str] | None:
        """The views for which a stage after ``transcode`` is pending in a shard; None if none is pending.

        The list is empty for the stage ``motion``, which has no views.
        """
        if stage == "motion":
            return None if self.vectors(shard) else []
        done = self.chosen if stage == "boxes" else self.cached
        return [view.name for view in self.recipe.views if not done(shard, view)] or None


def clip_rows(store: Store, progress: Progress) -> tuple[list[State], list[str]]:
    """The state and the quarantine reason ("" if none) of every clip, in row order."""
    states, reasons = [], []
    for shard in range(store.num_shards):
        failed = [record.reasons for record in progress.records_of(shard)]
        complete = all(progress.complete(shard, view) for view in store.recipe.views)
        for row in schema.shard_rows(shard, len(store.ids), store.recipe.clips_per_shard):
            reason = next(filter(None, (of_stage.get(store.ids[row]) for of_stage in failed)), "")
            states.append(State.QUARANTINED if reason else State.DONE if complete else State.PENDING)
            reasons.append(reason)
    return states, reasons


def summarise(location: str) -> Summary:
    """Summarise the progress of the store at ``location`` from its records; ``StoreError`` if there is no store."""
    store = open_store(location)
    progress = Progress.of(store)
    states, reasons = clip_rows(store, progress)
    shards, views = range(store.num_shards), store.recipe.views
    stages = {
        "transcode": sum(shard in progress.transcode for shard in shards),
        "motion": sum(progress.vectors(shard) for shard in shards),
        "boxes": sum(all(progress.chosen(shard, view) for view in views) for shard in shards),
        "clips": sum(all(progress.cached(shard, view) for view in views) for shard in shards),
    }
    return Summary(
        shown(location),
        len(states),
        states.count(State.DONE),
        states.count(State.PENDING),
        {id: reason for id, reason in zip(store.ids, reasons, strict=True) if reason},
        {stage: (done, store.num_shards) for stage, done in stages.items()},
        _notes(progress, shards),
        progress.software,
    )


def _notes(progress: Progress, shards: range) -> dict[str, dict[str, str]]:
    """The notes of all records by kind and clip, sorted; a later stage's note replaces an earlier one."""
    notes: dict[str, dict[str, str]] = {}
    for shard in shards:
        for record in progress.records_of(shard):
            for kind, texts in record.notes.items():
                notes.setdefault(kind, {}).update(texts)
    return {kind: dict(sorted(notes[kind].items())) for kind in sorted(notes)}


def stage_seconds(attributes: Attributes | None) -> dict[str, float]:
    """Seconds per stage from the attributes of the group ``progress``, without invalid entries."""
    stored = (attributes or {}).get("seconds")
    seconds = stored if isinstance(stored, dict) else {}
    return {
        stage: float(value)
        for stage, value in seconds.items()
        if stage in schema.STAGES and type(value) in (int, float) and 0 <= value < 1e12
    }


def publish(location: str) -> None:
    """Write the tables and the software versions of a store from its records; run by one process only."""
    store, writable = open_store(location), zarr_store(location, read_only=False)
    progress = Progress.of(store)
    software = as_attribute(store.attrs["software"], progress.software)
    if software != store.attrs["software"]:
        put_attributes(writable, "", {**store.attrs, "software": software})
    for path, values in expected_tables(store, progress).items():
        write_table(writable, store.spec(path), values)


def expected_tables(store: Store, progress: Progress) -> dict[str, npt.NDArray[Any]]:
    """The contents of the tables, by path, according to the records."""
    states, reasons = clip_rows(store, progress)
    motion = _by_id(progress.motion)
    rows = [motion.get(id) for id in store.ids]
    tables = {
        "state": np.array(states, dtype=np.uint8),
        "reason": np.array(reasons, dtype=object),
        "num_frames": np.array([row.frames if row else 0 for row in rows], dtype=np.int32),
        "frame_size": np.array([row.size if row else (0, 0) for row in rows], dtype=np.int32).reshape(-1, 2),
    }
    for view in store.recipe.views:
        boxes, clips = _by_id(progress.boxes[view.name]), _by_id(progress.clips[view.name])
        of_view = _view_tables(store, boxes, clips, moves(view))
        tables |= {f"views/{view.name}/{name}": values for name, values in of_view.items()}
    return tables


def _view_tables(
    store: Store, boxes: dict[str, BoxRow], clips: dict[str, CropRow], moving: bool
) -> dict[str, npt.NDArray[Any]]:
    rows, slots = len(store.ids), store.recipe.frames.slots
    box = np.zeros((rows, 4), np.int32)
    score = np.full(rows, np.nan, np.float32)
    source = np.zeros(rows, np.uint8)
    frame_index = np.full((rows, slots), -1, np.int32)
    for row, id in enumerate(store.ids):
        if id in boxes:
            chosen = boxes[id]
            box[row], source[row] = chosen.box.corners, chosen.source
            score[row] = np.nan if chosen.score is None else chosen.score
        if id in clips:
            frame_index[row, : len(clips[id].frame_index)] = clips[id].frame_index
    tables: dict[str, npt.NDArray[Any]] = {"box": box, "score": score, "source": source, "frame_index": frame_index}
    if moving:
        tables["frame_box"] = np.zeros((rows, slots, 4), np.int32)
        for row, id in enumerate(store.ids):
            for slot, frame in enumerate(clips[id].frame_index if id in clips else ()):
                tables["frame_box"][row, slot] = boxes[id].box_at(frame).corners
    return tables


def _by_id(records: dict[int, Record[Row]]) -> dict[str, Row]:
    return {id: row for record in records.values() for id, row in record.clips.items()}
