"""Windows of a fixed length from the videos of an index, for untrimmed videos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_specs.clip_rows import Row
from data_specs.text import counted, printable
from data_specs.windows import MOST_SECONDS, TOLERANCE, seconds_text, sliding_windows
from pipelines.errors import RunError
from pipelines.media.containers import VideoError
from pipelines.media.decoder import duration

EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Cutting:
    """How videos were cut: length of the windows and distance of their starts in seconds, videos and windows.

    ``short`` names the videos that are shorter than a window, ``unreadable`` those whose length cannot be read: they
    stay whole. ``tails`` counts the videos with an end that is in no window, of ``tail_seconds`` together.
    """

    length: float
    stride: float
    videos: int
    windows: int
    short: tuple[str, ...]
    unreadable: tuple[str, ...]
    tails: int
    tail_seconds: float

    def lines(self) -> Iterator[str]:
        """The counts as lines for a person."""
        every = f"{seconds_text(self.length)} s every {seconds_text(self.stride)} s"
        whole = len(self.short) + len(self.unreadable)
        yield f"windows   {self.windows} of {every}, from {counted(self.videos - whole, 'video')}"
        if self.tails:
            yield f"warning   {counted(self.tails, 'video')} with an end in no window, {self.tail_seconds:.1f} s in all"
        for what, names in (("shorter than a window", self.short), ("of unknown length", self.unreadable)):
            if names:
                more = ", …" if len(names) > EXAMPLES else ""
                examples = ", ".join(map(repr, names[:EXAMPLES]))
                yield f"warning   {counted(len(names), 'video')} {what}, left whole: {examples}{more}"


def check_lengths(length: float | None, stride: float | None) -> tuple[float, float] | None:
    """The length and the stride of windows, by default the length; None if no windows are asked for.

    ``RunError`` for a stride without a length, or one of them that is not a number of seconds.
    """
    if length is None:
        if stride is not None:
            raise RunError(f"stride {stride:g}: it is the distance of windows; give --windows SECONDS, too")
        return None
    for name, value in (("windows", length), ("stride", stride)):
        if value is not None and not 0.001 <= value <= MOST_SECONDS:
            raise RunError(f"{name} {value:g}: give seconds from 0.001 to {MOST_SECONDS}")
    return length, length if stride is None else stride


def cut(
    rows: Sequence[Row], source: Path, length: float, stride: float, on_video: Callable[[int, int], None]
) -> tuple[list[Row], Cutting]:
    """The windows of the videos of ``rows``, relative to ``source``; ``on_video`` is told of progress.

    Each window has the label, parts and group of its video. A video's length is that in its header.
    """
    cut_rows: list[Row] = []
    short, unreadable, tails, tail_seconds = [], [], 0, 0.0
    for number, row in enumerate(rows, 1):
        try:
            seconds = duration(source / row.path)
        except (VideoError, OSError):  # the run says why it cannot be read
            unreadable.append(printable(row.path))
            cut_rows.append(row)
            continue
        finally:
            on_video(number, len(rows))
        windows = sliding_windows(seconds, length, stride)
        if not windows:
            short.append(printable(row.path))
            cut_rows.append(row)
            continue
        if (tail := seconds - windows[-1].end) > 0.001 + TOLERANCE:
            tails, tail_seconds = tails + 1, tail_seconds + tail
        cut_rows += [replace(row, start=window.start, end=window.end) for window in windows]
    whole = len(short) + len(unreadable)
    counts = (len(rows), len(cut_rows) - whole, tuple(short), tuple(unreadable), tails, round(tail_seconds, 3))
    return cut_rows, Cutting(length, stride, *counts)
