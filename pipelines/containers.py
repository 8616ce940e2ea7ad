"""What is let in as a video file: the container formats, the largest frame, and what is wrong before any
parsing."""

from __future__ import annotations

import os
from pathlib import Path

FORMATS = "avi,mov,matroska,mpeg,mpegts,mpegvideo,m4v,h263,h264,flv,asf,ogg,ivf"
"""FFmpeg's names of the demuxers in use. Playlists (hls, concat, dash), image sequences and devices are left
out: a file of those formats can make the reader open other files or addresses."""

PROTOCOLS = "file"
"""FFmpeg's names of the protocols in use: files of this machine, nothing else."""

MAX_PIXELS = 4096 * 2304
"""The largest frame, width times height in px, that a decoder may set up unless the caller says otherwise: 4K. An
encoder holds some 40 frames, so this is what bounds the memory that a clip can take (``limits.MEMORY``)."""


def url(path: str | os.PathLike[str]) -> str:
    """The path as FFmpeg takes it: ``file:`` keeps names such as ``-x.avi`` or ``a:b.avi`` from meaning
    something else."""
    return "file:" + os.fsdecode(path)


def fault(path: str | os.PathLike[str]) -> str:
    """Why ``path`` cannot be a video, in one line; empty if nothing is wrong that can be seen without reading
    it."""
    file = Path(os.fsdecode(path))
    if not file.exists():
        return "no such file"
    if not file.is_file():
        return "not a file"
    return "" if file.stat().st_size else "the file is empty"
