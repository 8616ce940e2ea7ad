"""What a store is asked to hold: the tables of its data set, and the fingerprints of store and views."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from data_specs.chain import REVISION
from data_specs.datasets import Dataset
from data_specs.fingerprints import fingerprint
from data_specs.objects import Attributes
from data_specs.recipes import Recipe, view_params
from data_specs.stored import Store


def dataset_tables(dataset: Dataset) -> dict[str, npt.NDArray[Any]]:
    """The tables that follow from the data set, by name."""
    clips = dataset.clips
    bounds = [(math.nan, math.nan) if clip.window is None else (clip.start, clip.end) for clip in clips]
    return {
        "id": np.array([clip.id for clip in clips], dtype=object),
        "label": np.array([clip.label for clip in clips], dtype=np.int16),
        "split": np.array([clip.split for clip in clips], dtype=np.uint8).reshape(-1, 3),
        "group": np.array([clip.group for clip in clips], dtype=object),
        "video": np.array([clip.video for clip in clips], dtype=object),
        "window": np.array(bounds, dtype=np.float64).reshape(-1, 2),
    }


def store_fingerprint(dataset: Dataset, recipe: Recipe, software: Mapping[str, str]) -> str:
    """The fingerprint of a store's specification: clips, classes, splits, recipe, ffmpeg build and revision."""
    rows = ([clip.id, clip.label, clip.split, clip.group, clip.video, clip.start, clip.end] for clip in dataset.clips)
    return _store_fingerprint(REVISION, rows, dataset.class_names, recipe, software["ffmpeg"])


def stored_fingerprint(store: Store) -> str:
    """`store_fingerprint` computed from the contents of a store."""
    columns = (store.ids, *(store.table(name).tolist() for name in ("label", "split", "group")), store.windows)
    rows = ([*row, *(window or ("", None, None))] for *row, window in zip(*columns, strict=True))
    return _store_fingerprint(store.revision, rows, store.class_names, store.recipe, store.build)


def _store_fingerprint(
    revision: int, rows: Iterator[list[Any]], class_names: Sequence[str], recipe: Recipe, build: str
) -> str:
    views = {view.name: view_params(view) for view in recipe.views}
    return fingerprint("store", revision, rows, list(class_names), recipe.settings(), views, build)


def view_fingerprint(recipe: Recipe, params: Attributes) -> str:
    """The fingerprint of the settings of a view's boxes and crops."""
    return fingerprint("view", recipe.settings(), params)
