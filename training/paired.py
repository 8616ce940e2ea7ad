"""Paired comparisons of classifiers on the same clips: a bootstrap over groups, and McNemar's test."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000
_AT_ONCE = 1 << 24  # maximum numbers in memory while resampling
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Change:
    """A difference in percentage points with its 95 % interval, and the p-value of McNemar's test."""

    points: float
    low: float
    high: float
    p: float


def resampled_means(values: Floats, groups: npt.NDArray[np.int64], seed: int, count: int = RESAMPLES) -> Floats:
    """The mean of each column in ``count`` resamples of whole groups with replacement: (count, columns).

    ``values`` (clips, columns), ``groups`` (clips,). All columns use the same resamples, so that differences between
    columns are paired. Deterministic. Source: the cluster bootstrap.
    """
    codes = np.unique(groups, return_inverse=True)[1]
    number = int(codes.max()) + 1
    sums = np.zeros((number, values.shape[1]))
    np.add.at(sums, codes, values)
    sizes = np.bincount(codes).astype(np.float64)
    rng = np.random.default_rng(seed)
    step = max(1, _AT_ONCE // number)
    means = []
    for start in range(0, count, step):
        drawn = rng.multinomial(number, np.full(number, 1 / number), size=min(step, count - start))
        means.append(drawn @ sums / (drawn @ sizes)[:, None])
    return np.concatenate(means)


def interval(means: Floats) -> tuple[float, float]:
    """The 95 % interval of resampled means (count,): their 2.5th and 97.5th percentiles."""
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def mcnemar(right: Floats, other: Floats) -> float:
    """The two-sided p-value of McNemar's exact test, from how often each clip was correct over shuffles ((clips,)).

    A clip counts as correct if it was so in more than half of the shuffles. 1.0 if no clip distinguishes the two.
    """
    mine, theirs = right > 0.5, other > 0.5
    gained, lost = int((mine & ~theirs).sum()), int((theirs & ~mine).sum())
    tails = 2 * sum(math.comb(gained + lost, count) for count in range(min(gained, lost) + 1))
    return min(1.0, tails / 2 ** (gained + lost))
