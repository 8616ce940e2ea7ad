"""A video that a caller names, as a file of this machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from data_specs.locations import is_url, shown
from pipelines.media.containers import VideoError
from pipelines.media.ffmpeg_binary import FfmpegError

Source = str | os.PathLike[str] | bytes | BinaryIO
"""A video: the path of a file, the URL of an object (s3://bucket/clip.mp4), the bytes of a file, or a binary file
object, which is read from where it stands to its end."""


@contextmanager
def local_video(source: Source) -> Iterator[Path]:
    """Give the path of a file that holds a video, for as long as the block lasts.

    A local path is given as it is; anything else becomes a temporary file. ``VideoError`` and ``FfmpegError`` in the
    block become a ``VideoError`` with the name of the source in front. Raises TypeError for anything that is not a
    source, ``StoreError`` where an object store refuses.
    """
    try:
        if isinstance(source, str | os.PathLike) and not is_url(os.fspath(source)):
            yield Path(source)
            return
        with tempfile.TemporaryDirectory(prefix="mocrop-") as folder:
            path = Path(folder, "video")
            _fill(path, source)
            yield path
    except (VideoError, FfmpegError) as error:
        kind = type(error) if isinstance(error, VideoError) else VideoError
        raise kind(f"{name_of(source)}: {error}") from error


def name_of(source: Source) -> str:
    """What to call a video in messages: its path or URL without a password, else what it is."""
    if isinstance(source, str | os.PathLike):
        return shown(os.fspath(source))
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else f"the video given as {type(source).__name__}"


def _fill(path: Path, source: Source) -> None:
    if isinstance(source, str):
        from data_specs.remote import download

        download(source, path)
        return
    with path.open("wb") as file:
        if isinstance(source, bytes | bytearray | memoryview):
            file.write(source)
        elif not isinstance(source, os.PathLike) and hasattr(source, "read") and isinstance(source.read(0), bytes):
            shutil.copyfileobj(source, file)
        else:
            kind = f"a {type(source).__name__}"
            raise TypeError(f"source must be a path, bytes or a file object opened in binary mode, got {kind}")
