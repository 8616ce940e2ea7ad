"""A run: opening its store, finding the pending tasks, and publishing the tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from data_specs import schema
from data_specs.datasets import Clip, Dataset
from data_specs.local_files import refuse_links
from data_specs.recipes import Encode, Recipe
from data_specs.records import Record
from data_specs.stored import StoreError, attributes, is_url, open_store, shown, zarr_store
from pipelines.atomic_files import sweep
from pipelines.disk_space import SPARE, free_bytes, least_bytes, mebibytes
from pipelines.errors import RunError
from pipelines.internal_errors import LOGS
from pipelines.media.ffmpeg_binary import FfmpegError
from pipelines.runs.cleanup import STORES, register, unfinished
from pipelines.runs.options import Options, Request, read_request
from pipelines.runs.source_index import SOURCES, SourceIndex, Stamp
from pipelines.stages.h264_cache import H264, Folders
from pipelines.stages.scratch import scratch_base, sweep_scratch
from pipelines.stages.tasks import ONE_PASS, STAGES, ShardPlan, ShardReport
from pipelines.store import writer as writing
from pipelines.store.creation import is_made, make_or_reopen
from pipelines.store.lock import StoreLock, locked
from pipelines.store.packing import pack_records
from pipelines.store.progress import Progress, other_revision
from pipelines.store.record_blocks import RecordBlock
from pipelines.store.record_index import RECORDS, RecordIndex, record_stamps
from pipelines.store.software import news
from pipelines.store.summary import Summary, publish, stage_seconds, summary_of
from pipelines.store.verify import DAMAGED, damaged_records


class Run:
    """A store being filled. Made by ``open_run``, which holds the store's lock."""

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
        self.zarr = zarr_store(self.location, read_only=False)
        self.num_shards = schema.num_shards(len(dataset.clips), recipe.clips_per_shard)
        self._index = RecordIndex(self.folders.work_dir, self.location)
        self.progress = _read_progress(self, self._index)
        self._given: dict[str, set[int]] = {}  # shards in progress, whose records are read when they are needed
        self._published, self._index_is_old = False, self.progress.read_any
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

        Those of `ONE_PASS` are of the shards in which any stage is pending.
        """
        self.lock.check()
        self._update()
        if stage == ONE_PASS:
            return self._pending_passes()
        plans = [self._plan(stage, shard, views) for shard, views in self._missing(stage).items()]
        self._given.setdefault(stage, set()).update(plan.shard for plan in plans)
        return plans

    def _pending_passes(self) -> list[ShardPlan]:
        first: dict[int, str] = {}
        for stage in STAGES:
            for shard in self._missing(stage):
                first.setdefault(shard, stage)
        for stage in STAGES:
            self._given.setdefault(stage, set()).update(first)
        return [self._pass(shard, STAGES[STAGES.index(first[shard]) :]) for shard in sorted(first)]

    def _pass(self, shard: int, stages: tuple[str, ...]) -> ShardPlan:
        fresh = not any(link for stage in stages for link in self.progress.stage_links(stage, shard))
        plan = self._plan(ONE_PASS, shard, ())
        return replace(plan, stages=stages, fresh=fresh, scratch=self.options.scratch_folder())

    def _missing(self, stage: str) -> dict[int, Sequence[str]]:
        """The shards in which a stage is pending, and for which views, empty in stages without views."""
        if stage == "transcode":
            return dict.fromkeys(self._changed(), ())
        missing = {shard: self.progress.missing(stage, shard) for shard in range(self.num_shards)}
        return {shard: views for shard, views in missing.items() if views is not None}

    def _update(self) -> None:
        """Read the records that tasks may have written since the last time; a task without a new one is still open."""
        given, self._given = self._given, {}
        for stage, shards in given.items():
            before = {shard: self.progress.stage_links(stage, shard) for shard in sorted(shards)}
            self.progress.read(list(before), stage)
            written = {shard for shard, links in before.items() if self.progress.stage_links(stage, shard) != links}
            if shards - written:
                self._given[stage] = shards - written
            if written:
                self._published, self._index_is_old = False, True
            if stage == "transcode":
                self._remember_sources(written)

    def _changed(self) -> list[int]:
        """The shards whose H.264 files were not made from the current source files."""
        changed = self.progress.to_transcode(self.build, self.clips_of, self.sources.fingerprints)
        self.sources.save()
        for shard in set(changed) - self.progress.links("transcode").keys():
            for clip in self.clips_of(shard):
                self._stamps.setdefault(clip.id, self.sources.stamp(clip.path))
        return changed

    def read_again(self) -> None:
        """Read all records of the shards in progress again, of which a task that failed may have removed some."""
        self._failed = True
        given, self._given = self._given, {}
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
                    self.sources.remember(clip.path, stamp, source)
        self.sources.save()

    def _plan(self, stage: str, shard: int, views: Sequence[str]) -> ShardPlan:
        first, clips = shard * self.recipe.clips_per_shard, self.clips_of(shard)
        return ShardPlan(stage, shard, self.location, self.folders, self.build, first, clips, tuple(views))

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
            if self._index_is_old or packed:
                self._index.save(self.progress.by_path(), record_stamps(self.zarr))
            self._published, self._index_is_old = True, False
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


def about_store(options: Options, recipe: Recipe) -> list[str]:
    """Lines about changes that a run will make to an existing store: new views, new versions."""
    try:
        store = open_store(options.location())
    except StoreError:
        return []
    if other_revision(store):  # the store will be refused
        return []
    new = ", ".join(view.name for view in recipe.views if view.name not in store.views)
    views = f"adding to the store: {new}, from the stored vectors{_made_again(options, recipe)}" if new else ""
    return [line for line in (views, news(store.attrs["software"])) if line]


def _made_again(options: Options, recipe: Recipe) -> str:
    """Which clips must be transcoded again for the crops of a new view."""
    if recipe.transcode == "keep":
        return ""
    if options.discard_h264:
        return "; all clips are transcoded again, because --discard-h264 keeps no H.264 files"
    if not any(Path(options.work_folder(), H264).rglob("*.mp4")):
        return f"; all clips are transcoded again, because {options.work_folder()} has no H.264 files"
    return "; missing H.264 files are made again"


@contextmanager
def open_run(options: Options, request: Request | None = None) -> Iterator[Run]:
    """Check the options, create or open the store and hold its lock; ``RunError`` if that fails.

    ``request`` is what `read_request` returned for the options, if the caller read it: reading a large data set again
    takes seconds.

    On exit, also after an error, the tables are written from the completed work and the lock is released.
    """
    dataset, recipe = request or read_request(options)
    try:
        location = options.location()
        folders = options.folders(dataset)
        _refuse_links(location, folders)
        if not is_made(location):
            _check_space(location, recipe, len(dataset.clips))
        with locked(location) as lock:
            notices = about_store(options, recipe)
            make_or_reopen(location, dataset, recipe)
            if lock.abandoned is not None:
                _sweep(location, folders, options)
            run = Run(options, dataset, recipe, lock, notices)
            lock.settled = True
            if isinstance(recipe.transcode, Encode):
                register(folders.work_dir, location)
            try:
                yield run
            except BaseException:
                with suppress(OSError, StoreError):  # may fail for the same reason, which is raised below
                    run.read_again()
                    run.publish()
                raise
            finally:
                if run.unclean:
                    _sweep(location, folders, options)
            run.publish()
    except (StoreError, FfmpegError) as error:
        raise RunError(str(error)) from error
    except OSError as error:
        raise RunError(f"{error.strerror or error} ({error.filename or shown(options.store)})") from error


def _refuse_links(location: str, folders: Folders) -> None:
    """Raise ``Linked`` if a subfolder that a run writes into is a symbolic link; store and work folder may be links."""
    for name in (H264, STORES, LOGS, SOURCES, RECORDS):
        refuse_links(Path(folders.work_dir), Path(folders.work_dir, name))
    if not is_url(location):
        for name in ("motion", "progress", "views"):
            refuse_links(Path(location), Path(location, name))


def _check_space(location: str, recipe: Recipe, clips: int) -> None:
    free, least = free_bytes(location), least_bytes(recipe, clips) + SPARE
    if free is not None and free < least:
        raise RunError(
            f"store {shown(location)!r}: {mebibytes(free)} are free, but at least {mebibytes(least)} needed; free some "
            "space, or process fewer clips, views or slots (mocrop plan gives a better estimate)"
        )


def _sweep(location: str, folders: Folders, options: Options) -> None:
    """Remove what a killed process left in the work folder, in a local store, and on the scratch of this machine."""
    for name in (H264, STORES, SOURCES, RECORDS):  # not the whole work folder, which other programs may use
        sweep(Path(folders.work_dir, name))
    if not is_url(location):
        for path in unfinished(Path(location)):
            path.unlink(missing_ok=True)
    with suppress(OSError):  # the workers' scratch folder need not exist on this machine
        sweep_scratch(scratch_base(options.scratch_folder()))


def _read_progress(run: Run, index: RecordIndex) -> Progress:
    """Read the records of a store that changed since the last run, and remove those that must be made again."""
    for path in damaged_records(run.zarr):
        writing.remove_record(run.zarr, path)
    writing.remove_attributes(run.zarr, DAMAGED)
    damaged: list[str] = []  # removed, as a task in one pass would take those that only do not fit their shard
    wrong: list[Record[Any]] = []
    power_failed = run.lock.abandoned is not None and not is_url(run.location)

    def look(block: RecordBlock) -> None:
        damaged.extend(block.damaged)
        if power_failed:
            wrong.extend(record for record in block if _is_cut_short(run.location, record))
        if run.options.retry_quarantined:
            wrong.extend(record for record in block if _quarantined_there(record))

    known = {} if power_failed or run.options.retry_quarantined else index.load()
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
