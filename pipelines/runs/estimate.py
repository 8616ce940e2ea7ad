"""Estimate of a run's work, time and space, from a few trial clips that are processed in a temporary folder."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data_specs import schema
from data_specs.datasets import TEST, TRAIN, VALIDATION, Dataset
from data_specs.discovery import PassedOver
from data_specs.recipes import Recipe
from data_specs.resources import usable_cores
from data_specs.split_lists import NUM_SPLITS
from data_specs.stored import is_url, open_store, shown
from data_specs.text import counted
from pipelines.disk_space import SPARE, disk_of, free_bytes, mebibytes
from pipelines.errors import ClipError
from pipelines.media.decoder import VideoError, probe
from pipelines.runs.opening import open_run
from pipelines.runs.options import Options, Request, read_request
from pipelines.runs.source_index import SourceIndex
from pipelines.stages.h264_cache import Folders, source_path
from pipelines.stages.scratch import scratch_base
from pipelines.stages.shard_task import process_shard
from pipelines.stages.tasks import STAGES
from pipelines.store.creation import is_made, refusal
from pipelines.store.progress import Progress
from pipelines.store.record_index import RecordIndex

OPENED = 100  # clips whose files are opened
SAMPLE = 3  # clips that are processed


@dataclass(frozen=True, slots=True)
class Cost:
    """Average cost of a clip on this machine: seconds on one core, bytes in the store and in the work folder."""

    seconds: float
    store_bytes: float
    work_bytes: float


@dataclass(frozen=True, slots=True)
class Sample:
    """Result of the trial clips: all ids, the reasons of those that failed, and the average cost of the others.

    ``cost`` is None if all of them failed.
    """

    ids: tuple[str, ...]
    failed: dict[str, str]
    cost: Cost | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Result of a dry run: the data set, the remaining work, and the time and space it is expected to take.

    ``windows`` of the clips are windows of videos. ``splits`` has the numbers of train, test and validation clips of
    each split. ``sample`` has the trial clips on which the estimate is based. ``seconds`` is wall time with ``workers``
    processes, of which at most one per remaining shard is busy; it, ``store_bytes`` and ``work_bytes`` are None if no
    trial clip could be processed. ``free`` has the free bytes at the store and the work folder (None for an object
    store). With ``discard_h264``, ``scratch`` is the folder for H.264 files in use, ``work_bytes`` what they take there
    at a time, and ``free`` has its free bytes instead of the work folder's.
    """

    dataset: str
    source: str
    store: str
    work_dir: str
    clips: int
    windows: int
    classes: int
    splits: dict[int, tuple[int, int, int]]
    shards: int
    clips_left: int
    workers: int
    sample: tuple[str, ...]
    seconds: float | None
    store_bytes: int | None
    work_bytes: int | None
    free: dict[str, int | None]
    warnings: tuple[str, ...]
    passed_over: tuple[PassedOver, ...]
    problems: tuple[str, ...]
    scratch: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON-like values."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """Format the plan as lines of text."""
        windows = f" ({counted(self.windows, 'window')})" if self.windows else ""
        size = f"{counted(self.clips, 'clip')}{windows}, {counted(self.classes, 'class', 'classes')}"
        yield f"data set     {self.dataset}: {size}, in {self.source}"
        for split, (train, test, validation) in self.splits.items():
            if train or test or validation:
                more = f", {validation} validation" if validation else ""
                yield f"split {split}      {train} train, {test} test{more}"
        left = f"{counted(self.clips_left, 'clip')} left to process"
        yield f"store        {self.store}: {counted(self.shards, 'shard')}, {left}"
        if self.seconds is None or self.store_bytes is None or self.work_bytes is None:
            yield "time, space  unknown: none of the trial clips could be processed"
        else:
            time = f"{self.seconds / 60:.1f} min" if self.seconds >= 60 else f"{self.seconds:.0f} s"
            yield f"time         about {time} with {counted(self.workers, 'worker')}"
            at_a_time = f"at a time in {self.scratch}" if self.scratch else f"in {self.work_dir}"
            work = f"{mebibytes(self.work_bytes)} {at_a_time}"
            yield f"space        about {mebibytes(self.store_bytes)} in the store, {work}"
        yield f"             (from {counted(len(self.sample), 'trial clip')} processed here: {', '.join(self.sample)})"
        for warning in (*self.warnings, *self.passed_over):
            yield f"warning      {warning}"
        for problem in self.problems:
            yield f"PROBLEM      {problem}"


def plan(options: Options) -> Plan:
    """Check the options and estimate the run; ``RunError`` if the run could not even start."""
    dataset, recipe = read_request(options)
    folders = options.folders(dataset)
    sample = measured(options, (dataset, recipe))
    few, many = _failing_clips(
        options.max_quarantined,
        (unreadable_clips(dataset, folders), min(OPENED, len(dataset.clips)), "clips tried cannot be opened"),
        (sample.failed, len(sample.ids), "trial clips would be quarantined"),
    )
    refused = refusal(options.location(), dataset, recipe)
    shards_left = _shards_left(None if refused else options.location(), dataset, recipe, folders)
    left = sum(shards_left)
    workers = options.workers or usable_cores()
    at_once = max(1, min(workers, len(shards_left)))
    cost = sample.cost or Cost(0, 0, 0)
    seconds = round(cost.seconds * left / at_once, 1)
    scratch = str(scratch_base(options.scratch_folder())) if options.discard_h264 else None
    with_files = sum(sorted(shards_left)[-at_once:]) if scratch else left  # clips that have H.264 files at a time
    store_bytes, work_bytes = round(cost.store_bytes * left), round(cost.work_bytes * with_files)
    work = ("scratch", scratch) if scratch else ("work_dir", folders.work_dir)
    free = {"store": free_bytes(options.location()), work[0]: free_bytes(work[1])}
    if scratch and not os.path.isdir(scratch):
        few.append(f"scratch: this machine has no folder {scratch!r}; the workers' machines must have it")
    return Plan(
        dataset=dataset.name,
        source=str(dataset.source),
        store=shown(options.location()),
        work_dir=folders.work_dir,
        clips=len(dataset.clips),
        windows=sum(clip.window is not None for clip in dataset.clips),
        classes=len(dataset.class_names),
        splits=split_counts(dataset),
        shards=schema.num_shards(len(dataset.clips), recipe.clips_per_shard),
        clips_left=left,
        workers=workers,
        sample=sample.ids,
        seconds=seconds if sample.cost else None,
        store_bytes=store_bytes if sample.cost else None,
        work_bytes=work_bytes if sample.cost else None,
        free=free,
        warnings=(*dataset.warnings, *few),
        passed_over=dataset.passed_over,
        problems=(
            *([refused] if refused else []),
            *many,
            *_space_problems(options, free, store_bytes, work_bytes, work),
        ),
        scratch=scratch,
    )


def split_counts(dataset: Dataset) -> dict[int, tuple[int, int, int]]:
    """The numbers of train, test and validation clips of each split."""
    counts = {}
    for index in range(NUM_SPLITS):
        parts = Counter(clip.split[index] for clip in dataset.clips)
        counts[index + 1] = (parts[TRAIN], parts[TEST], parts[VALIDATION])
    return counts


def unreadable_clips(dataset: Dataset, folders: Folders) -> dict[str, str]:
    """Try to open up to `OPENED` clips, spread over the data set; return the reason for each that fails, by id."""
    unreadable = {}
    for clip in dataset.limited(OPENED).clips:
        try:
            probe(source_path(clip, folders))
        except (ClipError, VideoError) as error:
            unreadable[clip.id] = str(error)
        except OSError as error:
            unreadable[clip.id] = error.strerror or str(error)
    return unreadable


def measured(options: Options, request: Request) -> Sample:
    """Process up to `SAMPLE` clips, spread over the data set, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="mocrop-plan-") as folder:
        dataset, recipe = request
        store = str(Path(folder, "sample.zarr"))
        seconds = 0.0
        failed: dict[str, str] = {}
        trial = replace(options, store=store, work_dir=None, discard_h264=False, scratch=None)
        with open_run(trial, (dataset.limited(SAMPLE), recipe)) as run:
            for stage in STAGES:
                for shard in run.pending(stage):
                    report = process_shard(shard, run.recipe)
                    seconds += report.seconds
                    failed |= report.quarantined
            ids = tuple(clip.id for clip in run.dataset.clips)
        if not (count := len(ids) - len(failed)):
            return Sample(ids, failed, None)
        cost = Cost(seconds / count, _tree_bytes(store) / count, _tree_bytes(f"{store}.work") / count)
        return Sample(ids, failed, cost)


def _failing_clips(allowed: float, *tried: tuple[dict[str, str], int, str]) -> tuple[list[str], list[str]]:
    """Lines about failing clips, separately for fractions that a run allows (``few``) and larger ones (``many``)."""
    few: list[str] = []
    many: list[str] = []
    for reasons, count, what in tried:
        examples = "; ".join(f"{id}: {reason}" for id, reason in list(reasons.items())[:SAMPLE])
        if reasons:
            lines = many if len(reasons) > allowed * count else few
            lines.append(f"{len(reasons)} of {count} {what} ({examples})")
    return few, many


def _shards_left(location: str | None, dataset: Dataset, recipe: Recipe, folders: Folders) -> list[int]:
    """The number of clips of each shard that is incomplete in the store or whose source files have changed.

    All shards if there is no store at ``location``, or it is None.
    """
    clips, step = len(dataset.clips), recipe.clips_per_shard
    shards: Sequence[int] = range(schema.num_shards(clips, step))
    if location is not None and is_made(location):
        store = open_store(location)
        ids, views = [clip.id for clip in dataset.clips], recipe.views
        known = RecordIndex(folders.work_dir, location).load()
        progress = Progress(store.zarr, recipe, ids, tables=False, known=known)
        clips_of = [dataset.clips[shard * step : (shard + 1) * step] for shard in shards]
        index = SourceIndex(folders.source, folders.work_dir)
        changed = set(progress.to_transcode(store.build, clips_of.__getitem__, index.fingerprints))
        done = {shard for shard in shards if all(progress.complete(shard, view) for view in views)} - changed
        shards = [shard for shard in shards if shard not in done]
    return [len(schema.shard_rows(shard, clips, step)) for shard in shards]


def _space_problems(
    options: Options, free: dict[str, int | None], store_bytes: int, work_bytes: int, work: tuple[str, str]
) -> Iterator[str]:
    name, folder = work
    same_disk = not is_url(options.store) and disk_of(options.location()) == disk_of(folder)
    needs = {"store": store_bytes + (work_bytes if same_disk else 0), name: work_bytes}
    for name, need in needs.items():
        available = free[name]
        if available is not None and available < need + SPARE:
            yield f"{name}: about {mebibytes(need)} are needed, {mebibytes(available)} are free"


def _tree_bytes(folder: str) -> int:
    return sum(os.path.getsize(os.path.join(parent, name)) for parent, _, names in os.walk(folder) for name in names)
