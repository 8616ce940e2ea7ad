"""The luma of key frames, collected so that it is read several frames at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

AT_ONCE = 1 << 20
"""Pixels that are passed on together: read frame by frame, the code that reads them would never be in the CPU cache."""


class LumaBatches:
    """Collects the luma of frames of one size and passes it to ``sink``: uint8 (frames, height, width).

    The array is valid during the call only.
    """

    def __init__(self, sink: Callable[[np.ndarray], None]) -> None:
        self._sink, self._count = sink, 0
        self._held = np.empty((0, 0, 0), np.uint8)

    def add(self, luma: np.ndarray) -> None:
        """Add a frame, and pass on those that are held if they are enough."""
        if not len(self._held):
            self._held = np.empty((max(1, AT_ONCE // luma.size), *luma.shape), np.uint8)
        self._held[self._count] = luma
        self._count += 1
        if self._count == len(self._held):
            self.flush()

    def flush(self) -> None:
        """Pass on the frames that are held."""
        if self._count:
            self._sink(self._held[: self._count])
        self._count = 0
