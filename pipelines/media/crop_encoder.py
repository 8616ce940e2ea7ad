"""Writing the box of a video as an H.264 video with the source's timestamps, sound and orientation."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from data_specs.resources import usable_cores
from mocrop_core.box_path import BoxPath
from pipelines.media.containers import FORMATS, MAX_PIXELS, PROTOCOLS, url
from pipelines.media.ffmpeg_binary import COUNT_FRAMES, GLOBAL, Ffmpeg, FfmpegError
from pipelines.media.ffmpeg_output import ENCODED, FILTERED, check_whole, on_fact, output_part
from pipelines.media.streams import Survey
from pipelines.media.subprocess_runner import run_again_if_killed

MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""FFmpeg's name of the container for each allowed suffix of an output file."""
QUALITY = {"preset": "medium", "crf": "18"}
"""x264 settings; better quality than for motion vectors, as crops are for viewing and further processing."""
_COPIED = {"aac", "ac3", "alac", "eac3", "mp3"}  # sound codecs that all these containers support
_MOST_THREADS = 4
MOST_MOMENTS = 200
"""Largest number of moments of a box path: it becomes one ffmpeg argument, which is limited to 128 kB."""
_FACTS = {FILTERED: re.compile(rb"^frame:(\d+) "), "encoded": ENCODED}


def write_crop(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    path: BoxPath,
    size: tuple[int, int] | None,
    survey: Survey,
    ffmpeg: Ffmpeg,
    time_limit: float,
    *,
    deinterlace: bool = False,
    on_frames: Callable[[int], None] = lambda count: None,
) -> int:
    """Crop every frame of a video to a box and encode it into ``target``; return the number of frames.

    ``path`` gives the box in each frame, in px of the displayed picture; an odd side loses its last column or row.
    ``size`` is the (height, width) to resize to, both even, or None. Frames keep their timestamps. Sound is copied, or
    encoded as AAC if the container does not support its codec (`sound_notes`). ``target`` is written atomically.
    Undecodable packets are skipped. Raises FfmpegError if ffmpeg fails or takes more than ``time_limit`` seconds,
    OSError if the output cannot be written.
    """
    end = time.monotonic() + time_limit
    with output_part(target) as part:
        command = [ffmpeg.path, *GLOBAL, *_input(source), *_streams(survey, target)]
        command += ["-vf", _filters(path, size, deinterlace), *_video(survey)]
        command += ["-f", MUXERS[Path(target).suffix.lower()], "-progress", "pipe:1", "-y", url(part)]
        log = run_again_if_killed(command, max(end - time.monotonic(), 0.001), _FACTS, on_fact=on_fact(on_frames))
        if log.late:
            raise FfmpegError(f"took longer than {time_limit:g} s and was stopped")
        check_whole(log, {url(source): "the input", url(part): "the output"}, Path(target).parent)
    return log.counts[FILTERED]


def sound_notes(survey: Survey, target: str | os.PathLike[str]) -> list[str]:
    """One line for each non-video stream that is not copied, on how it is handled."""
    notes = []
    for codec, becomes in zip(survey.sound, _sound(survey, target), strict=True):
        if becomes == "aac":
            notes.append(f"sound: {codec} is encoded as AAC")
        elif not becomes:
            notes.append("sound of an unknown codec is left out")
    if survey.others:
        notes.append(f"{survey.others} {'stream' if survey.others == 1 else 'streams'} of text or data left out")
    return notes


def _sound(survey: Survey, target: str | os.PathLike[str]) -> list[str]:
    """For each sound stream ``copy``, ``aac``, or "" if it is left out."""
    everything = MUXERS[Path(target).suffix.lower()] == "matroska"
    return ["copy" if everything or codec in _COPIED else "aac" if codec else "" for codec in survey.sound]


def _input(source: str | os.PathLike[str]) -> list[str]:
    guards = ["-protocol_whitelist", PROTOCOLS, "-format_whitelist", FORMATS, "-max_pixels", str(MAX_PIXELS)]
    return [*guards, "-threads", "1", "-max_error_rate", "1", "-i", url(source)]


def _streams(survey: Survey, target: str | os.PathLike[str]) -> list[str]:
    words = ["-map", f"0:{survey.stream}"]
    kept = 0
    for number, becomes in enumerate(_sound(survey, target)):
        if becomes:
            words += ["-map", f"0:a:{number}", f"-c:a:{kept}", becomes]
            kept += 1
    return words


def _filters(path: BoxPath, size: tuple[int, int] | None, deinterlace: bool) -> str:
    """The filter chain; it crops in 4:4:4, so that a box may start at any pixel."""
    box = path.boxes[0]
    width, height = box.width // 2 * 2, box.height // 2 * 2
    if not (width and height):
        raise FfmpegError(f"a side of 1 px cannot be encoded: the box has {box.width}x{box.height} px")
    x, y = (_place(path.moments, [getattr(box, side) for box in path.boxes]) for side in ("x0", "y0"))
    filters = ["bwdif=mode=send_frame:deint=interlaced"] * deinterlace
    filters += ["format=yuv444p", f"crop={width}:{height}:'{x}':'{y}':exact=1"]
    if size is not None:
        filters += [f"scale={size[1]}:{size[0]}:flags=bicubic+accurate_rnd", "setsar=1"]
    return ",".join([*filters, COUNT_FRAMES])


def _place(moments: Sequence[float], places: Sequence[int]) -> str:
    """ffmpeg's expression for a corner coordinate in frame ``n``, equal to `BoxPath.box_at`."""
    text = str(places[-1])
    for (begin, end), (first, second) in reversed(list(zip(pairwise(moments), pairwise(places), strict=True))):
        eased = f"st(0,(n-{begin!r})/({end!r}-{begin!r}));st(1,{first}+ld(0)*ld(0)*(3-2*ld(0))*({second}-{first}))"
        rounded = "if(eq(mod(ld(1),1),0.5),2*round(ld(1)/2),round(ld(1)))"  # rounds half to even
        text = f"if(lt(n,{end!r}),{eased};{rounded},{text})"
    return f"if(lt(n,{moments[0]!r}),{places[0]},{text})" if len(places) > 1 else text


def _video(survey: Survey) -> list[str]:
    base = survey.time_base
    words = ["-enc_time_base", f"{base.numerator}/{base.denominator}"] if base else []
    words += ["-fps_mode", "passthrough", "-c:v", "libx264", "-pix_fmt", "yuv420p"]
    words += [word for name, value in QUALITY.items() for word in (f"-{name}", value)]
    return [*words, "-threads:v", str(min(_MOST_THREADS, usable_cores())), "-movflags", "+faststart"]
