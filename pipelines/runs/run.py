"""A run: opening its store, finding the pending tasks, and publishing the tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

from data_specs import schema
from data_specs.chain import motion_inputs_without_texture
from data_specs.datasets import Clip, Dataset
from data_specs.local_files import refuse_links
from data_specs.recipes import Encode, Recipe
from data_specs.records import MotionRow, TranscodeRow, read_records
from data_specs.stored import Store, StoreError, attributes, is_url, open_store, shown, zarr_store
from pipelines.atomic_files import sweep
from pipelines.disk_space import SPARE, free_bytes, least_bytes, mebibytes
from pipelines.errors import RunError
from pipelines.internal_errors import LOGS
from pipelines.media.ffmpeg_binary import FfmpegError
from pipelines.runs.cleanup import STORES, register, unfinished
from pipelines.runs.options import Options, read_request
from pipelines.runs.source_index import SOURCES, SourceIndex, Stamp
from pipelines.stages.h264_cache import H264, Folders
from pipelines.stages.tasks import ShardPlan, ShardReport
from pipelines.store import writer as writing
from pipelines.store.creation import is_made, make_or_reopen
from pipelines.store.lock import StoreLock, locked
from pipelines.store.records import Progress, Summary, other_revision, publish, stage_seconds, summarise
from pipelines.store.software import news
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

    def pending(self, stage: str) -> list[ShardPlan]:
        """The pending tasks of a stage: those without a record, or with one made from other inputs."""
        self.lock.check()
        shards = Progress(self.zarr, self.recipe, self.num_shards, self.ids)
        if stage == "transcode":
            return [self._plan(stage, shard, ()) for shard in self._changed(shards)]
        self._remember_sources(shards)
        missing = {shard: shards.missing(stage, shard) for shard in range(self.num_shards)}
        return [self._plan(stage, shard, views) for shard, views in missing.items() if views is not None]

    def _changed(self, shards: Progress) -> list[int]:
        """The shards whose H.264 files were not made from the current source files."""
        changed = shards.to_transcode(self.build, self.clips_of, self.sources.fingerprints)
        self.sources.save()
        for shard in set(changed) - set(shards.transcode):
            for clip in self.clips_of(shard):
                self._stamps.setdefault(clip.id, self.sources.stamp(clip.path))
        return changed

    def _remember_sources(self, shards: Progress) -> None:
        """Add the source files of newly transcoded shards to the index, with the fingerprints in their records."""
        for shard, record in shards.transcode.items():
            for clip in self.clips_of(shard):
                row, stamp = record.clips.get(clip.id), self._stamps.pop(clip.id, None)
                if row and stamp:
                    self.sources.remember(clip.path, stamp, row.source)
        self.sources.save()

    def _plan(self, stage: str, shard: int, views: Sequence[str]) -> ShardPlan:
        first, clips = shard * self.recipe.clips_per_shard, self.clips_of(shard)
        return ShardPlan(stage, shard, self.location, self.folders, self.build, first, clips, tuple(views))

    def summary(self) -> Summary:
        """The store's current progress."""
        return summarise(self.location)

    def publish(self) -> Summary:
        """Write the tables from the records and return the store's progress."""
        self.lock.check()
        publish(self.location)
        return self.summary()

    def add_seconds(self, reports: Sequence[ShardReport]) -> None:
        """Add the run times of tasks to the totals in the group ``progress``; failures to write are ignored."""
        with suppress(OSError, StoreError):  # a store that cannot be written is reported by the next task
            self._add_seconds(reports)

    def _add_seconds(self, reports: Sequence[ShardReport]) -> None:
        (progress,) = attributes(self.zarr, ["progress"])
        seconds: dict[str, float] = defaultdict(float, stage_seconds(progress))
        for report in reports:
            seconds[report.stage] += report.seconds
        writing.put_attributes(self.zarr, "progress", {"seconds": {key: round(seconds[key], 3) for key in seconds}})


def about_store(options: Options, recipe: Recipe) -> list[str]:
    """Lines about changes that a run will make to an existing store: new views, missing texture, new versions."""
    try:
        store = open_store(options.location())
    except StoreError:
        return []
    if other_revision(store):  # the store will be refused
        return []
    new = ", ".join(view.name for view in recipe.views if view.name not in store.views)
    files = "" if recipe.transcode == "keep" else "; missing H.264 files are made again"
    views = f"adding to the store: {new}, from the stored vectors{files}" if new else ""
    texture = "motion that was stored without key-frame texture is extracted again, with all results made from it"
    lines = (views, texture if _lacks_texture(store) else "", news(store.attrs["software"]))
    return [line for line in lines if line]


def _lacks_texture(store: Store) -> bool:
    """Return whether the first shard's motion was stored by a version that kept no texture."""
    motion = read_records(store.zarr, MotionRow, None, [0]).get(0)
    transcode = read_records(store.zarr, TranscodeRow, None, [0]).get(0)
    return motion is not None and transcode is not None and motion.inputs == motion_inputs_without_texture(transcode)


@contextmanager
def open_run(options: Options) -> Iterator[Run]:
    """Check the options, create or open the store and hold its lock; ``RunError`` if that fails.

    On exit, also after an error, the tables are written from the completed work and the lock is released.
    """
    dataset, recipe = read_request(options)
    try:
        location = options.location()
        folders = options.folders(dataset)
        _refuse_links(location, folders)
        if not is_made(location):
            _check_space(location, recipe, len(dataset.clips))
        with locked(location) as lock:
            notices = about_store(options, recipe)
            make_or_reopen(location, dataset, recipe)
            _sweep(location)
            sweep(Path(folders.work_dir, H264))  # only subfolders of our own, as other programs may use the work folder
            run = Run(options, dataset, recipe, lock, notices)
            if isinstance(recipe.transcode, Encode):
                register(folders.work_dir, location)
            _forget_damaged(run)
            _forget_cut_short(run)
            if options.retry_quarantined:
                _forget_quarantined(run)
            try:
                yield run
            except BaseException:
                with suppress(OSError, StoreError):  # may fail for the same reason, which is raised below
                    run.publish()
                raise
            run.publish()
    except (StoreError, FfmpegError) as error:
        raise RunError(str(error)) from error
    except OSError as error:
        raise RunError(f"{error.strerror or error} ({error.filename or shown(options.store)})") from error


def _refuse_links(location: str, folders: Folders) -> None:
    """Raise ``Linked`` if a subfolder that a run writes into is a symbolic link; store and work folder may be links."""
    for name in (H264, STORES, LOGS, SOURCES):
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


def _sweep(location: str) -> None:
    """Remove the temporary files that a killed run left in a local store; an object store has none."""
    if not is_url(location):
        for path in unfinished(Path(location)):
            path.unlink(missing_ok=True)


def _forget_damaged(run: Run) -> None:
    """Remove the records that ``mocrop verify`` found wrong, so that their shards are processed again."""
    for record in damaged_records(run.zarr):
        writing.remove_attributes(run.zarr, record)
    writing.remove_attributes(run.zarr, DAMAGED)


def _forget_cut_short(run: Run) -> None:
    """Remove the records of objects that are missing or have a wrong size after a power failure; local stores only."""
    if is_url(run.location):
        return
    progress = Progress(run.zarr, run.recipe, run.num_shards, run.ids)
    for shard in range(run.num_shards):
        for record in progress.records_of(shard):
            if any(_size(Path(run.location, key)) != size for key, size in record.sizes.items()):
                writing.remove_attributes(run.zarr, record.path)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _forget_quarantined(run: Run) -> None:
    """Remove the records of the stages that quarantined clips, so that those stages are run again."""
    progress = Progress(run.zarr, run.recipe, run.num_shards, run.ids)
    for shard in range(run.num_shards):
        for record in progress.records_of(shard):
            if any(reason.startswith(f"{record.stage}: ") for reason in record.reasons.values()):
                writing.remove_attributes(run.zarr, record.path)
