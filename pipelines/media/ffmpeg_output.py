"""Output files of ffmpeg: written atomically, with every frame counted."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipelines.atomic_files import atomic_write
from pipelines.media.ffmpeg_binary import FfmpegError
from pipelines.media.ffmpeg_log import cause, known_cause
from pipelines.media.subprocess_runner import Log, OnFact

FILTERED = "filtered"
"""Name of the fact that a frame has left the filters."""
ENCODED = re.compile(rb"^frame=\s*(\d+)")
"""Pattern of the fact ``encoded``: packets written to the output so far, from the output of ``-progress``."""
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}
_NEARLY_FULL = 1 << 16  # free bytes below which a disk counts as full


@contextmanager
def output_part(target: str | os.PathLike[str]) -> Iterator[Path]:
    """`atomic_write` of ``target``; FfmpegError if its folder is missing."""
    path = Path(os.fsdecode(target))
    if not path.parent.is_dir():
        raise FfmpegError("the output's folder: No such file or directory")
    with atomic_write(path) as part:
        yield part


def on_fact(on_frames: Callable[[int], None]) -> OnFact:
    """A callback that passes the number of frames that have left the filters to ``on_frames``."""
    return lambda name, count: on_frames(count) if name == FILTERED else None


def check_whole(log: Log, names: Mapping[str, str], folder: Path) -> None:
    """Raise FfmpegError if an encoding failed or lost a frame, OSError if ``folder`` could not be written to.

    ``names`` maps file names to the terms to replace them with in messages.
    """
    decoded, encoded = log.counts[FILTERED], int(log.facts.get("encoded", 0))
    if log.status:
        check_disk(log.status, folder)
        raise FfmpegError(cause(log, names))
    if not decoded:
        raise FfmpegError(known_cause(log.errors) or "no frame could be decoded")
    if decoded != encoded:
        raise FfmpegError(f"{decoded} frames were decoded but {encoded} encoded")


def check_disk(status: int, folder: Path) -> None:
    """Raise OSError if ffmpeg failed because nothing could be written to ``folder``.

    Since version 6.1, ffmpeg's exit status tells; for older versions, a nearly full disk is taken as the reason.
    """
    number = 256 - status
    if number not in _DISK_ERRORS and shutil.disk_usage(folder).free < _NEARLY_FULL:
        number = errno.ENOSPC
    if number in _DISK_ERRORS:
        raise OSError(number, os.strerror(number), str(folder))
