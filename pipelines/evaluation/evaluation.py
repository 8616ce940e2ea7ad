"""``mocrop evaluate``: means by class and view with intervals, from a store and annotations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_specs.annotation_files import read_annotations
from data_specs.annotations import AnnotationError, match, of_windows
from data_specs.locations import shown
from data_specs.stored import StoreError, open_store
from mocrop_core.bootstrap import LEVELS, RESAMPLES, SEED, intervals, resampled_means
from pipelines.evaluation.coverage import WAYS, Coverage, coverage, mismatches, stored_boxes
from pipelines.evaluation.groups import Groups, groups_of
from pipelines.store.progress import Progress
from pipelines.store.record_blocks import block_reader

ALL = None
"""The class of rows over all clips; no real class can have this name."""
MEASURES = ("kept", "mostly")
"""The mean share of an actor's box that is inside, and the share of actor boxes of which at least 90 % is inside."""

Row = dict[str, Any]
OnClip = Callable[[int, int], None]


def _silent(done: int, total: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The results. ``rows``: as in `rows_of`; ``problems``: annotations that do not match, by clip id.

    Of the ``annotated`` clips, ``clips`` were evaluated, with ``boxes`` actor boxes; the boxes of ``scaled`` clips were
    scaled from a different frame size; ``unannotated`` of the store's ``stored`` clips have no annotation.
    """

    store: str
    annotations: str
    annotated: int
    clips: int
    stored: int
    boxes: int
    scaled: int
    unannotated: int
    groups: int
    grouped: str
    rows: list[Row]
    problems: dict[str, list[str]]


def evaluate(
    location: str, annotations: Path, group_by: str | None = None, on_read: OnClip = _silent, on_clip: OnClip = _silent
) -> Evaluation:
    """Measure how much of the annotated actors the views of a store keep.

    ``group_by``: as in `groups_of`. ``on_read`` and ``on_clip`` report progress. Raises a one-line ``StoreError`` for
    an unreadable store or annotations, and if no annotated clip can be evaluated.
    """
    store = open_store(location)
    try:
        known = read_annotations(annotations, on_read)
    except AnnotationError as error:
        raise StoreError(str(error)) from None
    records = block_reader(store)
    tables = {"label": store.table("label"), **Progress.of(store).tables()}
    known = of_windows(known, store.ids, store.table("video").tolist(), tables["first_frame"], tables["num_frames"])
    matched = match(known, store.ids, tables["num_frames"], tables["frame_size"])
    boxes_of = stored_boxes(lambda view, shard: records(shard).boxes[view][shard], store.recipe, store.ids, tables)
    found = coverage(matched, store.recipe, tables, boxes_of, on_clip)
    problems = mismatches(found, store.recipe, store.ids, tables, matched)
    if not found.rows:
        first = next(iter(problems.items()), None)
        why = f"; such as {first[0]!r}: {first[1][0]}" if first else ""
        raise StoreError(
            f"none of the {len(known)} annotated clips of {str(annotations)!r} can be evaluated in "
            f"{shown(location)!r}{why}. An id of that store is {store.ids[0]!r}"
        )
    groups = groups_of([store.ids[row] for row in found.rows], group_by, store.table("group")[found.rows].tolist())
    labels = [int(tables["label"][row]) for row in found.rows]
    return Evaluation(
        shown(location),
        str(annotations),
        len(known),
        len(found.rows),
        len(store.ids),
        sum(found.boxes),
        matched.scaled,
        len(set(store.ids) - known.keys()),
        len(set(groups.names)),
        groups.about,
        rows_of(found, labels, store.class_names, groups),
        problems,
    )


def rows_of(found: Coverage, labels: Sequence[int], class_names: Sequence[str], groups: Groups) -> list[Row]:
    """One row per view over all clips (``class`` is None), then one per class and view; all clips have equal weight.

    For each of `MEASURES`: its mean for the view's own box, then with ``_centre``, ``_random`` and ``_best``, then
    ``_minus_centre`` and the bounds of its intervals, such as ``_low_90`` and ``_high_90``, from the bootstrap over
    groups; None if there is only one group.
    """
    chosen: list[tuple[str | None, Any]] = [(ALL, np.ones(len(labels), bool))]
    for label in sorted(set(labels)):
        known = 0 <= label < len(class_names)
        chosen.append((class_names[label] if known else "no class", np.asarray(labels) == label))
    names, rows = np.asarray(groups.names), []
    for name, clips in chosen:
        tables = np.stack([np.stack([view.mean, view.mostly]) for view in found.views])[:, :, clips]
        differences = tables[..., 0] - tables[..., WAYS.index("centre")]  # (views, measures, clips)
        ends = _ends(differences.reshape(-1, differences.shape[-1]).T, names[clips])
        for number, view in enumerate(found.views):
            count = len(set(names[clips]))
            row: Row = {"class": name, "view": view.name, "clips": int(clips.sum()), "groups": count}
            row["area"] = _rounded(view.area[clips].mean())
            for place, measure in enumerate(MEASURES):
                means = tables[number, place].mean(axis=0)
                row[measure] = _rounded(means[0])
                row |= {f"{measure}_{way}": _rounded(mean) for way, mean in zip(WAYS[1:], means[1:], strict=True)}
                row[f"{measure}_minus_centre"] = _rounded(differences[number, place].mean())
                own = None if ends is None else ends[number * len(MEASURES) + place]
                for i, level in enumerate(LEVELS):
                    for j, end in enumerate(("low", "high")):
                        row[f"{measure}_{end}_{100 * level:.0f}"] = None if own is None else _rounded(own[i, j])
            rows.append(row)
    return rows


def bootstrap_settings() -> dict[str, Any]:
    """The settings of the bootstrap."""
    return {"resamples": RESAMPLES, "seed": SEED, "levels": list(LEVELS), "unit": "group"}


def _ends(values: Any, groups: Any) -> Any:
    """The intervals of the means of columns, (columns, levels, 2); None for a single group."""
    if len(set(groups)) < 2:
        return None
    return intervals(resampled_means(values, groups, np.random.default_rng(SEED)))


def _rounded(value: float) -> float:
    return round(float(value), 6) + 0.0
