"""Range checks of arguments; each raises an error that quotes the value."""

from __future__ import annotations

import math
from collections.abc import Sized
from numbers import Integral, Real


def check_size(name: str, size: tuple[int, ...]) -> None:
    """Raise ValueError unless `size` is two integers >= 1: rows and columns, or height and width."""
    if not (isinstance(size, Sized) and len(size) == 2 and all(_is_count(n, 1) for n in size)):
        raise ValueError(f"{name} must be two whole numbers >= 1, vertical first, got {size}")


def check_count(name: str, count: int, least: int = 0) -> None:
    """Raise ValueError unless `count` is an integer >= `least`."""
    if not _is_count(count, least):
        raise ValueError(f"{name} must be a whole number >= {least}, got {count}")


def check_share(name: str, share: float) -> None:
    """Raise ValueError unless `share` lies in (0, 1]."""
    if not (isinstance(share, Real) and 0 < share <= 1):
        raise ValueError(f"{name} must lie in (0, 1], got {share}")


def check_amount(name: str, amount: float) -> None:
    """Raise ValueError unless `amount` is finite and >= 0."""
    if not (isinstance(amount, Real) and 0 <= amount < math.inf):
        raise ValueError(f"{name} must be a finite number >= 0, got {amount}")


def check_weights(sum_weight: float, mean_weight: float) -> None:
    """Raise ValueError unless both weights are finite and >= 0 and one is above 0."""
    check_amount("sum_weight", sum_weight)
    check_amount("mean_weight", mean_weight)
    if sum_weight == mean_weight == 0:
        raise ValueError("sum_weight or mean_weight must be above 0, got 0 and 0")


def _is_count(count: object, least: int) -> bool:
    return isinstance(count, Integral) and int(count) >= least
