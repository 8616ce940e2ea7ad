"""What a run would do, cost and need, found without touching the store: a few clips are done for real elsewhere."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data_specs import schema
from data_specs.datasets import TEST, TRAIN, Dataset
from data_specs.recipes import Recipe
from data_specs.resources import usable_cores
from data_specs.stored import is_url, open_store, shown
from pipelines.h264 import Folders
from pipelines.identity import is_made, refusal
from pipelines.preprocess import Options, open_run, read_request
from pipelines.progress import Progress
from pipelines.source_index import SourceIndex
from pipelines.space import SPARE, disk_of, free_bytes, mebibytes
from pipelines.stages import STAGES, process_shard

SAMPLE = 3  # clips that are done for real


@dataclass(frozen=True, slots=True)
class Cost:
    """What one clip costs on this machine: CPU seconds on one core, bytes in the store and in the work folder."""

    seconds: float
    store_bytes: float
    work_bytes: float


@dataclass(frozen=True, slots=True)
class Plan:
    """A dry run: what there is, what is left to do, and what that is expected to take.

    ``seconds`` is wall time with ``workers`` processes, of which no more have work than there are shards left;
    ``sample`` the clips that the expectation was measured on; ``free`` the bytes free where the store and the work
    folder are to be (None for an object store).
    """

    dataset: str
    source: str
    store: str
    work_dir: str
    clips: int
    classes: int
    splits: dict[int, tuple[int, int]]
    shards: int
    clips_left: int
    workers: int
    sample: tuple[str, ...]
    seconds: float
    store_bytes: int
    work_bytes: int
    free: dict[str, int | None]
    warnings: tuple[str, ...]
    problems: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON-like values."""
        return asdict(self)


def plan(options: Options) -> Plan:
    """Look at what is asked for and say what it would take; ``RunError`` for what could not even begin."""
    dataset, recipe = read_request(options)
    folders = options.folders(dataset)
    sample, cost = measured(options, dataset)
    refused = refusal(options.location(), dataset, recipe)
    shards_left = _shards_left(None if refused else options.location(), dataset, recipe, folders)
    left = sum(shards_left)
    workers = options.workers or usable_cores()
    at_once = max(1, min(workers, len(shards_left)))
    store_bytes, work_bytes = round(cost.store_bytes * left), round(cost.work_bytes * left)
    free = {"store": free_bytes(options.location()), "work_dir": free_bytes(folders.work_dir)}
    return Plan(
        dataset=dataset.name,
        source=str(dataset.source),
        store=shown(options.location()),
        work_dir=folders.work_dir,
        clips=len(dataset.clips),
        classes=len(dataset.class_names),
        splits=split_counts(dataset),
        shards=schema.num_shards(len(dataset.clips), recipe.shard_clips),
        clips_left=left,
        workers=workers,
        sample=sample,
        seconds=round(cost.seconds * left / at_once, 1),
        store_bytes=store_bytes,
        work_bytes=work_bytes,
        free=free,
        warnings=dataset.warnings,
        problems=(
            *([refused] if refused else []),
            *_space_problems(options, free, store_bytes, work_bytes, folders.work_dir),
        ),
    )


def split_counts(dataset: Dataset) -> dict[int, tuple[int, int]]:
    """Train and test clips of each split."""
    counts = {}
    for index in range(3):
        parts = Counter(clip.split[index] for clip in dataset.clips)
        counts[index + 1] = (parts[TRAIN], parts[TEST])
    return counts


def measured(options: Options, dataset: Dataset) -> tuple[tuple[str, ...], Cost]:
    """Do a few clips, spread over the data set, in a temporary folder that is removed again, and take their cost."""
    with tempfile.TemporaryDirectory(prefix="mocrop-plan-") as folder:
        limit = min(SAMPLE, len(dataset.clips))
        store = str(Path(folder, "sample.zarr"))
        seconds = 0.0
        with open_run(replace(options, store=store, work_dir=None, limit=limit, strict=False)) as run:
            for stage in STAGES:
                for shard in run.pending(stage):
                    seconds += process_shard(shard, run.recipe).seconds
            sample = tuple(clip.id for clip in run.dataset.clips)
        count = len(sample)
        return sample, Cost(seconds / count, _tree_bytes(store) / count, _tree_bytes(f"{store}.work") / count)


def _shards_left(location: str | None, dataset: Dataset, recipe: Recipe, folders: Folders) -> list[int]:
    """The clips of each shard that is not complete in the store at ``location``, or whose source files have changed.

    All shards where there is no store.
    """
    clips, step = len(dataset.clips), recipe.shard_clips
    shards: Sequence[int] = range(schema.num_shards(clips, step))
    if location is not None and is_made(location):
        store = open_store(location)
        progress, views = Progress(store.zarr, recipe, len(shards)), recipe.views
        clips_of = [dataset.clips[shard * step : (shard + 1) * step] for shard in shards]
        index = SourceIndex(folders.source, folders.work_dir)
        changed = set(progress.to_transcode(store.build, clips_of.__getitem__, index))
        done = {shard for shard in shards if all(progress.complete(shard, view) for view in views)} - changed
        shards = [shard for shard in shards if shard not in done]
    return [len(schema.shard_rows(shard, clips, step)) for shard in shards]


def _space_problems(
    options: Options, free: dict[str, int | None], store_bytes: int, work_bytes: int, work_dir: str
) -> Iterator[str]:
    same_disk = not is_url(options.store) and disk_of(options.location()) == disk_of(work_dir)
    needs = {"store": store_bytes + (work_bytes if same_disk else 0), "work_dir": work_bytes}
    for name, need in needs.items():
        there = free[name]
        if there is not None and there < need + SPARE:
            yield f"{name}: {mebibytes(need)} are expected to be needed, {mebibytes(there)} are free"


def _tree_bytes(folder: str) -> int:
    return sum(os.path.getsize(os.path.join(parent, name)) for parent, _, names in os.walk(folder) for name in names)
