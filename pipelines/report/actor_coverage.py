"""How much of the actor a crop keeps, for the views of a store, for fixed boxes and for the best that a grid allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data_specs.annotations import ActorBoxes, Matched
from data_specs.recipes import FixedView, MotionView, Recipe, view_rng
from mocrop_core import ActorMethod, Box, Method, Rectangle, candidate_sizes, centre_box, pixel_box, random_box
from mocrop_core.free_box import STEPS, box_shapes, pixel_size, placed_box

Shares = npt.NDArray[np.float64]
Tables = dict[str, npt.NDArray[Any]]
MOSTLY = 0.9  # a frame counts as kept from this share of the actor's box on

BOX, REFERENCE, BEST = "view", "reference", "best"


def shares_kept(actors: npt.NDArray[np.float64], crops: npt.NDArray[Any]) -> Shares:
    """The share of each actor's box that lies inside each crop.

    actors: (n, 4) and crops: (m, 4), x0, y0, x1, y1 in px; the actors' areas are above 0. Returns (m, n), 0 to 1.
    """
    low = np.maximum(actors[None, :, :2], crops[:, None, :2])
    high = np.minimum(actors[None, :, 2:], crops[:, None, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    whole: Shares = common / (actors[:, 2:] - actors[:, :2]).prod(axis=1)
    return whole


def best_box(actors: npt.NDArray[np.float64], view: MotionView, frame_size: tuple[int, int]) -> Box:
    """The box, of all that a motion view may choose, that keeps most of the actors in the mean.

    It looks at the answer: no method can keep more on this grid with one box a clip. Of equal ones the first visited
    (heights, widths, top rows, left columns, rising) wins. ``frame_size`` is (height, width), px.
    """
    boxes = _candidate_boxes(view.method(), frame_size)
    unique, counts = np.unique(actors, axis=0, return_counts=True)
    corners = np.array([box.corners for box in boxes])
    step = max(1, 2_000_000 // max(1, len(unique)))
    kept = np.concatenate(
        [shares_kept(unique, part) @ counts for part in np.split(corners, range(step, len(boxes), step))]
    )
    return boxes[int(kept.argmax())]


def _candidate_boxes(method: Method | ActorMethod, frame_size: tuple[int, int]) -> list[Box]:
    """The boxes that a method may choose among in a frame without black bars."""
    if isinstance(method, ActorMethod):
        steps, picture = range(STEPS + 1), (0, 0, frame_size[1], frame_size[0])
        return [
            placed_box(pixel_size(shape, row, column, frame_size), row, column, picture)
            for shape in box_shapes(method.crop_ratio, method.aspect, frame_size)
            for row in steps
            for column in steps
        ]
    rows, cols = method.grid
    rectangles = [
        Rectangle(row, col, row + h, col + w)
        for h, w in candidate_sizes(method.grid, method.crop_ratio, method.tolerance)
        for row in range(rows - h + 1)
        for col in range(cols - w + 1)
    ]
    return [pixel_box(rectangle, method.grid, frame_size) for rectangle in rectangles]


@dataclass(frozen=True, slots=True)
class Series:
    """One way to choose the box, and what it keeps: a row of the table.

    ``mean`` and ``mostly`` are by clip (in the order of ``Kept.rows``): the mean share of the actor's box inside the
    crop, and the share of actor boxes of which at least 90 % is inside; ``area`` is the box's share of the frame.
    """

    name: str
    kind: str
    about: str
    mean: Shares
    mostly: Shares
    area: Shares


@dataclass(frozen=True, slots=True)
class Kept:
    """What each series keeps of the actors of the annotated clips ``rows``; ``boxes`` counts actor boxes a clip."""

    rows: list[int]
    boxes: list[int]
    series: list[Series]


def kept(matched: Matched, recipe: Recipe, ids: Sequence[str], tables: Tables) -> Kept:
    """What is kept of the actors by each view, by fixed boxes of the same area and by the best box of the grid.

    A fixed box of a motion view's crop ratio is added where the recipe has no such view: just the box that it would
    have. ``tables`` are the store's, by path. Clips without a box in some view are left out.
    """
    rows = [row for row in sorted(matched.boxes) if _has_boxes(recipe, tables, row)]
    sizes = [(int(h), int(w)) for h, w in tables["frame_size"][rows]]
    actors = [matched.boxes[row] for row in rows]
    series = [
        _series(view.name, BOX, "a view of the store", actors, sizes, tables[f"views/{view.name}/box"][rows])
        for view in recipe.views
    ]
    for fixed in _missing_controls(recipe):
        rule = (
            f"a box of {fixed.crop_ratio:.0%} of the frame, {'at the centre' if fixed.kind == 'centre' else 'anywhere'}"
        )
        boxes = [_fixed_box(fixed, recipe.seed, ids[row], size) for row, size in zip(rows, sizes, strict=True)]
        series.append(_series(fixed.name, REFERENCE, rule, actors, sizes, _corners(boxes)))
    for view in recipe.views:
        if isinstance(view, MotionView):
            grid = "×".join(map(str, view.method().grid))
            rule = f"the rectangle of the {grid} grid that keeps most of the actor: found with the actor boxes"
            boxes = [best_box(one.box, view, size) for one, size in zip(actors, sizes, strict=True)]
            series.append(_series(f"best for {view.name}", BEST, rule, actors, sizes, _corners(boxes)))
    return Kept(rows, [len(one.frame) for one in actors], series)


def _has_boxes(recipe: Recipe, tables: Tables, row: int) -> bool:
    return all(tables[f"views/{view.name}/source"][row] for view in recipe.views)


def _missing_controls(recipe: Recipe) -> list[FixedView]:
    """The fixed views of the motion views' areas that the recipe has not."""
    there = {(view.kind, view.crop_ratio) for view in recipe.views if isinstance(view, FixedView)}
    ratios = dict.fromkeys(view.method().crop_ratio for view in recipe.views if isinstance(view, MotionView))
    wanted = [(kind, ratio) for ratio in ratios for kind in ("centre", "random")]
    return [
        FixedView(kind=kind, name=f"{kind}-{ratio:g}", crop_ratio=ratio)
        for kind, ratio in wanted
        if (kind, ratio) not in there
    ]


def _fixed_box(view: FixedView, seed: int, id: str, frame_size: tuple[int, int]) -> Box:
    if view.kind == "centre":
        return centre_box(frame_size, view.crop_ratio)
    return random_box(frame_size, view.crop_ratio, view_rng(view, seed, id))


def _corners(boxes: Sequence[Box]) -> npt.NDArray[np.int64]:
    return np.array([box.corners for box in boxes], np.int64).reshape(-1, 4)


def _series(
    name: str,
    kind: str,
    about: str,
    actors: Sequence[ActorBoxes],
    sizes: Sequence[tuple[int, int]],
    boxes: npt.NDArray[Any],
) -> Series:
    shares = [shares_kept(one.box, box[None])[0] for one, box in zip(actors, boxes, strict=True)]
    areas = [(x1 - x0) * (y1 - y0) / (h * w) for (x0, y0, x1, y1), (h, w) in zip(boxes, sizes, strict=True)]
    mean, mostly = [one.mean() for one in shares], [(one >= MOSTLY - 1e-12).mean() for one in shares]
    return Series(name, kind, about, np.array(mean), np.array(mostly), np.array(areas, np.float64))


def as_json(found: Kept, labels: npt.NDArray[Any], problems: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The numbers of the page: overall and by class each clip counts the same; clips stand by row."""
    classes = sorted({int(labels[row]) for row in found.rows})
    of_class = {label: [i for i, row in enumerate(found.rows) if labels[row] == label] for label in classes}
    return {
        "rows": found.rows,
        "boxes": found.boxes,
        "series": [
            {
                "name": one.name,
                "kind": one.kind,
                "about": one.about,
                "area": _mean(one.area),
                "mean": _mean(one.mean),
                "mostly": _mean(one.mostly),
                "clips": [_rounded(value) for value in one.mean],
                "clipsMostly": [_rounded(value) for value in one.mostly],
                "classes": [_mean(one.mean[of_class[label]]) for label in classes],
                "classesMostly": [_mean(one.mostly[of_class[label]]) for label in classes],
            }
            for one in found.series
        ],
        "classes": [[label, len(of_class[label])] for label in classes],
        "problems": [[id, *lines] for id, lines in problems.items()],
    }


def mismatches(
    found: Kept, recipe: Recipe, ids: Sequence[str], tables: Tables, matched: Matched
) -> dict[str, list[str]]:
    """What of the annotations does not match, by clip id: what ``matched`` says, and the views without a box."""
    lines = {id: list(own) for id, own in matched.problems.items()}
    for row in sorted(set(matched.boxes) - set(found.rows)):
        without = [view.name for view in recipe.views if not tables[f"views/{view.name}/source"][row]]
        lines.setdefault(ids[row], []).append(f"left out: no box in {', '.join(without)}")
    return lines


def _mean(values: Shares) -> float | None:
    return _rounded(values.mean()) if len(values) else None


def _rounded(value: float) -> float:
    return round(float(value), 5)
