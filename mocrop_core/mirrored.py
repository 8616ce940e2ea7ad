"""Sums over the cells of a frame that are bit-identical for the mirrored frame."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]


def mirrored_totals(maps: npt.NDArray[np.floating]) -> Values:
    """Return the sum of each map (n, rows, columns): (n,), bit-identical for mirrored maps.

    A sum of floats depends on its order, so mirror images are added first. Source: ours.
    """
    paired = _with_mirror_image(_with_mirror_image(maps, 1), 2)
    totals: Values = paired.reshape(len(maps), -1).sum(axis=1, dtype=np.float64)
    return totals


def mirrored_mean(function: Callable[[Values], Values], values: Values) -> Values:
    """Apply a linear function that commutes with mirroring so that rounding commutes with it, too.

    values: (rows, columns). Mirroring them must mirror the function's result along the last two axes.
    """
    upright, across, down, both = (
        function(np.ascontiguousarray(each))  # the order of BLAS's sums depends on the memory layout
        for each in (values, values[:, ::-1], values[::-1], values[::-1, ::-1])
    )
    mean: Values = (upright + across[..., ::-1] + (down + both[..., ::-1])[..., ::-1, :]) / 4
    return mean


def _with_mirror_image(maps: npt.NDArray[np.floating], axis: int) -> npt.NDArray[np.floating]:
    """Return the sums of the first half of an axis and the mirrored second half; the middle counts once."""
    maps = np.moveaxis(maps, axis, -1)
    half, length = (maps.shape[-1] + 1) // 2, maps.shape[-1]
    paired = maps[..., :half].copy()
    paired[..., : length - half] += maps[..., ::-1][..., : length - half]
    return np.moveaxis(paired, -1, axis)
