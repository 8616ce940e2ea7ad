"""How much of the actors the views keep, for the report page; measured by `pipelines.evaluation`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.evaluation.coverage import WAYS, Coverage, ViewCoverage

Shares = npt.NDArray[np.float64]

ABOUT = {
    "view": "a view of the store",
    "centre": "a box with exactly the area of {}, at the centre",
    "random": "a box with exactly the area of {}, averaged over 32 × 32 positions",
    "best": "the static box with exactly the area of {} that keeps most of the actor, found with the annotations",
}


MOST_PROBLEMS = 1000  # annotations that do not match and are listed


def as_json(
    found: Coverage, labels: npt.NDArray[Any], problems: Mapping[str, Sequence[str]], place: Mapping[int, int]
) -> dict[str, Any]:
    """The numbers on the page: means over clips, overall and by class, and values by clip.

    ``place`` maps the rows that the page lists to their positions in it: ``rows``, ``boxes`` and the values by clip are
    of these clips only. ``count``, ``boxCount`` and ``problemCount`` are of all.
    ``series`` has each view, and for each motion view the boxes of its area; ``way`` says which of these it is, and
    ``of`` names the view whose area it has.
    """
    classes = sorted({int(labels[row]) for row in found.rows})
    of_class = [[i for i, row in enumerate(found.rows) if labels[row] == label] for label in classes]
    listed = [i for i, row in enumerate(found.rows) if row in place]
    series = [_series(view, "view", of_class, listed) for view in found.views]
    series += [
        _series(view, way, of_class, listed) for view in found.views if view.kind == "motion" for way in WAYS[1:]
    ]
    return {
        "rows": [place[found.rows[i]] for i in listed],
        "boxes": [found.boxes[i] for i in listed],
        "count": len(found.rows),
        "boxCount": sum(found.boxes),
        "problemCount": len(problems),
        "series": series,
        "classes": [[label, len(rows)] for label, rows in zip(classes, of_class, strict=True)],
        "problems": [[id, *lines] for id, lines in islice(problems.items(), MOST_PROBLEMS)],
    }


def clip_bytes(found: Coverage) -> int:
    """What an annotated clip takes in a page, about: two numbers in each of the series."""
    return 20 + 2 * 8 * sum(len(WAYS) if view.kind == "motion" else 1 for view in found.views)


def _series(view: ViewCoverage, way: str, of_class: list[list[int]], listed: list[int]) -> dict[str, Any]:
    mean, mostly = (values[:, WAYS.index(way)] for values in (view.mean, view.mostly))
    return {
        "name": view.name if way == "view" else f"{way} for {view.name}",
        "way": way,
        "of": view.name,
        "about": ABOUT[way].format(view.name),
        "area": _mean(view.area),
        "mean": _mean(mean),
        "mostly": _mean(mostly),
        "clips": [_rounded(value) for value in mean[listed]],
        "clipsMostly": [_rounded(value) for value in mostly[listed]],
        "classes": [_mean(mean[rows]) for rows in of_class],
        "classesMostly": [_mean(mostly[rows]) for rows in of_class],
    }


def worst_first(found: Coverage, view: str) -> list[int]:
    """The rows of the annotated clips, sorted by how little of them a view keeps."""
    mean = next(one.mean[:, 0] for one in found.views if one.name == view)
    return [found.rows[i] for i in mean.argsort(kind="stable")]


def _mean(values: Shares) -> float | None:
    return _rounded(values.mean()) if len(values) else None


def _rounded(value: float) -> float:
    return round(float(value), 5)
