"""Encoding windows of a video to H.264 with ffmpeg: several of them from one decoding, cut on exact frames.

The source is decoded from its beginning to the end of the last window, so that no frame depends on how well its
container can be searched. Each frame goes to every window that holds its presentation time, and each window has an
encoder of its own, with the settings of `encoder.transcode`: the H.264 file is that of the cut-out clip.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from data_specs.windows import TOLERANCE, Window
from pipelines.media import decoder
from pipelines.media.containers import FORMATS, MAX_PIXELS, PROTOCOLS, url
from pipelines.media.encoder import COLOURS, DECODE_ERRORS, DEINTERLACE, EXACT, REGULAR, EncodeSettings
from pipelines.media.ffmpeg_binary import EVEN, GLOBAL, Ffmpeg, FfmpegError
from pipelines.media.ffmpeg_log import cause
from pipelines.media.ffmpeg_output import check_disk, output_part
from pipelines.media.streams import Decoded, Survey
from pipelines.media.subprocess_runner import Facts, Log, run_again_if_killed

_MOST_AT_ONCE = 32  # windows of one decoding; each has an encoder, which holds about 40 frames
_SOURCE_FRAME, _FIRST, _LATER, _TIME = "source frame", "first", "later", "time"


@dataclass(frozen=True, slots=True)
class Cut:
    """A window of a video, and the MP4 file to write."""

    window: Window
    target: Path


@dataclass(frozen=True, slots=True)
class WindowTranscoded:
    """Result of `transcode_windows` for a window.

    ``survey`` is that of the source, with the number of frames that the window should have; ``decoded`` is what was
    decoded in it; ``first_frame`` is the number of its first frame in the source, in display order from 0.
    """

    survey: Survey
    decoded: Decoded
    first_frame: int

    @property
    def frames(self) -> int:
        """The number of frames that were decoded and encoded."""
        return self.decoded.frames


def transcode_windows(
    source: str | os.PathLike[str],
    cuts: Sequence[Cut],
    encode: EncodeSettings,
    ffmpeg: Ffmpeg,
    time_limit: float,
) -> list[WindowTranscoded | FfmpegError]:
    """Encode windows of a video as H.264, each into its MP4 file, as `encoder.transcode` does for a whole video.

    The source is decoded once for all windows whose encoders fit into the memory of one ffmpeg. Returns, for each
    window, its result, or an error if the video has no frame there. Interlaced frames are rebuilt from those of the
    window alone. Raises FfmpegError if ffmpeg fails, frames change their size in a window, or it takes more than
    ``time_limit`` seconds; OSError if the disk is full or not writable.
    """
    end = time.monotonic() + time_limit
    try:
        survey, probed = decoder.survey(source), decoder.probe(source)
        at_once = max(1, min(_MOST_AT_ONCE, MAX_PIXELS // max(1, probed.width * probed.height)))
        done: list[WindowTranscoded | FfmpegError] = []
        for first in range(0, len(cuts), at_once):
            job = _Job(source, survey, encode, ffmpeg, end, time_limit)
            done += job.results(cuts[first : first + at_once])
    except decoder.VideoError as error:
        raise FfmpegError(str(error)) from error
    return done


@dataclass(slots=True)
class _Seen:
    """What the filters of one decoding reported: the frames of the source, and those of each window."""

    count: int
    source_frames: int = 0
    frames: list[int] = field(init=False)
    interlaced: list[int] = field(init=False)
    first: list[int] = field(init=False)
    starts: list[int] = field(init=False)
    _is_first: bool = False

    def __post_init__(self) -> None:
        self.frames, self.interlaced, self.starts = ([0] * self.count for _ in range(3))
        self.first = [-1] * self.count

    def facts(self) -> Facts:
        """What to look for in the output: a line with the number and time of a frame, then one with the filter."""
        lines = {
            _FIRST: rb"^frame:(0) ",
            _LATER: rb"^frame:([1-9]\d*) ",
            _TIME: rb"^frame:\d+ .*pts_time:(\S+)",
            _SOURCE_FRAME: rb"^mocrop=(source)$",
        }
        for number in range(self.count):
            lines[f"w{number}"] = rb"^mocrop=(w%d)$" % number
            lines[f"i{number}"] = rb"^mocrop=(i%d)$" % number
        return {name: re.compile(pattern) for name, pattern in lines.items()}

    def on_fact(self, name: str, count: int) -> None:
        """Count a line; ``count`` is 1 for the first of its kind, also where a killed program is run again."""
        if name in (_FIRST, _LATER):
            self._is_first = name == _FIRST
        elif name == _SOURCE_FRAME:
            if count == 1:
                self.__post_init__()
            self.source_frames = count
        elif name[0] == "i":
            self.interlaced[int(name[1:])] += 1
        elif name[0] == "w":
            number = int(name[1:])
            self.frames[number] += 1
            self.starts[number] += self._is_first
            if self.first[number] < 0:
                self.first[number] = self.source_frames - 1


class _WithoutFrame(Exception):
    """Windows have no frame; ``errors`` says which, by number, and why."""

    def __init__(self, errors: dict[int, FfmpegError]) -> None:
        super().__init__()
        self.errors = errors


@dataclass(slots=True)
class _Job:
    """Windows of one source that are encoded together."""

    source: str | os.PathLike[str]
    survey: Survey
    encode: EncodeSettings
    ffmpeg: Ffmpeg
    end: float
    time_limit: float

    def results(self, cuts: Sequence[Cut]) -> list[WindowTranscoded | FfmpegError]:
        """The result for each window. If one has no frame, ffmpeg fails, and the others are encoded once more."""
        try:
            with ExitStack() as files:
                parts = [files.enter_context(output_part(cut.target)) for cut in cuts]
                seen, log, damaged = self._encoded(cuts, parts)
                if not all(seen.frames):
                    raise _WithoutFrame(self._errors(cuts, seen, log, parts))
                bad = [self._bad_packets(cut, damaged or seen.starts[i] > 1) for i, cut in enumerate(cuts)]
                self._check(log, parts, cuts[0].target.parent)
                return [self._result(cut, parts[i], seen, log, i, bad[i]) for i, cut in enumerate(cuts)]
        except _WithoutFrame as found:
            errors = found.errors
        others = [cut for number, cut in enumerate(cuts) if number not in errors]
        done = iter(self.results(others) if others else ())
        return [errors[number] if number in errors else next(done) for number in range(len(cuts))]

    def _encoded(self, cuts: Sequence[Cut], parts: Sequence[Path]) -> tuple[_Seen, Log, bool]:
        """Encode all windows; interlaced ones are deinterlaced in a second pass, as whole videos are."""
        seen, log = self._run(cuts, parts, 0, set())
        damaged = log.status == DECODE_ERRORS
        if damaged:  # ffmpeg may have stopped early
            seen, log = self._run(cuts, parts, 1, set())
        combed = {number for number, count in enumerate(seen.interlaced) if count}
        if self.encode.deinterlace and combed and not log.status:
            seen, log = self._run(cuts, parts, int(damaged), combed)
        if log.late:
            raise FfmpegError(f"took longer than {self.time_limit:g} s and was stopped")
        return seen, log, damaged

    def _run(
        self, cuts: Sequence[Cut], parts: Sequence[Path], max_error_rate: int, deinterlace: set[int]
    ) -> tuple[_Seen, Log]:
        seen = _Seen(len(cuts))
        command = [self.ffmpeg.path, *GLOBAL, "-filter_complex_threads", "1"]
        command += ["-protocol_whitelist", PROTOCOLS, "-format_whitelist", FORMATS, "-max_pixels", str(MAX_PIXELS)]
        command += ["-threads", "1", "-max_error_rate", str(max_error_rate), "-i", url(self.source)]
        command += ["-filter_complex", _filters(cuts, self.survey.stream, deinterlace)]
        for number, part in enumerate(parts):
            command += ["-map", f"[out{number}]", "-noautoscale", *_encoding(self.encode), "-y", url(part)]
        left = max(self.end - time.monotonic(), 0.001)
        return seen, run_again_if_killed(command, left, seen.facts(), on_fact=seen.on_fact)

    def _check(self, log: Log, parts: Sequence[Path], folder: Path) -> None:
        """Raise FfmpegError if the encoding failed, OSError if the folder could not be written to."""
        if log.status:
            check_disk(log.status, folder)
            raise FfmpegError(
                cause(log, {url(self.source): "the input", **{url(part): "the output" for part in parts}})
            )

    def _errors(self, cuts: Sequence[Cut], seen: _Seen, log: Log, parts: Sequence[Path]) -> dict[int, FfmpegError]:
        """The errors of windows without a frame, by number."""
        return {i: self._no_frame(cut, log, parts) for i, cut in enumerate(cuts) if not seen.frames[i]}

    def _no_frame(self, cut: Cut, log: Log, parts: Sequence[Path]) -> FfmpegError:
        """Why a window got no frame: the video has none there, or else ffmpeg failed, which is raised."""
        try:
            decoder.decode_all(self.source, window=cut.window, time_limit=self._seconds_left())
        except decoder.VideoError as error:
            return FfmpegError(str(error))
        self._check(log, parts, cut.target.parent)
        raise FfmpegError(f"no frame from {cut.window} was encoded")

    def _bad_packets(self, cut: Cut, doubtful: bool) -> int:
        """The undecodable packets of a window. ``doubtful``: there may be some, or the filters were set up again in it.

        That happens if frames change their size, which raises VideoError, or only their colours.
        """
        if not doubtful:
            return 0
        return decoder.decode_all(self.source, window=cut.window, time_limit=self._seconds_left()).bad_packets

    def _result(self, cut: Cut, part: Path, seen: _Seen, log: Log, number: int, bad_packets: int) -> WindowTranscoded:
        frames, encoded = seen.frames[number], decoder.survey(part).frames
        if encoded != frames:
            raise FfmpegError(f"{frames} frames were decoded but {encoded} encoded")
        decoded = Decoded(frames, bad_packets, seen.interlaced[number])
        last = float(log.facts[_TIME])
        survey = self.survey.of_window(cut.window, decoded, last, goes_on=cut.window.is_over(last))
        return WindowTranscoded(survey, decoded, seen.first[number])

    def _seconds_left(self) -> float:
        return max(self.end - time.monotonic(), 0.001)


def _filters(cuts: Sequence[Cut], stream: int, deinterlace: set[int]) -> str:
    """The filters: every frame of the source is counted, goes to each window, and is counted there if it is in it.

    ``n`` and what else a filter knows of earlier frames starts again where ffmpeg sets the filters up again, so windows
    are cut by time alone. Decoding ends a second after the last window; trim itself is not exact, as it rounds.
    """
    last = max(cut.window.end for cut in cuts)
    whole = [EVEN, _counted("source", "add"), f"trim=end={last + 1:.6f}", f"split={len(cuts)}"]
    branches = [f"[0:{stream}]{','.join(whole)}" + "".join(f"[in{number}]" for number in range(len(cuts)))]
    for number, cut in enumerate(cuts):
        start, end = cut.window.start - TOLERANCE, cut.window.end - TOLERANCE
        inside = [rf"select=gte(t\,{start:.6f})*lt(t\,{end:.6f})", _counted(f"w{number}")]
        report = [r"select=not(eq(interlace_type\,PROGRESSIVE))", _counted(f"i{number}"), "nullsink"]
        branches.append(f"[in{number}]{','.join(inside)},split[whole{number}][aside{number}]")
        branches.append(f"[aside{number}]{','.join(report)}")
        branches.append(f"[whole{number}]{DEINTERLACE if number in deinterlace else 'null'}[out{number}]")
    return f"sws_flags={COLOURS['sws_flags']};{';'.join(branches)}"


def _counted(name: str, mode: str = "modify") -> str:
    """Filters that print a line with each frame's number and time, and a line ``mocrop=<name>``."""
    return f"metadata=mode={mode}:key=mocrop:value={name},metadata=mode=print:key=mocrop:file=-:direct=1"


def _encoding(encode: EncodeSettings) -> list[str]:
    """The output options: those of `encoder.transcode`, and timestamps that start at 0."""
    options: dict[str, object] = {
        "format": "mp4", "fps_mode": "passthrough", "vcodec": "libx264", "preset": encode.preset, "crf": encode.crf,
        "g": encode.gop, **REGULAR, **COLOURS, **EXACT, "avoid_negative_ts": "make_zero",
    }  # fmt: skip
    renamed = {"format": "f"}
    return [word for name, value in options.items() for word in (f"-{renamed.get(name, name)}", str(value))]
