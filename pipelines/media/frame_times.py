"""When decoded frames are shown, as the ffmpeg program has it, and which of them belong to a window of the video.

Frames, streams and containers are PyAV's objects.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from data_specs.windows import Window
from pipelines.media.containers import VideoError
from pipelines.media.damage import Damage

_WITHOUT_PTS = ("avi",)  # containers that only have decoding times


class FrameClock:
    """Tells when a frame is shown, in seconds from the beginning of the container.

    Pass it every frame of the stream in display order. Where a container only has decoding times, or presentation times
    fall back more often than decoding times do, the decoding time is taken (FFmpeg's ``guess_correct_pts``); a frame
    without any follows its predecessor by the average distance of frames.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        self._unit = float(stream.time_base)
        self._begin = (container.start_time or 0) / 1e6
        self._step = float(1 / stream.average_rate) if stream.average_rate else 0.04
        self._use_dts = bool(set(container.format.name.split(",")) & set(_WITHOUT_PTS))
        self._last_pts = self._last_dts = -math.inf
        self._faulty_pts = self._faulty_dts = 0
        self._last = -math.inf

    def time(self, frame: Any) -> float:
        """When the next frame is shown, in seconds."""
        moment = self._guess(None if self._use_dts else frame.pts, frame.dts)
        if moment is not None:
            self._last = moment * self._unit - self._begin
        else:
            self._last = 0.0 if math.isinf(self._last) else self._last + self._step
        return self._last

    def _guess(self, pts: int | None, dts: int | None) -> int | None:
        if dts is not None:
            self._faulty_dts += dts <= self._last_dts
            self._last_dts = dts
        elif pts is not None:
            self._last_dts = pts
        if pts is not None:
            self._faulty_pts += pts <= self._last_pts
            self._last_pts = pts
        elif dts is not None:
            self._last_pts = dts
        return pts if pts is not None and (dts is None or self._faulty_pts <= self._faulty_dts) else dts


class WindowFrames:
    """The frames of a window of a video, or of all of it for None, and where they are in it.

    ``first_frame`` is the number of the first one in the video; ``last_time`` is when the last decoded one is shown, in
    seconds; ``goes_on`` is set if the video has frames after the window.
    """

    def __init__(self, container: Any, stream: Any, window: Window | None, damage: Damage) -> None:
        self.first_frame, self.last_time, self.goes_on = 0, -math.inf, False
        self._clock, self._window, self._damage = FrameClock(container, stream), window, damage

    def of(self, frames: Iterator[Any]) -> Iterator[tuple[int, Any]]:
        """Yield the frames with their numbers in the window; end with it, and count only damage inside it."""
        if self._window is None:
            yield from enumerate(frames)
            return
        count = 0
        for number, frame in enumerate(frames):
            time = self._clock.time(frame)
            self.goes_on = self._window.is_over(time)
            if self.goes_on:
                return
            self.last_time = time
            if self._window.holds(time):
                if not count:
                    self.first_frame = number
                    self._damage.clear()
                yield count, frame
                count += 1

    def check(self, count: int) -> None:
        """Raise VideoError if there was no frame, ``count`` being 0."""
        if self._window is not None and not count and (self.goes_on or math.isfinite(self.last_time)):
            raise VideoError(no_frame(self._window, None if self.goes_on else self.last_time))
        self._damage.check_some(count)


def no_frame(window: Window, last_time: float | None) -> str:
    """Error message for a window without a frame; ``last_time`` is that of the video's last frame if it ends before."""
    where = "none of its frames is shown then" if last_time is None else f"its last frame is shown at {last_time:.2f} s"
    return f"the video has no frame from {window}: {where}"
