"""A box of constant size that moves through a clip smoothly, within a maximum speed."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from mocrop_core.boxes import Box
from mocrop_core.free_box import EQUAL, STEPS

PEAK = 1.5  # the maximum speed of a smooth move relative to its mean speed

Map = npt.NDArray[np.float64]
Step = tuple[int, int]


@dataclass(frozen=True, slots=True)
class BoxPath:
    """Boxes of one size at given moments of a clip, with smooth moves between them.

    moments: in frames, increasing; boxes: one per moment, in px. Raises ValueError if there is none, the numbers
    differ, moments are not increasing, or boxes differ in size. Source: ours.
    """

    moments: tuple[float, ...]
    boxes: tuple[Box, ...]

    def __post_init__(self) -> None:
        if not self.boxes or len(self.boxes) != len(self.moments):
            raise ValueError(f"a path needs one box per moment, got {len(self.boxes)} for {len(self.moments)}")
        if any(after <= before for before, after in pairwise(self.moments)):
            raise ValueError(f"moments must be increasing, got {self.moments}")
        if len(sizes := {(box.height, box.width) for box in self.boxes}) > 1:
            raise ValueError(f"boxes must have the same size, got {sorted(sizes)}")

    def box_at(self, frame: float) -> Box:
        """Return the box in a frame: the first box before the first moment, the last one after the last moment.

        Between two moments it eases from one box to the other (3 t ** 2 - 2 t ** 3), at most 1.5 times as fast as a
        linear move, and its corner is rounded to whole pixels.
        """
        after = bisect_right(self.moments, frame)
        if after in (0, len(self.moments)):
            return self.boxes[0 if after == 0 else -1]
        begin, end = self.moments[after - 1 : after + 1]
        first, second = self.boxes[after - 1 : after + 1]
        t = (frame - begin) / (end - begin)
        eased = t * t * (3 - 2 * t)
        x0 = round(first.x0 + eased * (second.x0 - first.x0))
        y0 = round(first.y0 + eased * (second.y0 - first.y0))
        return Box(x0, y0, x0 + first.width, y0 + first.height)


def part_moments(num_frames: int, segments: int) -> tuple[float, ...]:
    """Return the middle of each of the equal parts of a clip, in frames."""
    return tuple((part + 0.5) * num_frames / segments - 0.5 for part in range(segments))


def reach(speed: float, frames: float, free: int) -> int:
    """Return how many steps, of 1/32 of the free pixels each, a smooth move may make in some frames.

    speed: maximum, px per frame. free: px. One px is reserved for the rounding of the two positions.
    """
    return STEPS if free == 0 else int(np.clip((speed * frames / PEAK - 1) * STEPS / free, 0, STEPS))


def best_steps(scores: Map, most: Step) -> list[Step]:
    """Return the position in each part of a clip that maximises the sum of scores, with limited moves between parts.

    scores: (parts, rows, columns). most: the largest move in rows and columns from one part to the next. Among equal
    sums (within 1e-9, relative) the positions nearest to the middle win, then those nearest to the next part's.
    Source: ours, Viterbi's algorithm.
    """
    totals = [scores[0]]
    for part in scores[1:]:
        totals.append(part + _highest_around(totals[-1], most))
    everywhere = np.ones(scores.shape[1:], bool)
    middle = ((scores.shape[1] - 1) / 2, (scores.shape[2] - 1) / 2)
    places = [_best_of(totals[-1], everywhere, middle)]
    for total in totals[-2::-1]:
        row, column = places[-1]
        near = np.zeros(scores.shape[1:], bool)
        near[max(row - most[0], 0) : row + most[0] + 1, max(column - most[1], 0) : column + most[1] + 1] = True
        places.append(_best_of(total, near, places[-1]))
    return places[::-1]


def _best_of(total: Map, allowed: npt.NDArray[np.bool_], near: tuple[float, float]) -> Step:
    highest = total[allowed].max()
    row, column = np.nonzero(allowed & (total >= highest - EQUAL * abs(highest)))
    best = np.lexsort((column, row, (row - near[0]) ** 2 + (column - near[1]) ** 2))[0]
    return int(row[best]), int(column[best])


def _highest_around(total: Map, most: Step) -> Map:
    """Return the highest value within a number of rows and columns of each position."""
    for axis, reach in enumerate(most):
        padded = np.pad(total, [(reach, reach) if axis == each else (0, 0) for each in (0, 1)], constant_values=-np.inf)
        total = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=axis).max(axis=-1)
    return total
