"""A video given by a caller, as a local file."""

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
object, which is read from its current position to its end."""


@contextmanager
def local_video(source: Source) -> Iterator[Path]:
    """Yield the path of a file with the video, valid during the block.

    A local path is used directly; anything else is copied to a temporary file. ``VideoError`` and ``FfmpegError`` in
    the block become a ``VideoError`` that begins with the name of the source. Raises TypeError for another type of
    source, ``StoreError`` if an object store refuses.
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
    """The name of a video in messages: its path or URL without a password, else its type."""
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
