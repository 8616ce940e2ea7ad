"""Encoding with ffmpeg: transcoding to H.264, and writing small videos from arrays.

ffmpeg-python builds the command lines; only this module imports it. ffmpeg accesses only the named files, runs in its
own session with limited memory, and is killed at its time limit or when this process dies.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import ffmpeg as ffmpeg_python
import numpy as np

from pipelines.media import decoder
from pipelines.media.containers import FORMATS, MAX_PIXELS, PROTOCOLS, url
from pipelines.media.ffmpeg_binary import COUNT_FRAMES, EVEN, GLOBAL, Ffmpeg, FfmpegError, find_ffmpeg
from pipelines.media.ffmpeg_log import cause
from pipelines.media.ffmpeg_output import ENCODED, check_whole, on_fact, output_part
from pipelines.media.streams import Decoded, Survey
from pipelines.media.subprocess_runner import Log, run, run_again_if_killed

PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")
"""x264's presets, the fastest first."""

_SOURCE, _TARGET = (
    "the input",
    "the output",
)  # placeholders for file names, which may not be valid UTF-8
EXACT: dict[str, Any] = {
    "threads": 1,
    "fflags": "+bitexact",
    "flags:v": "+bitexact",
    "map_metadata": -1,
    "map_chapters": -1,
}
COLOURS: dict[str, Any] = {"pix_fmt": "yuv420p", "sws_flags": "bicubic+accurate_rnd+bitexact"}
REGULAR: dict[str, Any] = {"bf": 0, "refs": 1, "sc_threshold": 0}

_ASIDE = -9_000_000  # a timestamp that no frame has
_REPORT_INTERLACED = (
    "split[whole][aside];"
    rf"[aside]select=not(eq(interlace_type\,PROGRESSIVE)),setpts={_ASIDE},{COUNT_FRAMES},nullsink;"
    "[whole]null"
)
"""Filters that print a line with this timestamp for each frame that the decoder marks as interlaced."""
DEINTERLACE = "bwdif=mode=send_frame:deint=interlaced"
_FACTS = {
    "filtered": re.compile(rb"^frame:(\d+) +pts:(?!%d )" % _ASIDE),
    "filter_starts": re.compile(rb"^frame:(0) +pts:(?!%d )" % _ASIDE),
    "interlaced": re.compile(rb"^frame:(\d+) +pts:%d " % _ASIDE),
    "encoded": ENCODED,
}
DECODE_ERRORS = 69  # ffmpeg's exit status if decoding failed more often than -max_error_rate allows


@dataclass(frozen=True, slots=True)
class EncodeSettings:
    """Settings of x264: ``preset`` (one of `PRESETS`), ``crf`` 0..51, ``gop`` (frames from one key frame to the next),
    and ``deinterlace`` (whether interlaced frames are deinterlaced first).

    The rest is fixed, because the vectors depend on it: no B-frames (their vectors point in both directions), one
    reference frame (FFmpeg does not export the distance to the reference, so more would inflate the vectors), key
    frames at regular intervals only, 4:2:0 with 8 bits. GOP 12 as in CoViAR; preset and CRF are x264's defaults.
    """

    preset: str = "medium"
    crf: float = 23
    gop: int = 12
    deinterlace: bool = True

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset is {self.preset!r}, expected one of {', '.join(PRESETS)}")
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf is {self.crf}, expected 0 to 51")
        if self.gop < 1:
            raise ValueError(f"gop is {self.gop}, expected at least 1")


@dataclass(frozen=True, slots=True)
class Transcoded:
    """Result of `transcode`: the ``survey`` of the source, and what was ``decoded``; all decoded frames are encoded."""

    survey: Survey
    decoded: Decoded

    @property
    def frames(self) -> int:
        """The number of frames that were decoded and encoded."""
        return self.decoded.frames


def transcode(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    encode: EncodeSettings,
    ffmpeg: Ffmpeg,
    time_limit: float,
    on_frames: Callable[[int], None] = lambda count: None,
) -> Transcoded:
    """Encode every frame of the video stream that `decoder.survey` chooses as H.264 into the MP4 file ``target``.

    An odd side loses its last column or row. Undecodable packets are skipped, as by ffmpeg, and counted. Interlaced
    frames are rebuilt from their first field (FFmpeg's bwdif), which keeps the number of frames; others are unchanged.
    Encoding uses one core. Equal source, settings and build give equal bytes. ``target`` is written atomically.
    ``on_frames`` is called from another thread with the number of frames done; it restarts from 0 if the encoding has
    to be repeated. Raises FfmpegError if ffmpeg refuses the file, nothing can be decoded, frames change their size, a
    decoded frame is not encoded, or it takes more than ``time_limit`` seconds; OSError if the disk is full or not
    writable.
    """
    end = time.monotonic() + time_limit
    try:
        survey = decoder.survey(source)
        with output_part(target) as part:
            names = {_SOURCE: url(source), _TARGET: url(part)}
            log = _run_transcoding(_transcoding(encode, survey.stream, 0), ffmpeg, names, end, on_frames)
            damaged = log.status == DECODE_ERRORS
            if damaged:  # ffmpeg may have stopped early
                log = _run_transcoding(_transcoding(encode, survey.stream, 1), ffmpeg, names, end, on_frames)
            if encode.deinterlace and log.counts["interlaced"] and not log.status:
                stream = _transcoding(encode, survey.stream, int(damaged), True)
                log = _run_transcoding(stream, ffmpeg, names, end, on_frames)
            if log.late:
                raise FfmpegError(f"took longer than {time_limit:g} s and was stopped")
            check_whole(log, {name: stand_in for stand_in, name in names.items()}, Path(os.fsdecode(target)).parent)
            bad_packets = 0
            if damaged or log.counts["filter_starts"] > 1:
                bad_packets = decoder.decode_all(source, time_limit=time_limit).bad_packets
    except decoder.VideoError as error:
        raise FfmpegError(str(error)) from error
    return Transcoded(survey, Decoded(log.counts["filtered"], bad_packets, log.counts["interlaced"]))


def _run_transcoding(
    stream: Any, ffmpeg: Ffmpeg, names: Mapping[str, str], end: float, on_frames: Callable[[int], None]
) -> Log:
    command = _arguments(stream.global_args("-progress", "pipe:1"), ffmpeg.path, names)
    return run_again_if_killed(command, max(end - time.monotonic(), 0.001), _FACTS, on_fact=on_fact(on_frames))


def _transcoding(encode: EncodeSettings, stream: int, max_error_rate: float, deinterlace: bool = False) -> Any:
    """The command of `transcode` for the stream with this index, with placeholders for the file names.

    The deinterlacing filter needs the next frame and would lose one wherever ffmpeg reinitialises its filters, so it is
    used only for videos with interlaced frames. It does not change other frames.
    """
    filters = [EVEN, COUNT_FRAMES, _REPORT_INTERLACED, *([DEINTERLACE] if deinterlace else [])]
    source = ffmpeg_python.input(
        _SOURCE,
        protocol_whitelist=PROTOCOLS,
        format_whitelist=FORMATS,
        max_pixels=MAX_PIXELS,
        threads=1,
        max_error_rate=max_error_rate,
    )
    return source.output(
        _TARGET,
        format="mp4",
        map=f"0:{stream}",
        vf=",".join(filters),
        fps_mode="passthrough",
        vcodec="libx264",
        preset=encode.preset,
        crf=encode.crf,
        g=encode.gop,
        **REGULAR,
        **COLOURS,
        **EXACT,
    )


def write_video(
    target: str | os.PathLike[str],
    frames: Iterable[np.ndarray],
    fps: int | float | Fraction,
    codec: Literal["mpeg4", "libx264"] = "mpeg4",
    *,
    time_limit: float = 3600.0,
    **options: str | int | float,
) -> None:
    """Encode ``frames``, each (h, w, 3) uint8 RGB and all of one size, into ``target``, in bounded memory.

    ``mpeg4`` gives an AVI as in UCF-101 (XviD's tag, GOP 12, no B-frames), ``libx264`` an MP4 like `transcode`'s.
    ``options`` are output options of ffmpeg that override these (``bf=2``, ``g=250``, ``crf=30``, ``format="mov"``).
    Equal frames, options and build give equal bytes. ``target`` is written atomically. Raises ValueError for no frames
    or a frame of another shape or dtype, FfmpegError if ffmpeg fails.
    """
    rest = iter(frames)
    first = next(rest, None)
    if first is None:
        raise ValueError("there are no frames to write")
    if first.ndim != 3 or first.shape[2] != 3 or first.dtype != np.uint8:
        raise ValueError(f"a frame is {first.dtype} {first.shape}, expected uint8 (height, width, 3)")
    source = ffmpeg_python.input(
        "pipe:0", format="rawvideo", pix_fmt="rgb24", s=f"{first.shape[1]}x{first.shape[0]}", r=str(fps)
    )
    settings: dict[str, Any] = {
        "mpeg4": {"format": "avi", "vtag": "XVID", "g": 12, "bf": 0, "sc_threshold": 10**9, "qscale:v": 3},
        "libx264": {"format": "mp4", "preset": "medium", "crf": 23, "g": 12, **REGULAR},
    }[codec]
    settings = {**settings, "vcodec": codec, **COLOURS, **EXACT, **options}
    with output_part(target) as part:
        command = _arguments(source.output(_TARGET, **settings), find_ffmpeg().path, {_TARGET: url(part)})
        log = run(command, time_limit, {}, _raw(chain([first], rest), first.shape))
        if log.late:
            raise FfmpegError(f"took longer than {time_limit:g} s and was stopped")
        if log.status:
            raise FfmpegError(cause(log, {url(part): _TARGET}))


def _raw(frames: Iterable[np.ndarray], shape: tuple[int, ...]) -> Iterator[bytes]:
    for number, frame in enumerate(frames):
        if frame.shape != shape or frame.dtype != np.uint8:
            raise ValueError(f"frame {number} is {frame.dtype} {frame.shape}, expected uint8 {shape} as the first")
        yield frame.tobytes()


def _arguments(stream: Any, path: str, names: Mapping[str, str]) -> list[str]:
    """The command line; file names are inserted last, as ffmpeg-python does not accept those that are not UTF-8."""
    built = ffmpeg_python.compile(stream.global_args(*GLOBAL), cmd=[path], overwrite_output=True)
    return [names.get(argument, argument) for argument in built]
