"""What is let in as a video file: the container formats, the largest frame, and what is wrong before any
parsing."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

FORMATS = "avi,mov,matroska,mpeg,mpegts,mpegvideo,m4v,h263,h264,hevc,flv,asf,ogg,ivf,gif,mxf,dv"
"""FFmpeg's names of the demuxers in use. Playlists (hls, concat, dash), image sequences and devices are left
out: a file of those formats can make the reader open other files or addresses."""

PROTOCOLS = "file"
"""FFmpeg's names of the protocols in use: files of this machine, nothing else."""

MAX_PIXELS = 4096 * 2304
"""The largest frame, width times height in px, that a decoder may set up unless the caller says otherwise: 4K. An
encoder holds some 40 frames, so this is what bounds the memory that a clip can take (``limits.MEMORY``)."""

_HEADER_BYTES = 1 << 16


class VideoError(Exception):
    """Why a video cannot be read: one line, without the path."""


class NoVectors(VideoError):
    """A video that can be decoded, but has no motion vectors of its own that fit its picture: transcode it."""


def url(path: str | os.PathLike[str]) -> str:
    """The path as FFmpeg takes it: ``file:`` keeps names such as ``-x.avi`` or ``a:b.avi`` from meaning
    something else."""
    return "file:" + os.fsdecode(path)


def fault(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> str:
    """Why ``path`` cannot be a video, in one line; empty if nothing is wrong that its first bytes show."""
    file = Path(os.fsdecode(path))
    if not file.exists():
        return "no such file"
    if not file.is_file():
        return "not a file"
    if not file.stat().st_size:
        return "the file is empty"
    with file.open("rb") as video:
        width, height = _claimed_by_avi(video.read(_HEADER_BYTES))
    return too_large(width, height, max_pixels) if width * height > max_pixels else ""


def too_large(width: int, height: int, max_pixels: int = MAX_PIXELS) -> str:
    """What is said of a frame that is not decoded for its size."""
    return f"a frame of {width}x{height} px is more than the {max_pixels} px that are decoded"


def is_cut_off_avi(path: str | os.PathLike[str]) -> bool:
    """Whether an AVI file is shorter than its first header says."""
    file = Path(os.fsdecode(path))
    with file.open("rb") as video:
        head = video.read(8)
    return head[:4] == b"RIFF" and len(head) == 8 and int.from_bytes(head[4:], "little") + 8 > file.stat().st_size


def _claimed_by_avi(head: bytes) -> tuple[int, int]:
    """The largest width and height that an AVI's main header and its video's format claim; zeros for other files.

    FFmpeg believes the stream where that says otherwise, so that it does not refuse such a file by itself.
    """
    if head[:4] != b"RIFF" or head[8:12] != b"AVI ":
        return 0, 0
    places = [(found + 40, "<II") for found in (head.find(b"avih"),) if found >= 0]
    for found in re.finditer(b"vids", head):
        if (form := head.find(b"strf", found.start())) >= 0:
            places.append((form + 12, "<ii"))  # a negative height has the rows from the top
    sizes = [struct.unpack_from(kind, head, place) for place, kind in places if place + 8 <= len(head)]
    width, height = max(sizes, key=lambda size: abs(size[0] * size[1]), default=(0, 0))
    return abs(width), abs(height)
