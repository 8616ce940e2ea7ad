"""Intervals of means over grouped clips: the percentile bootstrap over whole groups."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mocrop_core.ranges import check_count

Floats = npt.NDArray[np.float64]

RESAMPLES, SEED = 10_000, 0
LEVELS = (0.9, 0.95)
_DRAWS_AT_ONCE = 2**22  # bounds the memory for groups times resamples


def resampled_means(
    values: npt.ArrayLike, groups: npt.ArrayLike, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Floats:
    """Return the mean of values in each resample of their groups.

    values: (n, k), n >= 1. groups: (n,), the group of each row; rows of one group are drawn together, because they are
    not independent (clips of one recording). A resample draws as many groups as there are, with replacement; its mean
    is over all their rows, with equal weight. Returns (resamples, k). Raises ValueError if there are no rows, the
    numbers of rows and groups differ, or resamples is below 1. Source: Efron and Tibshirani, An Introduction to the
    Bootstrap (1993), chapter 8, with the group as the unit.
    """
    check_count("resamples", resamples, least=1)
    table = np.asarray(values, np.float64)
    _, numbers = np.unique(np.asarray(groups), return_inverse=True)
    if table.ndim != 2 or not len(table) or len(numbers) != len(table):
        raise ValueError(f"values must be (n, k) with a group for each row, got {table.shape} and {len(numbers)}")
    counts = np.bincount(numbers).astype(np.float64)
    sums = np.zeros((len(counts), table.shape[1]))
    np.add.at(sums, numbers, table)
    means = np.empty((resamples, table.shape[1]))
    step = max(1, _DRAWS_AT_ONCE // len(counts))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=size).astype(np.float64)
        means[start : start + size] = (drawn @ sums) / (drawn @ counts)[:, None]
    return means


def intervals(means: Floats, levels: tuple[float, ...] = LEVELS) -> Floats:
    """Return the percentile intervals of resampled means: (k, levels, 2), low and high.

    means: (resamples, k). levels: each in (0, 1), such as 0.9 for the range from the 5th to the 95th percentile.
    """
    ends = [[(1 - level) / 2, (1 + level) / 2] for level in levels]
    found: Floats = np.moveaxis(np.quantile(means, ends, axis=0), 2, 0)
    return found
