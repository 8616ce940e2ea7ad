"""Encoding with ffmpeg: transcoding to H.264, and writing small videos from arrays.

ffmpeg-python builds the command lines; this module alone imports it. ffmpeg reads and writes nothing but the
named files, runs in a session of its own with bounded memory, and is killed when its time is over or its maker dies.
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
)  # stand-ins for file names, which may hold bytes that are no text
_EXACT: dict[str, Any] = {
    "threads": 1,
    "fflags": "+bitexact",
    "flags:v": "+bitexact",
    "map_metadata": -1,
    "map_chapters": -1,
}
_COLOURS: dict[str, Any] = {"pix_fmt": "yuv420p", "sws_flags": "bicubic+accurate_rnd+bitexact"}
_REGULAR: dict[str, Any] = {"bf": 0, "refs": 1, "sc_threshold": 0}

_ASIDE = -9_000_000  # a time stamp that no frame has
_INTERLACED_TOLD = (
    "split[whole][aside];"
    rf"[aside]select=not(eq(interlace_type\,PROGRESSIVE)),setpts={_ASIDE},{COUNT_FRAMES},nullsink;"
    "[whole]null"
)
"""Filters that print such a line, with that time stamp, for each frame that its decoder calls interlaced."""
_DEINTERLACE = "bwdif=mode=send_frame:deint=interlaced"
_FACTS = {
    "filtered": re.compile(rb"^frame:(\d+) +pts:(?!%d )" % _ASIDE),
    "begun": re.compile(rb"^frame:(0) +pts:(?!%d )" % _ASIDE),
    "interlaced": re.compile(rb"^frame:(\d+) +pts:%d " % _ASIDE),
    "encoded": ENCODED,
}
_DECODE_ERRORS = 69  # ffmpeg's status where decoding failed more often than -max_error_rate allows


@dataclass(frozen=True, slots=True)
class EncodeSettings:
    """How x264 encodes: ``preset`` (one of `PRESETS`), ``crf`` 0..51, ``gop`` frames from one key frame to
    the next; ``deinterlace`` says whether frames that are interlaced lose their combs before.

    The rest is fixed, because the vectors depend on it: no B-frames (they list both directions), one
    reference frame (FFmpeg does not tell how far away the reference of a vector is, so more would inflate
    them), key frames in regular places only, 4:2:0 with 8 bits. GOP 12 as in CoViAR; preset and CRF are
    x264's own defaults.
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
    """What `transcode` found in the source, by its ``survey`` and what was ``decoded``; all frames are encoded."""

    survey: Survey
    decoded: Decoded

    @property
    def frames(self) -> int:
        """How many frames were decoded and encoded."""
        return self.decoded.frames


def transcode(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    encode: EncodeSettings,
    ffmpeg: Ffmpeg,
    time_limit: float,
    on_frames: Callable[[int], None] = lambda count: None,
) -> Transcoded:
    """Encode the video stream of ``source`` that `decoder.survey` chooses as H.264 into the MP4 file ``target``, every
    frame of it, on one core.

    Frames of odd sides lose their last column or row. Packets that cannot be decoded are passed over, as
    ffmpeg does, and counted. The same source, settings and build give the same bytes. ``target`` is whole or not
    there: it is written beside under another name. Frames that are interlaced are rebuilt from their first field
    (FFmpeg's bwdif), so that their number stays; others are left alone. Raises FfmpegError where ffmpeg refuses the
    file, nothing can be decoded, frames change their size, a decoded frame is not encoded, or it takes more than
    ``time_limit`` seconds; OSError where the disk is full or refuses to be written. ``on_frames`` is called with the
    number of frames done, from another thread, and again from 0 where the encoding has to be done again.
    """
    end = time.monotonic() + time_limit
    try:
        survey = decoder.survey(source)
        with output_part(target) as part:
            names = {_SOURCE: url(source), _TARGET: url(part)}
            log = _run_transcoding(_transcoding(encode, survey.stream, 0), ffmpeg, names, end, on_frames)
            damaged = log.status == _DECODE_ERRORS
            if damaged:  # ffmpeg may have stopped early
                log = _run_transcoding(_transcoding(encode, survey.stream, 1), ffmpeg, names, end, on_frames)
            if encode.deinterlace and log.counts["interlaced"] and not log.status:
                stream = _transcoding(encode, survey.stream, int(damaged), True)
                log = _run_transcoding(stream, ffmpeg, names, end, on_frames)
            if log.late:
                raise FfmpegError(f"took longer than {time_limit:g} s and was stopped")
            check_whole(log, {name: stand_in for stand_in, name in names.items()}, Path(os.fsdecode(target)).parent)
            bad_packets = 0
            if damaged or log.counts["begun"] > 1:
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
    """The command of `transcode` for the stream of that index, with stand-ins for the file names.

    Deinterlacing waits for the frame after, and would lose one wherever ffmpeg makes its filters anew; so only videos
    with interlaced frames get the filter, which leaves others as they are.
    """
    filters = [EVEN, COUNT_FRAMES, _INTERLACED_TOLD, *([_DEINTERLACE] if deinterlace else [])]
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
        **_REGULAR,
        **_COLOURS,
        **_EXACT,
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

    ``mpeg4`` gives an AVI as in UCF-101 (XviD's tag, GOP 12, no B-frames), ``libx264`` an MP4 as `transcode`
    makes. ``options`` are ffmpeg's own output options in place of these (``bf=2``, ``g=250``, ``crf=30``,
    ``format="mov"``). The same frames, options and build give the same bytes. Raises ValueError for no frames
    or a frame of another shape or type, FfmpegError where ffmpeg refuses; ``target`` is whole or untouched.
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
        "libx264": {"format": "mp4", "preset": "medium", "crf": 23, "g": 12, **_REGULAR},
    }[codec]
    settings = {**settings, "vcodec": codec, **_COLOURS, **_EXACT, **options}
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
    """The command line, with the names of files put in last: ffmpeg-python cannot take those that are no
    UTF-8."""
    built = ffmpeg_python.compile(stream.global_args(*GLOBAL), cmd=[path], overwrite_output=True)
    return [names.get(argument, argument) for argument in built]
