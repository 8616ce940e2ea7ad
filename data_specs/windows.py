"""Windows of videos: a clip that is a part of a longer video, from one moment to another."""

from __future__ import annotations

import math
from dataclasses import dataclass

MOST_SECONDS = 10_000_000
"""The latest moment that a window may have: 115 days."""
TOLERANCE = 1e-6
"""Seconds by which a frame may be earlier than a moment and still count as shown at it: time stamps are rounded."""
_DIGITS = 6  # decimals of seconds, as fine as TOLERANCE


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a video from ``start`` to ``end``, in seconds from the beginning of the file, half-open.

    A frame belongs to it if its presentation time is at least ``start`` and before ``end``, to a microsecond. Time 0 is
    where the container begins, as players and ffmpeg show it. ``ValueError`` for a window of no time.
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        check_seconds(self.start)
        check_seconds(self.end)
        if not self.start < self.end:
            raise ValueError(f"a window ends after it starts, not from {self.start:g} s to {self.end:g} s")

    def __str__(self) -> str:
        return f"{seconds_text(self.start)} s to {seconds_text(self.end)} s"

    @property
    def duration(self) -> float:
        """Its length in seconds."""
        return self.end - self.start

    @property
    def name(self) -> str:
        """A name that sorts by time: ``000010-000020``, ``000010.5-000020``."""
        return f"{_padded(self.start)}-{_padded(self.end)}"

    def holds(self, time: float) -> bool:
        """Return whether a frame that is shown at ``time`` belongs to the window."""
        return self.start - TOLERANCE <= time < self.end - TOLERANCE

    def is_over(self, time: float) -> bool:
        """Return whether a frame that is shown at ``time`` comes after the window."""
        return time >= self.end - TOLERANCE


def check_seconds(value: float) -> float:
    """The moment, in seconds from 0; ``ValueError`` for any other number."""
    if not (math.isfinite(value) and 0 <= value <= MOST_SECONDS):
        raise ValueError(f"give seconds from 0 to {MOST_SECONDS}")
    return round(float(value), _DIGITS) + 0.0  # no negative zero


def seconds_text(seconds: float) -> str:
    """Seconds as a decimal number without needless digits: ``10``, ``12.5``."""
    return f"{seconds:.{_DIGITS}f}".rstrip("0").rstrip(".")


def _padded(seconds: float) -> str:
    whole, point, rest = seconds_text(seconds).partition(".")
    return f"{whole:0>6}{point}{rest}"


def sliding_windows(duration: float, length: float, stride: float) -> list[Window]:
    """The windows of ``length`` that begin every ``stride`` and end within a video of ``duration``, all in seconds.

    Empty for a video that is shorter than ``length`` by more than a millisecond.
    """
    count = math.floor((duration + 1e-3 - length) / stride) + 1
    return [
        Window(round(number * stride, _DIGITS), round(number * stride + length, _DIGITS))
        for number in range(max(count, 0))
    ]
