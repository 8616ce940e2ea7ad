"""A run: finding the pending tasks, taking in the finished ones, and publishing the tables."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from data_specs import schema
from data_specs.datasets import Clip, Dataset
from data_specs.recipes import Recipe
from data_specs.records import Record
from data_specs.stored import StoreError, attributes, is_url, zarr_store
from pipelines.runs.options import Options
from pipelines.runs.source_index import SourceIndex, Stamp
from pipelines.stages.tasks import ONE_PASS, STAGES, ShardPlan, ShardReport
from pipelines.store import writer as writing
from pipelines.store.lock import StoreLock
from pipelines.store.packing import pack_records
from pipelines.store.progress import Progress
from pipelines.store.record_blocks import BLOCK, RecordBlock
from pipelines.store.record_index import RecordIndex, record_stamps
from pipelines.store.summary import Summary, publish, stage_seconds, summary_of
from pipelines.store.verify import DAMAGED, damaged_records

FEW = 64  # tasks of a stage whose order matters, as the last one ends long after the others
SAVE_SECONDS = 60.0  # between two times that a run saves what it knows of the records


class Run:
    """A store being filled. Made by `opening.open_run`, which holds the store's lock."""

    def __init__(self, options: Options, dataset: Dataset, recipe: Recipe, lock: StoreLock, notices: list[str]) -> None:
        self.options = options
        self.lock = lock
        self.notices = notices
        self.dataset = dataset
        self.recipe = recipe
        self.location = options.location()
        self.folders = options.folders(dataset)
        self.sources = SourceIndex(self.folders.source, self.folders.work_dir)
        self._stamps: dict[str, Stamp | None] = {}  # by clip id: source files' stamps before their first transcoding
        self._stamped = 0  # when, in ns
        self.zarr = zarr_store(self.location, read_only=False)
        self.num_shards = schema.num_shards(len(dataset.clips), recipe.clips_per_shard)
        self._index = RecordIndex(self.folders.work_dir, self.location)
        self.progress = _read_progress(self, self._index)
        self._given: dict[str, set[int]] = {}  # by stage: shards in progress, whose records may be new
        self._taken: dict[str, set[int]] = {}  # those of them whose new records were read
        self._finished: list[int] = []  # those of them that are finished, and not read yet
        self._published, self._index_is_old, self._saved = False, self.progress.read_any, time.monotonic()
        self._failed = False  # tasks may still be running
        self.unclean = False  # a worker died, and may have left temporary files

    @cached_property
    def build(self) -> str:
        """The ffmpeg build that the store was created with."""
        (root,) = attributes(self.zarr, [""])
        assert root is not None
        return str(root["software"]["ffmpeg"])

    @cached_property
    def ids(self) -> list[str]:
        """The ids of all clips in row order."""
        return [clip.id for clip in self.dataset.clips]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Lines about missing, ambiguous or skipped files of the data set."""
        return self.dataset.notices

    def clips_of(self, shard: int) -> tuple[Clip, ...]:
        """The clips of a shard in row order."""
        rows = schema.shard_rows(shard, len(self.dataset.clips), self.recipe.clips_per_shard)
        return self.dataset.clips[rows.start : rows.stop]

    @property
    def passes(self) -> tuple[str, ...]:
        """What the tasks of this run do, in order: each stage, or all of them in one pass."""
        return (ONE_PASS,) if self.options.discard_h264 else STAGES

    def pending(self, stage: str) -> list[ShardPlan]:
        """The pending tasks of a stage: those without a record, or with one made from other inputs.

        Those of `ONE_PASS` are of the shards in which any stage is pending. Few tasks come in the order of the size of
        their source files, the largest first: no worker is left alone with a long one at the end.
        """
        self.lock.check()
        self._update()
        if stage == ONE_PASS:
            plans = self._pending_passes()
        else:
            plans = [self._plan(stage, shard, views) for shard, views in self._missing(stage).items()]
            self._given.setdefault(stage, set()).update(plan.shard for plan in plans)
        return plans if len(plans) > FEW else sorted(plans, key=self._source_bytes, reverse=True)

    def _source_bytes(self, plan: ShardPlan) -> int:
        return sum(self.sources.bytes_of(clip.path) for clip in plan.clips)

    def _pending_passes(self) -> list[ShardPlan]:
        first: dict[int, str] = {}
        for stage in STAGES:
            for shard in self._missing(stage):
                first.setdefault(shard, stage)
        for shard, stage in first.items():
            for later in STAGES[STAGES.index(stage) :]:
                self._given.setdefault(later, set()).add(shard)
        return [self._pass(shard, STAGES[STAGES.index(first[shard]) :]) for shard in sorted(first)]

    def _pass(self, shard: int, stages: tuple[str, ...]) -> ShardPlan:
        plan = self._plan(ONE_PASS, shard, (), stages)
        return replace(plan, stages=stages, scratch=self.options.scratch_folder())

    def _missing(self, stage: str) -> dict[int, Sequence[str]]:
        """The shards in which a stage is pending, and for which views, empty in stages without views."""
        if stage == "transcode":
            return dict.fromkeys(self._changed(), ())
        missing = {shard: self.progress.missing(stage, shard) for shard in range(self.num_shards)}
        return {shard: views for shard, views in missing.items() if views is not None}

    def finished(self, report: ShardReport) -> None:
        """Take in the report of a finished task: its records are read, and the index saved, some tasks at a time.

        A run after a kill then has few records to read. Records that cannot be read now are read when the stage ends.
        """
        self._finished.append(report.shard)
        if len(self._finished) < BLOCK:
            return
        some, self._finished = self._finished, []
        with suppress(OSError, StoreError):
            for stage in STAGES if report.stage == ONE_PASS else (report.stage,):
                self._taken.setdefault(stage, set()).update(self._read(stage, some))
            self.sources.save()
            if time.monotonic() - self._saved > SAVE_SECONDS:
                self._save_index()

    def _update(self) -> None:
        """Read the records that tasks may have written since the last time; a task without a new one is still open."""
        given, taken = self._given, {} if self.unclean else self._taken  # a dead worker's task may have removed some
        self._given, self._taken = {}, {}
        self._finished.clear()
        for stage, shards in given.items():
            unread = shards - taken.get(stage, set())
            if still_open := unread - self._read(stage, unread):
                self._given[stage] = still_open
        self.sources.save()

    def _read(self, stage: str, shards: Iterable[int]) -> set[int]:
        """Read the records of a stage of some shards; return the shards that have new ones."""
        before = {shard: self.progress.stage_links(stage, shard) for shard in sorted(shards)}
        self.progress.read(list(before), stage)
        written = {shard for shard, links in before.items() if self.progress.stage_links(stage, shard) != links}
        if written:
            self._published, self._index_is_old = False, True
        if stage == "transcode":
            self._remember_sources(written)
        return written

    def _save_index(self) -> None:
        """Save the index of records, without those that may be replaced before their stamps are taken."""
        unread = {stage: shards - self._taken.get(stage, set()) for stage, shards in self._given.items()}
        self._index.save(self.progress.by_path(unread), record_stamps(self.zarr), self.progress.stamps)
        self._index_is_old, self._saved = False, time.monotonic()

    def _changed(self) -> list[int]:
        """The shards whose H.264 files were not made from the current source files."""
        changed = self.progress.to_transcode(self.build, self.clips_of, self.sources.fingerprints)
        self.sources.save()
        self._stamped = time.time_ns()
        for shard in set(changed) - self.progress.links("transcode").keys():
            for clip in self.clips_of(shard):
                self._stamps.setdefault(clip.id, self.sources.stamp(clip.path))
        return changed

    def read_again(self) -> None:
        """Read all records of the shards in progress again, of which a task that failed may have removed some."""
        self._failed = True
        given, self._given, self._taken = self._given, {}, {}
        self.progress.read(sorted(set().union(*given.values())))
        self._published, self._index_is_old = False, True

    def _remember_sources(self, shards: Iterable[int]) -> None:
        """Add the source files of newly transcoded shards to the index, with the fingerprints in their records."""
        links = self.progress.links("transcode")
        for shard in shards:
            sources = links[shard].sources if shard in links else ()
            for clip, source in zip(self.clips_of(shard), sources, strict=False):
                stamp = self._stamps.pop(clip.id, None)
                if source and stamp:
                    self.sources.remember(clip.path, stamp, source, self._stamped)

    def _plan(self, stage: str, shard: int, views: Sequence[str], stages: Sequence[str] = ()) -> ShardPlan:
        first, clips = shard * self.recipe.clips_per_shard, self.clips_of(shard)
        plan = ShardPlan(stage, shard, self.location, self.folders, self.build, first, clips, tuple(views))
        recorded = any(link for each in stages or (stage,) for link in self.progress.stage_links(each, shard))
        return replace(plan, may_have_records=recorded)

    def summary(self) -> Summary:
        """The store's current progress."""
        self._update()
        return summary_of(self.progress, self.location, [clip.video for clip in self.dataset.clips if clip.video])

    def publish(self) -> Summary:
        """Write the tables from the records, unless they are up to date, and return the store's progress."""
        self.lock.check()
        self._update()
        summary = self.summary()
        if not self._published:
            publish(self.location, self.progress)
            packed = self._is_finished(summary) and pack_records(
                self.zarr, self.progress.keys, self.num_shards, self.lock.check
            )
            if packed:
                self.progress.stamps.clear()  # the records are elsewhere now
            if self._index_is_old or packed:
                self._save_index()
            self._published = True
        return summary

    def _is_finished(self, summary: Summary) -> bool:
        """Return whether everything is done, so that no task can be writing records."""
        open_shards = {shard: self.clips_of(shard) for shard in self._given.get("transcode", ())}
        sources = self.sources.fingerprints(clip.path for clips in open_shards.values() for clip in clips)
        return (
            not self._failed
            and all(done == of for done, of in summary.stages.values())
            and all(self.progress.transcoded(shard, self.build, clips, sources) for shard, clips in open_shards.items())
        )

    def add_seconds(self, reports: Sequence[ShardReport]) -> None:
        """Add the run times of tasks to the totals in the group ``progress``; failures to write are ignored."""
        with suppress(OSError, StoreError):  # a store that cannot be written is reported by the next task
            self._add_seconds(reports)

    def _add_seconds(self, reports: Sequence[ShardReport]) -> None:
        (progress,) = attributes(self.zarr, ["progress"])
        seconds: dict[str, float] = defaultdict(float, stage_seconds(progress))
        for report in reports:
            for stage, spent in (report.by_stage or {report.stage: report.seconds}).items():
                seconds[stage] += spent
        rounded = {key: round(seconds[key], 3) for key in seconds}
        writing.put_attributes(self.zarr, "progress", {**(progress or {}), "seconds": rounded})


def _read_progress(run: Run, index: RecordIndex) -> Progress:
    """Read the records of a store that changed since the last run, and remove those that must be made again."""
    for path in damaged_records(run.zarr):
        writing.remove_record(run.zarr, path)
    writing.remove_attributes(run.zarr, DAMAGED)
    damaged: list[str] = []  # removed, as a task in one pass would take those that only do not fit their shard
    wrong: list[Record[Any]] = []
    may_lack_files = run.lock.abandoned is not None and not is_url(run.location)

    def look(block: RecordBlock) -> None:
        damaged.extend(block.damaged)
        if may_lack_files:
            wrong.extend(record for record in block if _is_cut_short(run.location, record))
        if run.options.retry_quarantined:
            wrong.extend(record for record in block if _quarantined_there(record))

    known = {} if run.options.retry_quarantined else index.load(since_boot=may_lack_files)
    progress = Progress(run.zarr, run.recipe, run.ids, on_block=look, known=known)
    for path in (*damaged, *(record.path for record in wrong)):
        writing.remove_record(run.zarr, path)
    progress.read(sorted({record.shard for record in wrong}))
    return progress


def _is_cut_short(location: str, record: Record[Any]) -> bool:
    """Return whether an object of a record is missing or has a wrong size, as after a power failure."""
    return any(_size(Path(location, key)) != size for key, size in record.sizes.items())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _quarantined_there(record: Record[Any]) -> bool:
    """Return whether the stage of a record quarantined a clip, so that it must run again."""
    return any(reason.startswith(f"{record.stage}: ") for reason in record.reasons.values())
