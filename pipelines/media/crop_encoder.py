"""Writing the box of a video as a video: H.264, with the source's time stamps and sound, as it is shown."""

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
"""FFmpeg's name of the container for each suffix that an output may have."""
QUALITY = {"preset": "medium", "crf": "18"}
"""x264's settings: a crop is for people and programs to look at, so it loses less than what vectors are made from."""
_COPIED = {"aac", "ac3", "alac", "eac3", "mp3"}  # sound that every one of these containers takes as it is
_MOST_THREADS = 4
MOST_MOMENTS = 200
"""Moments of a path that a box may move along: they are an argument of ffmpeg's, of 128 kB at most."""
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
    """Encode the box of a video into ``target``, every frame of it; the number of frames.

    ``path`` is where the box is in each frame, px of the picture as it is shown; its last column or row is left out
    where a side is odd. ``size`` is the (height, width) that it is resized to, even; None for its own. Frames keep
    their time stamps. Sound is copied, or encoded as AAC where the container does not take it (`sound_notes`).
    ``target`` is whole or untouched. Packets that cannot be decoded are passed over. Raises FfmpegError where ffmpeg
    refuses or takes more than ``time_limit`` seconds, OSError where nothing can be written.
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
    """What becomes of the streams beside the picture, where they are not copied: a line each."""
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
    """For each sound stream, ``copy``, ``aac``, or an empty text where it is left out."""
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
    """Cropped in 4:4:4, where a box may begin at any pixel."""
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
    """ffmpeg's expression for a corner in frame ``n``: what `BoxPath.box_at` says of it."""
    text = str(places[-1])
    for (begin, end), (first, second) in reversed(list(zip(pairwise(moments), pairwise(places), strict=True))):
        eased = f"st(0,(n-{begin!r})/({end!r}-{begin!r}));st(1,{first}+ld(0)*ld(0)*(3-2*ld(0))*({second}-{first}))"
        rounded = "if(eq(mod(ld(1),1),0.5),2*round(ld(1)/2),round(ld(1)))"  # halves to the even number
        text = f"if(lt(n,{end!r}),{eased};{rounded},{text})"
    return f"if(lt(n,{moments[0]!r}),{places[0]},{text})" if len(places) > 1 else text


def _video(survey: Survey) -> list[str]:
    base = survey.time_base
    words = ["-enc_time_base", f"{base.numerator}/{base.denominator}"] if base else []
    words += ["-fps_mode", "passthrough", "-c:v", "libx264", "-pix_fmt", "yuv420p"]
    words += [word for name, value in QUALITY.items() for word in (f"-{name}", value)]
    return [*words, "-threads:v", str(min(_MOST_THREADS, usable_cores())), "-movflags", "+faststart"]
