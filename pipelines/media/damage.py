"""What could not be decoded of a video, and the deadline for decoding it."""

from __future__ import annotations

import math
import time
from collections import Counter

from pipelines.media.containers import VideoError


class Damage(Counter[str]):
    """Counts of undecodable packets by reason, and the deadline for decoding."""

    def __init__(self, time_limit: float = math.inf) -> None:
        super().__init__()
        self.time_limit, self.end = time_limit, time.monotonic() + time_limit

    def check_time(self) -> None:
        """Raise VideoError after the deadline."""
        if time.monotonic() > self.end:
            raise VideoError(f"took longer than {self.time_limit:g} s and was stopped")

    def check_some(self, count: int) -> None:
        """Raise VideoError if no frame was decoded, ``count`` being 0."""
        if not count:
            reasons = ", ".join(f"{reason} ({times} times)" for reason, times in self.most_common(2))
            raise VideoError(f"no frame could be decoded{': ' if reasons else ''}{reasons}")
