"""Finding the ffmpeg program: the one in MOCROP_FFMPEG, the one on PATH, or the one of imageio-ffmpeg."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass

import imageio_ffmpeg

from pipelines.media.ffmpeg_log import cause
from pipelines.media.subprocess_runner import run_again_if_killed

GLOBAL = ("-hide_banner", "-filter_threads", "1", "-nostdin", "-nostats", "-v", "level+error")
EVEN = "crop=trunc(iw/2)*2:trunc(ih/2)*2:0:0"  # filter that removes the last column or row of an odd side
COUNT_FRAMES = "metadata=mode=add:key=mocrop:value=1,metadata=mode=print:key=mocrop:file=-:direct=1"
"""Filters that print a line ``frame:N`` per frame to standard output, N from 0. N restarts when ffmpeg reinitialises
its filters, as it does when the decoded frames change their size."""
_X264 = {"x264": re.compile(rb"x264 - core (\d+)")}  # in the encoded stream


class FfmpegError(Exception):
    """ffmpeg is missing or failed; the message is one line, without paths."""


@dataclass(frozen=True, slots=True)
class Ffmpeg:
    """An ffmpeg program with libx264.

    ``build`` identifies what its output bytes depend on: the versions of ffmpeg and x264, and a hash of the
    configuration. It contains no path.
    """

    path: str
    version: str
    build: str


def find_ffmpeg() -> Ffmpeg:
    """The ffmpeg that ``MOCROP_FFMPEG`` names, else the system's, else the one of imageio-ffmpeg.

    The system's is skipped if it lacks libx264 or is older than 5.1; the one in ``MOCROP_FFMPEG`` must be usable. Each
    is tested once per process by encoding a frame. Raises FfmpegError, with advice, if none is usable.
    """
    return _find(os.environ.get("MOCROP_FFMPEG", ""), os.environ.get("PATH", ""))


@functools.cache
def _find(chosen: str, path: str) -> Ffmpeg:
    if chosen:
        return _tested(shutil.which(chosen, path=path) or chosen, "MOCROP_FFMPEG names a program that")
    if system := shutil.which("ffmpeg", path=path):
        with suppress(FfmpegError):
            return _tested(system, "the system's ffmpeg")
    try:
        bundled = str(imageio_ffmpeg.get_ffmpeg_exe())  # type: ignore[attr-defined]  # not in its __all__
    except RuntimeError as error:
        raise FfmpegError(
            "no ffmpeg with libx264 found: install ffmpeg 5.1 or later, or set MOCROP_FFMPEG to one"
        ) from error
    return _tested(bundled, "the ffmpeg of imageio-ffmpeg")


def _version_output(path: str) -> str:
    """The output of ``-version``; repeated up to twice if the program is killed meanwhile."""
    for tries_left in (2, 1, 0):
        done = subprocess.run([path, "-version"], capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
        if done.returncode >= 0 or not tries_left:
            break
    done.check_returncode()
    return done.stdout.decode(errors="replace")


def _tested(path: str, what: str) -> Ffmpeg:
    """Test the program at ``path`` by its version output and by encoding one grey frame."""
    advice = "set MOCROP_FFMPEG to an ffmpeg 5.1 or later with libx264"
    source = ("-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", "64x64", "-i", "pipe:0")
    target = ("-f", "h264", "-fps_mode", "passthrough", "-threads", "1", "-c:v", "libx264")
    trial = [path, *source, *target, "-vf", f"{EVEN},{COUNT_FRAMES}", "pipe:1", *GLOBAL]
    try:
        output = _version_output(path)
        log = run_again_if_killed(trial, 60.0, _X264, [bytes([128]) * (64 * 64 * 3 // 2)])
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "strerror", None) or "it fails with -version"
        raise FfmpegError(f"{what} cannot be run ({reason}): {advice}") from error
    if log.status:
        raise FfmpegError(f"{what} cannot encode with libx264 ({cause(log)}): {advice}")
    version = re.search(r"ffmpeg version (\S+)", output)
    configuration = re.search(r"configuration:(.*)", output)
    digest = hashlib.sha256((configuration[1] if configuration else "").strip().encode()).hexdigest()[:12]
    number = version[1] if version else "unknown"
    return Ffmpeg(path, number, f"ffmpeg {number}, x264 {log.facts.get('x264', 'unknown')}, configuration {digest}")
