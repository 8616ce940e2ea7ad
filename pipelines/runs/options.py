"""The options of a run, as given to ``mocrop preprocess``, and their validation."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from data_specs.datasets import Dataset, DatasetError, read_dataset
from data_specs.locations import SAFE, expanded
from data_specs.recipes import Recipe, RecipeError, load_recipe
from data_specs.stored import StoreError, check_location, is_url, shown
from pipelines.errors import RunError
from pipelines.internal_errors import LOGS
from pipelines.stages.h264_cache import Folders, default_work_dir


@dataclass(frozen=True, slots=True)
class Options:
    """The options of ``mocrop preprocess``, named like its flags. ``~`` in paths is expanded."""

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
    max_missing: float | None = None
    clips: str | None = None
    class_names: str | None = None
    discard_h264: bool = False
    scratch: str | None = None

    def __post_init__(self) -> None:
        for name in ("source", "store", "splits", "recipe", "work_dir", "clips", "class_names", "scratch"):
            path = getattr(self, name)
            if isinstance(path, str):
                try:
                    object.__setattr__(self, name, expanded(path))
                except ValueError as error:
                    raise RunError(f"{name} {error}") from None

    def folders(self, dataset: Dataset) -> Folders:
        """The source and work folders as absolute paths, as other processes may have another current folder."""
        return Folders(str(dataset.source.resolve()), self.work_folder())

    def work_folder(self) -> str:
        """The work folder as an absolute path; ``RunError`` if it is not given for a store on an object store."""
        if self.work_dir is None and is_url(self.store):
            files = "indexes and logs" if self.discard_h264 else "H.264 files"
            raise RunError(f"work_dir: give a local folder for the {files} when the store is on an object store")
        return str(Path(self.work_dir or default_work_dir(self.store)).resolve())

    def scratch_folder(self) -> str | None:
        """The scratch folder as an absolute path on the machines of the workers; None for that of temporary files."""
        return None if self.scratch is None else os.path.abspath(self.scratch)

    def log_folder(self) -> Path | None:
        """The folder for log files, below the work folder; None if that is unknown."""
        if self.work_dir is None and is_url(self.store):
            return None
        return Path(self.work_dir or f"{self.store.rstrip('/')}.work", LOGS).resolve()

    def location(self) -> str:
        """The store's URL, or its folder as an absolute path."""
        return self.store if is_url(self.store) else str(Path(self.store).resolve())


Request = tuple[Dataset, Recipe]
"""The data set and the recipe of a run."""


def read_request(options: Options) -> Request:
    """Read the data set and the recipe that the options name; ``RunError`` for an invalid option.

    ``shard_clips`` of the recipe is a number.
    """
    if options.workers is not None and options.workers < 1:
        raise RunError(f"workers {options.workers}: give at least 1")
    if not 0 <= options.max_quarantined <= 1:
        raise RunError(f"max_quarantined {options.max_quarantined}: give a fraction from 0 to 1")
    if options.max_missing is not None and not 0 <= options.max_missing <= 1:
        raise RunError(f"max_missing {options.max_missing}: give a fraction from 0 to 1")
    if options.scratch is not None and not options.discard_h264:
        raise RunError(
            f"scratch {options.scratch!r}: only a run with --discard-h264 uses it; add that, or leave it out"
        )
    try:
        check_location(options.store)
        _check_places(options)
        recipe = options.recipe if isinstance(options.recipe, Recipe) else load_recipe(options.recipe)
        if options.max_missing is not None:
            recipe = recipe.model_copy(update={"max_missing": options.max_missing})
        dataset = read_dataset(
            options.source, options.splits, options.clips, options.class_names, strict=options.strict
        ).limited(options.limit)
    except (DatasetError, RecipeError, StoreError) as error:
        raise RunError(str(error)) from None
    return dataset, recipe.sized_for(len(dataset.clips))


def _check_places(options: Options) -> None:
    """Raise ``RunError`` for a URL instead of a local path, and for secrets in a URL, which Prefect would store."""
    for name in ("source", "splits", "work_dir", "clips", "class_names", "scratch"):
        place = getattr(options, name)
        if place is not None and is_url(place):
            kind = "file" if name in ("clips", "class_names") else "folder"
            raise RunError(f"{name} {shown(place)!r}: give a local {kind}; only the store may be on an object store")
    if options.scratch and Path(options.scratch).resolve().is_relative_to(Path(options.source).resolve()):
        raise RunError(
            f"scratch {options.scratch!r}: it is inside the source folder, where its files would count as videos; give "
            "a folder elsewhere"
        )
    for name in ("source", "store", "splits", "work_dir", "recipe", "dask_address", "clips", "class_names", "scratch"):
        place = getattr(options, name)
        if isinstance(place, str) and not re.fullmatch(SAFE, place):
            raise RunError(
                f"{name} {shown(place)!r}: an address with a password or a query is refused, because Prefect's server "
                "would store it"
            )
