"""The results of a probe: one row per view and size, compared with the whole frame and the centre crop of its area."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data_specs.text import printable
from training.linear_head import Ints
from training.paired import Change, interval, mcnemar, resampled_means
from training.probe_protocol import Protocol
from training.tables import Table

RGB, MOTION, FUSED = "rgb", "motion", "fused"
HEADS = ("View", "Input", "Top-1 (%) [95 %]", "Δ full [95 %]", "p", "Δ centre of its area [95 %]", "p (centre)")
FUSED_HEADS = ("Δ rgb [95 %]", "p (rgb)")
Key = tuple[str, int | None, str]
"""A view, or a baseline that uses no pixels; the side of the input, px (None for a baseline); the stream."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: percentages of the tested clips, averaged over shuffles.

    ``deviation`` is the standard deviation over shuffles (None for one); ``low`` and ``high`` are the 95 % interval;
    ``from_full`` and ``from_centre`` compare with the view ``full`` and with ``centre``, the centre view of its area,
    in the same stream; ``from_rgb`` with the RGB stream of the same view and size.
    """

    view: str
    input_size: int | None
    top1: float
    deviation: float | None
    low: float
    high: float
    from_full: Change | None
    centre: str | None
    from_centre: Change | None
    stream: str
    from_rgb: Change | None

    def cells(self, *, streams: bool) -> list[str]:
        """Return the row as text; ``streams``: with the comparison to the RGB stream."""
        spread = "" if self.deviation is None else f" ± {self.deviation:.1f}"
        size = "-" if self.input_size is None else f"{self.input_size} px"
        figure = f"{self.top1:.1f}{spread} [{self.low:.1f}, {self.high:.1f}]"
        view = self.view if self.stream == RGB else f"{self.view}, {self.stream}"
        last = _cells(self.from_rgb) if streams else []
        return [printable(view), size, figure, *_cells(self.from_full), *_cells(self.from_centre), *last]


def _cells(change: Change | None) -> list[str]:
    if change is None:
        return ["-", "-"]
    return [f"{change.points:+.1f} [{change.low:+.1f}, {change.high:+.1f}]", f"{change.p:.2g}"]


def rows_of(
    predicted: Mapping[Key, Ints], labels: Ints, protocol: Protocol, params: Mapping[str, Mapping[str, Any]], seed: int
) -> list[Row]:
    """The rows, in the order of ``predicted``, the predicted classes, int64 (shuffles, n), by key.

    ``labels`` (n,); ``params`` has the parameters of the views by name.
    """
    keys = list(predicted)
    tested = protocol.tested
    right = {key: 100.0 * (predicted[key] == labels)[:, tested] for key in keys}
    shares = {key: each.mean(axis=0) for key, each in right.items()}
    resampled = resampled_means(np.stack([shares[key] for key in keys], axis=1), protocol.groups[tested], seed)
    means = dict(zip(keys, resampled.T, strict=True))

    def change(key: Key, other: Key | None) -> Change | None:
        if other is None or other == key or other not in shares:
            return None
        low, high = interval(means[key] - means[other])
        points = float((shares[key] - shares[other]).mean())
        return Change(points, low, high, mcnemar(shares[key] / 100, shares[other] / 100))

    rows = []
    for key in keys:
        view, size, stream = key
        low, high = interval(means[key])
        centre = centre_of(view, params)
        by_shuffle = right[key].mean(axis=1)
        rows.append(
            Row(
                view,
                size,
                float(by_shuffle.mean()),
                float(by_shuffle.std(ddof=1)) if len(by_shuffle) > 1 else None,
                low,
                high,
                change(key, None if size is None else ("full", size, stream)),
                centre,
                change(key, None if centre is None else (centre, size, stream)),
                stream,
                change(key, (view, size, RGB)),
            )
        )
    return rows


def centre_of(view: str, params: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The centre view whose boxes have the same area as those of a view; None if there is none."""
    ratio = params.get(view, {}).get("crop_ratio")
    if ratio is None or params[view]["kind"] == "centre":
        return None
    same = (name for name, other in params.items() if other["kind"] == "centre" and other["crop_ratio"] == ratio)
    return next(same, None)


def as_table(rows: list[Row]) -> Table:
    """The rows as a printable table."""
    streams = any(row.from_rgb for row in rows)
    heads = (*HEADS, *FUSED_HEADS) if streams else HEADS
    return Table(heads, [row.cells(streams=streams) for row in rows], [asdict(row) for row in rows])


def majority_share(labels: npt.NDArray[np.int64]) -> float:
    """The percentage of clips in the largest class: the accuracy of a constant prediction."""
    return 100.0 * float(np.bincount(labels).max()) / len(labels)
