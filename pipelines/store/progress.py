"""What is done in a store according to its records, and the tables that follow from them.

Records are read once, some shards at a time; what is kept of them is what decides whether a shard must be processed
again, and the rows of the tables. A shard whose records may have changed is read again with ``read``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from zarr.abc.store import Store as ZarrStore

from data_specs import schema
from data_specs.chain import REVISION, is_current, transcode_inputs, transcode_settings
from data_specs.datasets import Clip
from data_specs.fingerprints import fingerprint
from data_specs.recipes import Recipe, View, moves, view_params
from data_specs.records import BoxRow, CropRow, Record, TranscodeRow
from data_specs.schema import State
from data_specs.stored import Store, StoreError, shown
from pipelines.store.record_blocks import BLOCK, RecordBlock
from pipelines.store.record_index import Known, Link, Stamp, Stamps, record_stamps, stamps_of
from pipelines.store.software import Versions, versions_of
from pipelines.store.table_rows import FILLS, TABLES_OF, Tables, empty_tables, fill_rows

Key = tuple[str, str | None]
"""A stage and, if it has any, its view."""
Fingerprints = Callable[[Iterable[str]], Mapping[str, str]]
"""Returns the fingerprints of source files by path, without those that cannot be read."""


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


class Progress:
    """What is done in a store; ``ids`` are its clip ids: a record that does not fit them counts as missing.

    With ``foreign``, it counts nevertheless. Without ``tables``, the rows of the tables are not kept. ``on_block`` gets
    the records as they are read.
    """

    def __init__(
        self,
        store: ZarrStore,
        recipe: Recipe,
        ids: Sequence[str],
        *,
        tables: bool = True,
        foreign: bool = False,
        on_block: Callable[[RecordBlock], None] = lambda block: None,
        known: Known | None = None,
    ) -> None:
        self.recipe = recipe
        self.ids = ids
        self.num_shards = schema.num_shards(len(ids), recipe.clips_per_shard)
        self._store, self._foreign = store, foreign
        self._links: dict[Key, dict[int, Link]] = {key: {} for key in _keys(recipe)}
        self._software: dict[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]] = {}
        self._settings = transcode_settings(recipe)
        self._params = {view.name: view_params(view) for view in recipe.views}
        self._tables = empty_tables(recipe, len(ids)) if tables else None
        self.stamps: dict[str, Stamp] = {}  # of records, by path, from before they were read
        self._unfilled: set[int] = set()  # shards whose rows of the tables were not read
        stamps = record_stamps(store)
        changed = [shard for shard in range(self.num_shards) if not self._recall(shard, known or {}, stamps)]
        self.read_any = bool(changed)  # or all was known
        self._read(changed, schema.STAGES, stamps, on_block)

    @classmethod
    def of(cls, store: Store, *, tables: bool = True, known: Known | None = None) -> Progress:
        """Read the records of a store, but for unchanged ``known`` ones; ``StoreError`` if it has another revision."""
        if problem := other_revision(store):
            raise StoreError(problem)
        return cls(store.zarr, store.recipe, store.ids, tables=tables, known=known)

    def _recall(self, shard: int, known: Known, stamps: Stamps) -> bool:
        """Take what is known of a shard; return whether that is all: it has records, and none of them changed."""
        paths = {key: schema.progress_path(*key, shard) for key in self._links}
        existing = {key: (path, stamp) for key, path in paths.items() if (stamp := stamps.get(path)) is not None}
        if not existing or not all(path in known and known[path][0] == stamp for path, stamp in existing.values()):
            return False
        for key, (path, stamp) in existing.items():
            link = known[path][1]
            software = self._software.setdefault(link.software, link.software)
            self._links[key][shard] = link if software is link.software else replace(link, software=software)
            self.stamps[path] = stamp
        self._unfilled.add(shard)
        return True

    def by_path(self, without: Mapping[str, Collection[int]]) -> dict[str, Link]:
        """What is kept of each record, by its path, but for some shards of each stage."""
        return {
            schema.progress_path(stage, view, shard): link
            for (stage, view), links in self._links.items()
            for shard, link in links.items()
            if shard not in without.get(stage, ())
        }

    def read(self, shards: Sequence[int], *stages: str) -> None:
        """Read the records of some stages of some shards again."""
        wanted = set(stages or schema.STAGES)
        if CropRow.stage in wanted and any(map(moves, self.recipe.views)):
            wanted.add(BoxRow.stage)  # the boxes of cached frames follow from both
        self._read(shards, wanted, None, lambda block: None)

    def _read(
        self,
        shards: Sequence[int],
        stages: Collection[str],
        known: Stamps | None,
        on_block: Callable[[RecordBlock], None],
    ) -> None:
        for first in range(0, len(shards), BLOCK):
            some = shards[first : first + BLOCK]
            if set(stages) >= set(schema.STAGES):
                self._unfilled.difference_update(some)
            stamps = known or stamps_of(
                self._store,
                (schema.progress_path(*key, shard) for key in self._links if key[0] in stages for shard in some),
            )
            block = RecordBlock(self._store, self.recipe, some, None if self._foreign else self.ids, stages, known)
            on_block(block)
            for shard in some:
                self._forget(shard, stages)
                for record in block.records_of(shard):
                    self._take(record)
                    if (stamp := stamps.get(record.path)) is not None:
                        self.stamps[record.path] = stamp
                self._fill_paths(block, shard)

    def stage_links(self, stage: str, shard: int) -> list[Link | None]:
        """What is kept of a shard's records of a stage, one for each view in stages of views."""
        return [links.get(shard) for (name, _), links in self._links.items() if name == stage]

    def rows(self, shard: int) -> range:
        """The rows of a shard."""
        return schema.shard_rows(shard, len(self.ids), self.recipe.clips_per_shard)

    def ids_of(self, shard: int) -> Sequence[str]:
        """The clip ids of a shard."""
        rows = self.rows(shard)
        return self.ids[rows.start : rows.stop]

    def _forget(self, shard: int, stages: Collection[str]) -> None:
        rows = self.rows(shard)
        for (stage, view), links in self._links.items():
            if stage not in stages or shard not in links:
                continue
            del links[shard]
            self.stamps.pop(schema.progress_path(stage, view, shard), None)
            for name in TABLES_OF[stage]:
                path = f"views/{view}/{name}" if view else name
                if self._tables is not None and path in self._tables:
                    self._tables[path][rows.start : rows.stop] = FILLS.get(name, 0)

    def _take(self, record: Record[Any]) -> None:
        ids, rows = self.ids_of(record.shard), self.rows(record.shard)
        software = tuple(sorted(record.software.items()))
        sources: tuple[str | None, ...] = ()
        if record.stage == TranscodeRow.stage:
            sources = tuple(record.clips[id].source if id in record.clips else None for id in ids)
        self._links[record.stage, record.view][record.shard] = Link(
            record.inputs,
            record.output,
            self._software.setdefault(software, software),
            sources,
            dict(record.reasons) or _NOTHING,
            record.notes or _NOTHING,
        )
        if self._tables is not None:
            fill_rows(self._tables, record, ids, rows.start)

    def _fill_paths(self, block: RecordBlock, shard: int) -> None:
        """Fill the rows of ``frame_box`` of views whose box moves."""
        for view in filter(moves, self.recipe.views if self._tables is not None else ()):
            boxes, crops = block.boxes[view.name].get(shard), block.clips[view.name].get(shard)
            if boxes is not None and crops is not None and self._tables is not None:
                table = self._tables[f"views/{view.name}/frame_box"]
                for row, id in enumerate(self.ids_of(shard), self.rows(shard).start):
                    if id in boxes.clips and id in crops.clips:
                        for slot, frame in enumerate(crops.clips[id].frame_index[: table.shape[1]]):
                            table[row, slot] = boxes.clips[id].box_at(frame).corners

    @property
    def keys(self) -> Collection[Key]:
        """The stages and views of the records of a shard, in the order of the stages."""
        return self._links.keys()

    def links(self, stage: str, view: str | None = None) -> Mapping[int, Link]:
        """What is kept of the records of a stage (and view), by shard."""
        return self._links[stage, view]

    @property
    def software(self) -> Versions:
        """The versions that made the records."""
        counts = Counter((stage, link.software) for (stage, _), links in self._links.items() for link in links.values())
        return versions_of((stage, dict(software), number) for (stage, software), number in counts.items())

    def to_transcode(
        self, build: str, clips_of: Callable[[int], Sequence[Clip]], fingerprints: Fingerprints
    ) -> list[int]:
        """The shards whose H.264 files were not made by this recipe and build from the current source files."""
        changed, transcoded = [], self.links("transcode")
        for first in range(0, self.num_shards, BLOCK):
            shards = range(first, min(first + BLOCK, self.num_shards))
            sources = fingerprints(clip.path for shard in shards if shard in transcoded for clip in clips_of(shard))
            changed += [shard for shard in shards if not self.transcoded(shard, build, clips_of(shard), sources)]
        return changed

    def transcoded(self, shard: int, build: str, clips: Sequence[Clip], sources: Mapping[str, str]) -> bool:
        """Return whether a shard's H.264 files were made by this recipe and build from the current source files.

        ``sources`` maps the path of each source file to its fingerprint. H.264 files of missing source files stay
        valid; quarantined clips are ignored.
        """
        link = self.links("transcode").get(shard)
        if link is None or link.inputs != transcode_inputs(self.recipe, build, clips, self._settings):
            return False
        pairs = zip(link.sources, (sources.get(clip.path) for clip in clips), strict=True)
        return all(recorded is None or source in (None, recorded) for recorded, source in pairs)

    def vectors(self, shard: int) -> bool:
        """Return whether a shard's motion vectors were made from its current H.264 files."""
        return self._is_current("motion", shard, None)

    def chosen(self, shard: int, view: View) -> bool:
        """Return whether a shard's boxes in a view were made from its current vectors."""
        return self._is_current("boxes", shard, view)

    def cached(self, shard: int, view: View) -> bool:
        """Return whether a shard's crops in a view were made from its current boxes."""
        return self._is_current("clips", shard, view)

    def _is_current(self, stage: str, shard: int, view: View | None) -> bool:
        params = self._params[view.name] if view else None
        return is_current(stage, view, self.recipe, lambda *key: self._links[key].get(shard), params)

    def complete(self, shard: int, view: View) -> bool:
        """Return whether all stages of a shard are done in a view, according to the records."""
        return self.vectors(shard) and self._done(shard, view)

    def _done(self, shard: int, view: View) -> bool:
        return self.chosen(shard, view) and self.cached(shard, view)

    def missing(self, stage: str, shard: int) -> list[str] | None:
        """The views for which a stage after ``transcode`` is pending in a shard; None if none is pending.

        The list is empty for the stage ``motion``, which has no views.
        """
        if stage == "motion":
            return None if self.vectors(shard) else []
        done = self.chosen if stage == "boxes" else self.cached
        return [view.name for view in self.recipe.views if not done(shard, view)] or None

    def states(self) -> npt.NDArray[np.uint8]:
        """The state of each clip: uint8 (clips,)."""
        states = np.full(len(self.ids), State.PENDING, np.uint8)
        for shard in range(self.num_shards):
            rows = self.rows(shard)
            if self.vectors(shard) and all(map(partial(self._done, shard), self.recipe.views)):
                states[rows.start : rows.stop] = State.DONE
        states[list(self.quarantined())] = State.QUARANTINED
        return states

    def quarantined(self) -> dict[int, str]:
        """Why clips are quarantined, by row, in the order of the rows; of several reasons that of the first stage."""
        reasons: dict[int, str] = {}
        for links in self._links.values():
            for shard, link in links.items():
                if link.reasons:
                    first = self.rows(shard).start
                    for row, id in enumerate(self.ids_of(shard), first):
                        if id in link.reasons:
                            reasons.setdefault(row, link.reasons[id])
        return dict(sorted(reasons.items()))

    def notes(self) -> dict[str, dict[str, str]]:
        """The notes of all records by kind and clip, sorted; a later stage's note replaces an earlier one."""
        notes: dict[str, dict[str, str]] = {}
        for links in self._links.values():
            for link in links.values():
                for kind, texts in link.notes.items():
                    notes.setdefault(kind, {}).update(texts)
        return {kind: dict(sorted(notes[kind].items())) for kind in sorted(notes)}

    def tables(self) -> Tables:
        """The contents of the tables, by path, according to the records."""
        if self._tables is None:
            raise ValueError("the rows of the tables were not kept")
        self.read(sorted(self._unfilled))
        reasons = np.full(len(self.ids), "", object)
        for row, reason in self.quarantined().items():
            reasons[row] = reason
        return {"state": self.states(), "reason": reasons, **self._tables}

    def table_dimensions(self) -> dict[str, int]:
        """The number of dimensions of each of the `tables`, by path."""
        return {"state": 1, "reason": 1, **{path: values.ndim for path, values in (self._tables or {}).items()}}

    @property
    def fingerprint(self) -> str:
        """The fingerprint of all records."""
        outputs = [
            [stage, view, sorted((shard, link.output, link.software) for shard, link in links.items())]
            for (stage, view), links in self._links.items()
        ]
        return fingerprint("progress", outputs)


def _keys(recipe: Recipe) -> list[Key]:
    """The stages and views of the records of a shard, in the order of the stages."""
    views = [view.name for view in recipe.views]
    return [("transcode", None), ("motion", None), *((stage, view) for stage in schema.VIEW_STAGES for view in views)]


_NOTHING: Mapping[str, Any] = {}  # one object for most records
