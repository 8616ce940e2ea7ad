"""A run: what is asked for, what is already done, what is left, and the tables that say so."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_specs import schema
from data_specs.datasets import Clip, Dataset, DatasetError, read_dataset
from data_specs.recipes import Recipe, RecipeError, load_recipe, view_params
from data_specs.stored import Attributes, Store, StoreError, attributes, is_url, open_store, shown, zarr_store
from pipelines import store as writing
from pipelines.ffmpeg import FfmpegError, find_ffmpeg
from pipelines.h264 import Folders
from pipelines.lock import StoreLocked, locked
from pipelines.progress import Progress, Summary, publish, summarise
from pipelines.space import SPARE, free_bytes, least_bytes, mebibytes
from pipelines.stages import ShardPlan, ShardReport
from pipelines.verify import DAMAGED


class RunError(Exception):
    """A run that cannot begin, or that cannot go on: one line for the user."""


@dataclass(frozen=True, slots=True)
class Options:
    """What ``mocrop preprocess`` was asked for; the names are those of its flags."""

    source: str
    store: str
    splits: str | None = None
    recipe: str | Recipe = "ucf101"
    work_dir: str | None = None
    workers: int | None = None
    dask_address: str | None = None
    limit: int | None = None
    strict: bool = False
    retry_quarantined: bool = False
    max_quarantined: float = 0.05

    def folders(self, dataset: Dataset) -> Folders:
        """The source and work folders, as absolute paths: other processes may start elsewhere."""
        work_dir = self.work_dir
        if work_dir is None:
            if is_url(self.store):
                raise RunError("work_dir: give a local folder for the H.264 files when the store is on an object store")
            work_dir = f"{self.store.rstrip('/')}.work"
        return Folders(str(dataset.source.resolve()), str(Path(work_dir).resolve()))

    def location(self) -> str:
        """The store's place, absolute if it is a folder."""
        return self.store if is_url(self.store) else str(Path(self.store).resolve())


def read_request(options: Options) -> tuple[Dataset, Recipe]:
    """The data set and the recipe that are asked for; ``RunError`` in one line for what does not fit."""
    if options.workers is not None and options.workers < 1:
        raise RunError(f"workers {options.workers}: give a number from 1 on")
    if not 0 <= options.max_quarantined <= 1:
        raise RunError(f"max_quarantined {options.max_quarantined}: give a share from 0 to 1")
    try:
        recipe = options.recipe if isinstance(options.recipe, Recipe) else load_recipe(options.recipe)
        dataset = read_dataset(options.source, options.splits, strict=options.strict).limited(options.limit)
    except (DatasetError, RecipeError) as error:
        raise RunError(str(error)) from None
    return dataset, recipe


class Run:
    """A store being filled. Made by ``open_run``, which holds the store's lock."""

    def __init__(self, options: Options, dataset: Dataset, recipe: Recipe) -> None:
        self.options = options
        self.dataset = dataset
        self.recipe = recipe
        self.location = options.location()
        self.folders = options.folders(dataset)
        self.zarr = zarr_store(self.location, read_only=False)
        self.num_shards = schema.num_shards(len(dataset.clips), recipe.shard_clips)

    @cached_property
    def build(self) -> str:
        """The ffmpeg build that the store was begun with."""
        (root,) = attributes(self.zarr, [""])
        assert root is not None
        return str(root["software"]["ffmpeg"])

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.dataset.warnings

    def clips_of(self, shard: int) -> tuple[Clip, ...]:
        """The clips of a shard, in the order of its rows."""
        rows = schema.shard_rows(shard, len(self.dataset.clips), self.recipe.shard_clips)
        return self.dataset.clips[rows.start : rows.stop]

    def pending(self, stage: str) -> list[ShardPlan]:
        """The tasks of a stage that are not done: no record, or one that was made from something else."""
        shards = Progress(self.zarr, self.recipe, self.num_shards)
        plans = []
        for shard in range(self.num_shards):
            clips = self.clips_of(shard)
            views = shards.missing(stage, shard, self.build, clips, self.folders)
            if views is not None:
                plans.append(self._plan(stage, shard, clips, views))
        return plans

    def _plan(self, stage: str, shard: int, clips: tuple[Clip, ...], views: Sequence[str]) -> ShardPlan:
        first = shard * self.recipe.shard_clips
        return ShardPlan(stage, shard, self.location, self.folders, self.build, first, clips, tuple(views))

    def summary(self) -> Summary:
        """Where the store stands now."""
        return summarise(self.location)

    def publish(self) -> Summary:
        """Write the tables from the records, and say where the store stands."""
        publish(self.location)
        return self.summary()

    def add_seconds(self, reports: Sequence[ShardReport]) -> None:
        """Add the time that tasks took to what the group ``progress`` says of each stage."""
        (found,) = attributes(self.zarr, ["progress"])
        seconds: dict[str, float] = defaultdict(float, (found or {}).get("seconds", {}))
        for report in reports:
            seconds[report.stage] += report.seconds
        writing.put_attributes(self.zarr, "progress", {"seconds": {key: round(seconds[key], 3) for key in seconds}})


@contextmanager
def open_run(options: Options) -> Iterator[Run]:
    """Check what is asked for, make or open the store, hold its lock; ``RunError`` in one line if that cannot be.

    On the way out, however the run ended, the tables are written from what was done and the lock is given back.
    """
    dataset, recipe = read_request(options)
    try:
        location = options.location()
        found = _existing(location)
        if found is None:
            _check_space(location, recipe, len(dataset.clips))
        with locked(location):
            recipe = _create(location, dataset, recipe) if found is None else _reopen(location, dataset, recipe)
            _sweep(location)
            run = Run(options, dataset, recipe)
            _forget_damaged(run)
            if options.retry_quarantined:
                _forget_quarantined(run)
            try:
                yield run
            finally:
                publish(location)
    except (StoreError, StoreLocked, FfmpegError) as error:
        raise RunError(str(error)) from error
    except OSError as error:
        raise RunError(f"{error.strerror or error} ({error.filename or shown(options.store)})") from error


def _existing(location: str) -> Attributes | None:
    """The root attributes of the store there, None if there is none yet or its making was cut short."""
    root, progress = attributes(zarr_store(location, read_only=True), ["", "progress"])
    if root is not None and "mocrop_format" in root:
        return root
    strange = root is not None and progress is None
    if not is_url(location) and root is None and progress is None:
        strange = os.path.isdir(location) and bool(set(os.listdir(location)) - {"progress"})
    if strange:
        raise StoreError(f"store {shown(location)!r}: something else is there; give a new place")
    return None


def _check_space(location: str, recipe: Recipe, clips: int) -> None:
    free, least = free_bytes(location), least_bytes(recipe, clips) + SPARE
    if free is not None and free < least:
        raise RunError(
            f"store {shown(location)!r}: {mebibytes(free)} are free, and at least {mebibytes(least)} needed; free some "
            "space, or ask for fewer clips, views or slots (mocrop plan measures more exactly)"
        )


def _create(location: str, dataset: Dataset, recipe: Recipe) -> Recipe:
    build = "not used" if recipe.transcode == "keep" else find_ffmpeg().build
    software = {name: version(name) for name in ("mocrop", "av", "numpy", "pillow", "zarr")}
    writing.create(location, dataset, recipe, {"ffmpeg": build, **software})
    return recipe


def _reopen(location: str, dataset: Dataset, recipe: Recipe) -> Recipe:
    """Check that the store is of this data set and recipe; make the arrays of views that are new."""
    store = open_store(location)
    if differences := [*_recipe_differences(store.recipe, recipe), *_dataset_differences(store, dataset)]:
        raise RunError(f"store {shown(location)!r} was made otherwise: {'; '.join(differences)}; give another --store")
    known = set(store.views)
    if new := tuple(view for view in recipe.views if view.name not in known):
        writing.add_views(location, recipe, new, len(dataset.clips))
    if new or recipe.name != store.recipe.name:
        root = writing.root_attributes(dataset, recipe, store.attrs["software"])
        writing.put_attributes(zarr_store(location, read_only=False), "", root)
    return recipe


def _recipe_differences(old: Recipe, new: Recipe) -> Iterator[str]:
    yield from _differences("", old.settings(), new.settings())
    views = {view.name: view for view in new.views}
    for view in old.views:
        if view.name not in views:
            yield f"view {view.name!r} is in the store and not in the recipe"
        else:
            yield from _differences(f"view {view.name!r} ", view_params(view), view_params(views[view.name]))


def _differences(where: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(f"{where}{key}.", old.get(key), new.get(key))
    elif old != new:
        yield f"{where.rstrip('.')} is {old!r} in the store, {new!r} asked for"


def _dataset_differences(store: Store, dataset: Dataset) -> Iterator[str]:
    ids = [clip.id for clip in dataset.clips]
    if ids != store.ids:
        gone, new = sorted(set(store.ids) - set(ids)), sorted(set(ids) - set(store.ids))
        examples = [f"{clips[0]!r} {what}" for clips, what in ((gone, "is gone"), (new, "is new")) if clips]
        yield f"it holds {len(store.ids)} clips, the source {len(ids)} ({', '.join(examples)})"
    elif list(dataset.class_names) != store.class_names:
        yield f"it has {len(store.class_names)} class names, these lists other ones ({len(dataset.class_names)})"
    elif [[clip.label, *clip.split] for clip in dataset.clips] != [
        [label, *split]
        for label, split in zip(store.table("label").tolist(), store.table("split").tolist(), strict=True)
    ]:
        yield "its labels or splits are not those of these lists"


def _sweep(location: str) -> None:
    """Remove the unfinished files that a killed run left in a local store."""
    if not is_url(location):
        for path in Path(location).rglob("*.partial"):
            path.unlink(missing_ok=True)


def _forget_damaged(run: Run) -> None:
    """Remove the records that ``mocrop verify`` found wrong, so that what they stand for is done again."""
    (found,) = attributes(run.zarr, [DAMAGED])
    for record in (found or {}).get("records", []):
        writing.remove_attributes(run.zarr, record)
    writing.remove_attributes(run.zarr, DAMAGED)


def _forget_quarantined(run: Run) -> None:
    """Remove the records of the stages that quarantined clips, so that those stages are done again."""
    progress = Progress(run.zarr, run.recipe, run.num_shards)
    for shard in range(run.num_shards):
        for record in progress.records_of(shard):
            if any(reason.startswith(f"{record.stage}: ") for reason in record.reasons.values()):
                writing.remove_attributes(run.zarr, record.path)
