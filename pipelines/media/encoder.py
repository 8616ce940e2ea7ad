"""The ffmpeg program: finding one that will do, transcoding to H.264, writing small videos from arrays.

ffmpeg-python builds the command lines; this module alone imports it. ffmpeg reads and writes nothing but the
named files, runs in a session of its own with bounded memory, and is killed when its time is over or its maker dies.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import ffmpeg as ffmpeg_python
import imageio_ffmpeg
import numpy as np

from pipelines.atomic_files import beside
from pipelines.media import decoder
from pipelines.media.containers import FORMATS, MAX_PIXELS, PROTOCOLS, url
from pipelines.media.streams import Decoded, Survey
from pipelines.media.subprocess_runner import Log, run, run_again_if_killed

PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")
"""x264's presets, the fastest first."""

_SOURCE, _TARGET = (
    "the input",
    "the output",
)  # stand-ins for file names, which may hold bytes that are no text
_GLOBAL = ("-hide_banner", "-filter_threads", "1", "-nostdin", "-nostats", "-v", "level+error")
_EXACT: dict[str, Any] = {
    "threads": 1,
    "fflags": "+bitexact",
    "flags:v": "+bitexact",
    "map_metadata": -1,
    "map_chapters": -1,
}
_COLOURS: dict[str, Any] = {"pix_fmt": "yuv420p", "sws_flags": "bicubic+accurate_rnd+bitexact"}
_REGULAR: dict[str, Any] = {"bf": 0, "refs": 1, "sc_threshold": 0}

_EVEN = "crop=trunc(iw/2)*2:trunc(ih/2)*2:0:0"  # the filter that leaves out the last column or row of odd sides
_TOLD = "metadata=mode=add:key=mocrop:value=1,metadata=mode=print:key=mocrop:file=-:direct=1"
"""Filters that print a line ``frame:N`` for each frame on standard output, N from 0 on. N begins again where ffmpeg
makes its filters anew, as it does when the decoded frames change their size."""
_ASIDE = -9_000_000  # a time stamp that no frame has
_INTERLACED_TOLD = (
    "split[whole][aside];"
    rf"[aside]select=not(eq(interlace_type\,PROGRESSIVE)),setpts={_ASIDE},{_TOLD},nullsink;"
    "[whole]null"
)
"""Filters that print such a line, with that time stamp, for each frame that its decoder calls interlaced."""
_DEINTERLACE = "bwdif=mode=send_frame:deint=interlaced"
_FACTS = {
    "filtered": re.compile(rb"^frame:(\d+) +pts:(?!%d )" % _ASIDE),
    "begun": re.compile(rb"^frame:(0) +pts:(?!%d )" % _ASIDE),
    "interlaced": re.compile(rb"^frame:(\d+) +pts:%d " % _ASIDE),
    "encoded": re.compile(rb"^frame=\s*(\d+)"),  # of -progress: packets given to the output
}
_X264 = {"x264": re.compile(rb"x264 - core (\d+)")}  # in the encoded stream
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}
_HARDLY_ANY = 1 << 16  # bytes
_DECODE_ERRORS = 69  # ffmpeg's status where decoding failed more often than -max_error_rate allows
_CAUSES = {
    r"Cannot allocate memory": "it needs more memory than ffmpeg may have",
    r"matches no streams": "there is no video stream in it",
    r"not on whitelist": f"its container format is not among those read here: {FORMATS}",
    r"non positive size for width '(\d+)' or height '(\d+)'": (
        r"a side of 1 px cannot be encoded: cut to even sides, a frame is \1x\2 px"
    ),
    r"Picture size (\d+x\d+) (exceeds|is invalid)": (
        rf"a frame of \1 px is more than the {MAX_PIXELS} px that are decoded"
    ),
    r"Cannot determine format of input|received no packets|Output file is empty": "no frame could be decoded",
}
_CONSEQUENCE = re.compile(
    r"Task finished|Terminating thread|before EOF|Error (opening|parsing options for) (in|out)put"
    r"|Nothing was written|Failed to set value|Conversion failed|Error (re)?initializing|Error submitting"
    r"|^the input: "
)


class FfmpegError(Exception):
    """Why ffmpeg is missing or did not do its work: one line, without paths."""


@dataclass(frozen=True, slots=True)
class Ffmpeg:
    """An ffmpeg program that has libx264: its ``path``, its ``version``, and ``build``, which names what its
    output bytes depend on (the versions of ffmpeg and x264 and a hash of the configuration) and holds no
    path."""

    path: str
    version: str
    build: str


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


def find_ffmpeg() -> Ffmpeg:
    """The ffmpeg that ``MOCROP_FFMPEG`` names, else the system's, else the one that comes with
    imageio-ffmpeg.

    The system's is passed over where it lacks libx264 or is older than 5.1; the one of ``MOCROP_FFMPEG`` is
    never. Each is tried by encoding one frame, once a process. Raises FfmpegError with what to do where none
    will do.
    """
    return _find(os.environ.get("MOCROP_FFMPEG", ""), os.environ.get("PATH", ""))


@functools.cache
def _find(chosen: str, path: str) -> Ffmpeg:
    if chosen:
        return _tried(shutil.which(chosen, path=path) or chosen, "MOCROP_FFMPEG names a program that")
    if system := shutil.which("ffmpeg", path=path):
        with suppress(FfmpegError):
            return _tried(system, "the system's ffmpeg")
    try:
        bundled = str(imageio_ffmpeg.get_ffmpeg_exe())  # type: ignore[attr-defined]  # exported without saying so
    except RuntimeError as error:
        raise FfmpegError(
            "no ffmpeg with libx264 found: install ffmpeg 5.1 or later, or set MOCROP_FFMPEG to one"
        ) from error
    return _tried(bundled, "the ffmpeg of imageio-ffmpeg")


def _said_of_itself(path: str) -> str:
    """What ``-version`` prints; asked again where the program is killed meanwhile."""
    for tries_left in (2, 1, 0):
        done = subprocess.run([path, "-version"], capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
        if done.returncode >= 0 or not tries_left:
            break
    done.check_returncode()
    return done.stdout.decode(errors="replace")


def _tried(path: str, what: str) -> Ffmpeg:
    """The program at ``path`` as seen from its own words and from a trial encode of one grey frame."""
    advice = "set MOCROP_FFMPEG to an ffmpeg 5.1 or later with libx264"
    raw = {"format": "rawvideo", "pix_fmt": "yuv420p", "s": "64x64"}
    trial = ffmpeg_python.input("pipe:0", **raw).output(
        "pipe:1", format="h264", vcodec="libx264", vf=f"{_EVEN},{_TOLD}", fps_mode="passthrough", threads=1
    )
    try:
        said = _said_of_itself(path)
        log = run_again_if_killed(_arguments(trial, path, {}), 60.0, _X264, [bytes([128]) * (64 * 64 * 3 // 2)])
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "strerror", None) or "it does not answer to -version"
        raise FfmpegError(f"{what} cannot be run ({reason}): {advice}") from error
    if log.status:
        raise FfmpegError(f"{what} cannot encode with libx264 ({_cause(log)}): {advice}")
    version = re.search(r"ffmpeg version (\S+)", said)
    configuration = re.search(r"configuration:(.*)", said)
    digest = hashlib.sha256((configuration[1] if configuration else "").strip().encode()).hexdigest()[:12]
    number = version[1] if version else "unknown"
    return Ffmpeg(path, number, f"ffmpeg {number}, x264 {log.facts.get('x264', 'unknown')}, configuration {digest}")


def transcode(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    encode: EncodeSettings,
    ffmpeg: Ffmpeg,
    time_limit: float,
) -> Transcoded:
    """Encode the video stream of ``source`` that `decoder.survey` chooses as H.264 into the MP4 file ``target``, every
    frame of it, on one core.

    Frames of odd sides lose their last column or row. Packets that cannot be decoded are passed over, as
    ffmpeg does, and counted. The same source, settings and build give the same bytes. ``target`` is whole or not
    there: it is written beside under another name. Frames that are interlaced are rebuilt from their first field
    (FFmpeg's bwdif), so that their number stays; others are left alone. Raises FfmpegError where ffmpeg refuses the
    file, nothing can be decoded, frames change their size, a decoded frame is not encoded, or it takes more than
    ``time_limit`` seconds; OSError where the disk is full or refuses to be written.
    """
    end = time.monotonic() + time_limit
    try:
        survey = decoder.survey(source)
        with _beside(target) as part:
            names = {_SOURCE: url(source), _TARGET: url(part)}
            log = _run_transcoding(_transcoding(encode, survey.stream, 0), ffmpeg, names, end)
            damaged = log.status == _DECODE_ERRORS
            if damaged:  # ffmpeg may have stopped early
                log = _run_transcoding(_transcoding(encode, survey.stream, 1), ffmpeg, names, end)
            if encode.deinterlace and log.counts["interlaced"] and not log.status:
                log = _run_transcoding(_transcoding(encode, survey.stream, int(damaged), True), ffmpeg, names, end)
            if log.late:
                raise FfmpegError(f"took longer than {time_limit:g} s and was stopped")
            _check_whole(log, names)
            bad_packets = 0
            if damaged or log.counts["begun"] > 1:
                bad_packets = decoder.decode_all(source, time_limit=time_limit).bad_packets
    except decoder.VideoError as error:
        raise FfmpegError(str(error)) from error
    return Transcoded(survey, Decoded(log.counts["filtered"], bad_packets, log.counts["interlaced"]))


def _run_transcoding(stream: Any, ffmpeg: Ffmpeg, names: Mapping[str, str], end: float) -> Log:
    command = _arguments(stream.global_args("-progress", "pipe:1"), ffmpeg.path, names)
    return run_again_if_killed(command, max(end - time.monotonic(), 0.001), _FACTS)


def _check_whole(log: Log, names: Mapping[str, str]) -> None:
    """FfmpegError where a transcoding failed or lost a frame."""
    decoded, encoded = log.counts["filtered"], int(log.facts.get("encoded", 0))
    if log.status:
        _check_disk(log.status, Path(names[_TARGET].removeprefix("file:")).parent)
        raise FfmpegError(_cause(log, {name: stand_in for stand_in, name in names.items()}))
    if not decoded:
        raise FfmpegError(_known_cause(log.errors) or "no frame could be decoded")
    if decoded != encoded:
        raise FfmpegError(f"{decoded} frames were decoded but {encoded} encoded")


def _check_disk(status: int, folder: Path) -> None:
    """OSError where ffmpeg failed because nothing could be written to ``folder``.

    Its status tells since version 6.1; before, a disk with hardly any space left does.
    """
    number = 256 - status
    if number not in _DISK_ERRORS and shutil.disk_usage(folder).free < _HARDLY_ANY:
        number = errno.ENOSPC
    if number in _DISK_ERRORS:
        raise OSError(number, os.strerror(number), str(folder))


def _transcoding(encode: EncodeSettings, stream: int, max_error_rate: float, deinterlace: bool = False) -> Any:
    """The command of `transcode` for the stream of that index, with stand-ins for the file names.

    Deinterlacing waits for the frame after, and would lose one wherever ffmpeg makes its filters anew; so only videos
    with interlaced frames get the filter, which leaves others as they are.
    """
    filters = [_EVEN, _TOLD, _INTERLACED_TOLD, *([_DEINTERLACE] if deinterlace else [])]
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
    with _beside(target) as part:
        command = _arguments(source.output(_TARGET, **settings), find_ffmpeg().path, {_TARGET: url(part)})
        log = run(command, time_limit, {}, _raw(chain([first], rest), first.shape))
        if log.late:
            raise FfmpegError(f"took longer than {time_limit:g} s and was stopped")
        if log.status:
            raise FfmpegError(_cause(log, {url(part): _TARGET}))


def _raw(frames: Iterable[np.ndarray], shape: tuple[int, ...]) -> Iterator[bytes]:
    for number, frame in enumerate(frames):
        if frame.shape != shape or frame.dtype != np.uint8:
            raise ValueError(f"frame {number} is {frame.dtype} {frame.shape}, expected uint8 {shape} as the first")
        yield frame.tobytes()


@contextmanager
def _beside(target: str | os.PathLike[str]) -> Iterator[Path]:
    """A part of ``target``, see `beside`; FfmpegError where its folder is missing."""
    path = Path(os.fsdecode(target))
    if not path.parent.is_dir():
        raise FfmpegError("the output's folder: No such file or directory")
    with beside(path) as part:
        yield part


def _arguments(stream: Any, path: str, names: Mapping[str, str]) -> list[str]:
    """The command line, with the names of files put in last: ffmpeg-python cannot take those that are no
    UTF-8."""
    built = ffmpeg_python.compile(stream.global_args(*_GLOBAL), cmd=[path], overwrite_output=True)
    return [names.get(argument, argument) for argument in built]


def _cause(log: Log, names: Mapping[str, str] | None = None) -> str:
    """The one line that says best why a run failed: a known cause, else the last error that is not just a
    consequence.

    ``names`` says what to call the files.
    """
    if log.signal and not (log.status > 0 and log.errors):
        return f"ffmpeg was ended by {log.signal} each time"
    lines = []
    for line in log.errors:
        for path, name in (names or {}).items():
            line = line.replace(path, name).replace(path.removeprefix("file:"), name)
        line = re.sub(r"\[[^\]]* @ 0x[0-9a-f]+\] |\[(error|fatal)\] ", "", line)
        lines.append(line.encode(errors="replace").decode())
    if known := _known_cause(lines):
        return known
    if telling := [line for line in lines if not _CONSEQUENCE.search(line)]:
        return telling[-1][:300]
    if any("Invalid data found" in line for line in lines):
        return "it is not a video, or too damaged to be opened (Invalid data found when processing input)"
    return lines[-1][:300] if lines else f"it ended with status {log.status}"


def _known_cause(lines: Iterable[str]) -> str:
    """The first of `_CAUSES` that errors show; empty for none."""
    for pattern, cause in _CAUSES.items():
        for line in lines:
            if found := re.search(pattern, line):
                return found.expand(cause)
    return ""
