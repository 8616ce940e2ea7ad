"""How much of the annotated actors each view of a store keeps, and how much boxes of the same area keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data_specs.annotations import ActorBoxes, Matched
from data_specs.recipes import Recipe, moves
from data_specs.records import BoxRow, Record
from mocrop_core.coverage import (
    best_static_box,
    central_box,
    mostly_kept,
    random_shares,
    shares_kept,
    shares_kept_each,
)

Floats = npt.NDArray[np.float64]
Tables = Mapping[str, npt.NDArray[Any]]
BoxesOf = Callable[[str, int, npt.NDArray[np.int64]], Floats]
"""The boxes (n, 4), px, for a view's name, a clip's row and n frame numbers."""

WAYS = ("view", "centre", "random", "best")
"""The compared boxes: the view's own, and of exactly its area: in the middle of the frame, at random positions,
and the static one that keeps most of the actors."""


@dataclass(frozen=True, slots=True, eq=False)
class ViewCoverage:
    """How much a view, and boxes of its area, keep of each clip, in the order of ``Coverage.rows``.

    ``area`` (n,): the box's share of the frame. ``mean`` and ``mostly`` (n, 4), one column per entry of `WAYS`: the
    mean share of an actor's box that is inside, and the share of actor boxes of which at least 90 % is inside.
    """

    name: str
    kind: str
    area: Floats
    mean: Floats
    mostly: Floats


@dataclass(frozen=True, slots=True)
class Coverage:
    """What the views keep of the annotated clips ``rows``; ``boxes`` counts the actor boxes of each."""

    rows: list[int]
    boxes: list[int]
    views: list[ViewCoverage]


def coverage(
    matched: Matched,
    recipe: Recipe,
    tables: Tables,
    boxes_of: BoxesOf,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
) -> Coverage:
    """How much of the actors each view, and boxes of exactly its area, keep.

    ``tables`` are the store's, by path; ``boxes_of`` gives its boxes by frame, like `stored_boxes`. Clips without a box
    in some view are left out, so that all views are compared on the same clips. ``on_clip`` reports progress.
    """
    rows = [row for row in sorted(matched.boxes) if not views_without_box(recipe, tables, row)]
    found = np.empty((len(recipe.views), 9, len(rows)))
    for number, row in enumerate(rows):
        found[:, :, number] = _of_clip(matched.boxes[row], recipe, tables, boxes_of, row)
        on_clip(number + 1, len(rows))
    views = [
        ViewCoverage(view.name, view.kind, values[0], values[1:5].T, values[5:].T)
        for view, values in zip(recipe.views, found, strict=True)
    ]
    return Coverage(rows, [len(matched.boxes[row].frame) for row in rows], views)


def stored_boxes(
    record_of: Callable[[str, int], Record[BoxRow]], recipe: Recipe, ids: Sequence[str], tables: Tables
) -> BoxesOf:
    """The boxes of a store: those in the records of the stage boxes for views that move; else one box for all frames.

    ``record_of`` returns the record of the stage boxes of a view and shard; ``ids`` and ``tables`` are the store's.
    """
    moving = {view.name for view in recipe.views if moves(view)}

    def boxes_of(view: str, row: int, frames: npt.NDArray[np.int64]) -> Floats:
        if view not in moving:
            return np.broadcast_to(tables[f"views/{view}/box"][row].astype(np.float64), (len(frames), 4))
        chosen = record_of(view, row // recipe.clips_per_shard).clips[ids[row]]
        different, places = np.unique(frames, return_inverse=True)
        return np.array([chosen.box_at(int(frame)).corners for frame in different], np.float64)[places]

    return boxes_of


def views_without_box(recipe: Recipe, tables: Tables, row: int) -> list[str]:
    """The views without a box for a clip."""
    return [view.name for view in recipe.views if not tables[f"views/{view.name}/source"][row]]


def mismatches(
    found: Coverage, recipe: Recipe, ids: Sequence[str], tables: Tables, matched: Matched
) -> dict[str, list[str]]:
    """The problems by clip id: those in ``matched``, and views without a box."""
    lines = {id: list(own) for id, own in matched.problems.items()}
    for row in sorted(set(matched.boxes) - set(found.rows)):
        without = ", ".join(views_without_box(recipe, tables, row))
        lines.setdefault(ids[row], []).append(f"left out: no box in {without}")
    return lines


def _of_clip(actors: ActorBoxes, recipe: Recipe, tables: Tables, boxes_of: BoxesOf, row: int) -> Floats:
    """(views, 9): the area, then for each of `WAYS` the mean shares, then the shares mostly kept."""
    size = int(tables["frame_size"][row][0]), int(tables["frame_size"][row][1])
    unique, counts = np.unique(actors.box, axis=0, return_counts=True)
    weights = counts / counts.sum()
    controls: dict[float, tuple[tuple[float, float], tuple[float, float], Floats]] = {}
    values = []
    for view in recipe.views:
        boxes = boxes_of(view.name, row, actors.frame)
        shares = shares_kept_each(actors.box, boxes)
        own = float(shares.mean()), float(mostly_kept(shares).mean())
        area = min(1.0, float((boxes[:, 2:] - boxes[:, :2]).prod(axis=1).mean()) / (size[0] * size[1]))
        if area not in controls:
            middle = central_box(size, area)
            mean, mostly = random_shares(unique, size, area)
            best = best_static_box(unique, counts, size, area, middle)
            controls[area] = _kept(unique, weights, middle), (float(mean @ weights), float(mostly @ weights)), best
        centre, anywhere, best = controls[area]
        found = _kept(unique, weights, best)
        if (boxes == boxes[0]).all() and own[0] > found[0]:  # the search is accurate to a fraction of a pixel
            found = own
        values.append([area, *np.transpose([own, centre, anywhere, found]).ravel()])
    return np.array(values)


def _kept(actors: Floats, weights: Floats, box: Floats) -> tuple[float, float]:
    """The mean share, and the share mostly kept."""
    shares = shares_kept(actors, box[None])[0]
    return float(shares @ weights), float(mostly_kept(shares) @ weights)
