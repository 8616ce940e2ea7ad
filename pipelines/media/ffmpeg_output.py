"""What ffmpeg writes: beside its target until it is whole, every frame of it counted."""

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
"""The name of the fact that a frame has left the filters."""
ENCODED = re.compile(rb"^frame=\s*(\d+)")
"""Of ``-progress``: packets given to the output; the fact's name is to be ``encoded``."""
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}
_HARDLY_ANY = 1 << 16  # bytes


@contextmanager
def output_part(target: str | os.PathLike[str]) -> Iterator[Path]:
    """A part of ``target``, see `atomic_write`; FfmpegError where its folder is missing."""
    path = Path(os.fsdecode(target))
    if not path.parent.is_dir():
        raise FfmpegError("the output's folder: No such file or directory")
    with atomic_write(path) as part:
        yield part


def on_fact(on_frames: Callable[[int], None]) -> OnFact:
    """Calls ``on_frames`` with the number of frames that have left the filters."""
    return lambda name, count: on_frames(count) if name == FILTERED else None


def check_whole(log: Log, names: Mapping[str, str], folder: Path) -> None:
    """FfmpegError where an encoding failed or lost a frame, OSError where its ``folder`` could not be written to.

    ``names`` says what messages call the files.
    """
    decoded, encoded = log.counts[FILTERED], int(log.facts.get("encoded", 0))
    if log.status:
        _check_disk(log.status, folder)
        raise FfmpegError(cause(log, names))
    if not decoded:
        raise FfmpegError(known_cause(log.errors) or "no frame could be decoded")
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
