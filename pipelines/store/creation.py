"""Creating a store, or checking, extending and repairing an existing one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from data_specs import schema
from data_specs.chain import transcode_inputs
from data_specs.datasets import Dataset
from data_specs.recipes import Recipe, automatic_shard_clips, view_params
from data_specs.records import TranscodeRow, read_records
from data_specs.stored import (
    Damaged,
    Store,
    StoreError,
    attributes,
    is_url,
    open_store,
    shown,
    zarr_store,
)
from pipelines.media.ffmpeg_binary import find_ffmpeg
from pipelines.store import specification
from pipelines.store import writer as writing
from pipelines.store.progress import other_revision
from pipelines.store.software import versions_here


def is_made(location: str) -> bool:
    """Return whether there is a completely created store with readable attributes at ``location``.

    Raises ``StoreError`` if the location holds something else.
    """
    if os.path.isfile(location) and not is_url(location):
        raise StoreError(f"store {shown(location)!r} is a file; give a folder that does not exist yet")
    zarr = zarr_store(location, read_only=True)
    try:
        (root,) = attributes(zarr, [""])
        if root is not None and "mocrop_format" in root:
            open_store(location)
            return True
    except Damaged:
        root = {}
    try:
        has_progress = attributes(zarr, ["progress"]) != [None]
    except Damaged:
        has_progress = True
    foreign = root is not None and not has_progress
    if not is_url(location) and root is None and not has_progress:
        foreign = os.path.isdir(location) and bool(set(os.listdir(location)) - {"progress"})
    if foreign:
        raise StoreError(f"store {shown(location)!r}: the location holds something else; choose a new one")
    return False


def make_or_reopen(location: str, dataset: Dataset, recipe: Recipe) -> None:
    """Create the store, or check that an existing one matches data set and recipe, add new views and repair it.

    The attributes and tables that follow from data set and recipe are repaired. Raises ``StoreError``, which lists the
    differences, for a store that was created with other settings.
    """
    zarr = zarr_store(location, read_only=False)
    if not is_made(location):
        build = _build(recipe)
        _check_remains(location, dataset, recipe, build)
        writing.create(location, dataset, recipe, {"ffmpeg": build, **versions_here()})
        return
    store = open_store(location)
    same = _software(store, dataset, recipe)
    software = same or _checked(store, dataset, recipe)
    writing.repair_documents(zarr, recipe, len(dataset.clips))
    writing.repair_tables(zarr, dataset)
    root = writing.root_attributes(dataset, recipe, software, store.fingerprint if same else None)
    if root != store.attrs:
        writing.put_attributes(zarr, "", root)


def refusal(location: str, dataset: Dataset, recipe: Recipe) -> str:
    """Why `make_or_reopen` would refuse, "" if it would not. Writes nothing; ``StoreError`` if no server answers."""
    with suppress(Damaged):
        attributes(zarr_store(location, read_only=True), [""])
    try:
        if is_made(location):
            store = open_store(location)
            _software(store, dataset, recipe) or _checked(store, dataset, recipe)
        else:
            _check_remains(location, dataset, recipe, _build(recipe))
    except StoreError as error:
        return str(error)
    return ""


def _build(recipe: Recipe) -> str:
    return "not used" if recipe.transcode == "keep" else find_ffmpeg().build


def _software(store: Store, dataset: Dataset, recipe: Recipe) -> dict[str, str] | None:
    """The versions that a store was made with if its fingerprint is exactly the requested one, else None.

    With the right fingerprint, any other difference in its attributes and tables is damage.
    """
    stored: dict[str, str] = store.attrs["software"]
    if store.fingerprint == specification.store_fingerprint(dataset, recipe, stored):
        return stored
    here = {**stored, "ffmpeg": _build(recipe)}
    return here if store.fingerprint == specification.store_fingerprint(dataset, recipe, here) else None


def _checked(store: Store, dataset: Dataset, recipe: Recipe) -> dict[str, str]:
    """The versions that a store was made with; ``StoreError`` if it differs in more than views it lacks."""
    if problem := other_revision(store):
        raise StoreError(problem)
    software: dict[str, str] = store.attrs["software"]
    differences = list(_recipe_differences(_sized_like(store, dataset, recipe), recipe))
    if store.fingerprint != specification.store_fingerprint(dataset, store.recipe, software):
        differences += _dataset_differences(store, dataset)
    if differences:
        where = shown(store.location)
        differing = "; ".join(differences)
        raise StoreError(
            f"store {where!r} was created with other settings: {differing}; the clips and settings of a store are "
            "fixed: choose another --store, with this one's folder of H.264 files as --work-dir to reuse them"
        )
    return software


def _sized_like(store: Store, dataset: Dataset, recipe: Recipe) -> Recipe:
    """A store's recipe; with the requested shards if both follow the number of clips, which is reported itself."""
    automatic = (automatic_shard_clips(len(store.ids)), automatic_shard_clips(len(dataset.clips)))
    if (store.recipe.shard_clips, recipe.shard_clips) != automatic:
        return store.recipe
    return store.recipe.model_copy(update={"shard_clips": recipe.shard_clips})


def _check_remains(location: str, dataset: Dataset, recipe: Recipe, build: str) -> None:
    """Raise ``StoreError`` if a store that lost its attributes holds work that was made with other settings."""
    zarr = zarr_store(location, read_only=True)
    clips, step = dataset.clips, recipe.clips_per_shard
    records = read_records(zarr, TranscodeRow, None, range(schema.num_shards(len(clips), step)))
    expected = {shard: transcode_inputs(recipe, build, clips[shard * step : (shard + 1) * step]) for shard in records}
    same = all(records[shard].inputs == inputs for shard, inputs in expected.items())
    for view in recipe.views if records else ():
        try:
            (group,) = attributes(zarr, [f"views/{view.name}"])
        except Damaged:
            continue
        same &= group is None or group.get("fingerprint") == specification.view_fingerprint(recipe, view_params(view))
    if not same:
        raise StoreError(
            f"store {shown(location)!r}: its zarr.json is missing or damaged, and its contents were made with another "
            "recipe, data set, ffmpeg or version of mocrop; give those it was made with, or another --store"
        )


def _recipe_differences(old: Recipe, new: Recipe) -> Iterator[str]:
    yield from _differences("", old.settings(), new.settings())
    views = {view.name: view for view in new.views}
    for view in old.views:
        if view.name not in views:
            yield f"view {view.name!r} is in the store and not in the recipe"
        else:
            yield from _differences(f"view {view.name!r} ", view_params(view), view_params(views[view.name]))


def _differences(where: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(f"{where}{key}.", old.get(key), new.get(key))
    elif old != new:
        yield f"{where.rstrip('.')} is {old!r} in the store, {new!r} requested"


def _dataset_differences(store: Store, dataset: Dataset) -> Iterator[str]:
    ids = [clip.id for clip in dataset.clips]
    if ids != store.ids:
        missing, new = sorted(set(store.ids) - set(ids)), sorted(set(ids) - set(store.ids))
        examples = [f"{clips[0]!r} {what}" for clips, what in ((missing, "is missing"), (new, "is new")) if clips]
        yield f"it holds {len(store.ids)} clips, the source {len(ids)} ({', '.join(examples)})"
    elif list(dataset.class_names) != store.class_names:
        yield f"its {len(store.class_names)} class names differ from the {len(dataset.class_names)} of the lists"
    else:
        names = [
            name
            for name, values in specification.dataset_tables(dataset).items()
            if not _same(store.table(name), values)
        ]
        if names:
            yield f"its {', '.join(names)} {'differs' if len(names) == 1 else 'differ'} from the lists"


def _same(stored: npt.NDArray[Any], values: npt.NDArray[Any]) -> bool:
    return np.array_equal(stored, values, equal_nan=values.dtype.kind == "f")
