"""Which files are accepted as videos: container formats, largest frame, and checks before any parsing."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

FORMATS = "avi,mov,matroska,mpeg,mpegts,mpegvideo,m4v,h263,h264,hevc,flv,asf,ogg,ivf,gif,mxf,dv"
"""FFmpeg's names of the allowed demuxers. Playlists (hls, concat, dash), image sequences and devices are excluded:
files of these formats can make the reader open other files or addresses."""

PROTOCOLS = "file"
"""FFmpeg's names of the allowed protocols: local files only."""

MAX_PIXELS = 4096 * 2304
"""Default limit on the width times height of a frame in px (4K). An encoder holds about 40 frames, so this bounds the
memory that a clip can take (``limits.MEMORY``)."""

_HEADER_BYTES = 1 << 16


class VideoError(Exception):
    """A video cannot be read; the message is one line, without the path."""


class NoVectors(VideoError):
    """A video can be decoded, but has no motion vectors that match its displayed picture: transcode it."""


def url(path: str | os.PathLike[str]) -> str:
    """The path as a URL for FFmpeg; ``file:`` keeps it from misreading names such as ``-x.avi`` or ``a:b.avi``."""
    return "file:" + os.fsdecode(path)


def fault(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> str:
    """Why ``path`` cannot be a video, judged by its first bytes, in one line; "" if no problem is found."""
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
    """Error message for a frame above the size limit."""
    return f"a frame of {width}x{height} px exceeds the limit of {max_pixels} px"


def is_cut_off_avi(path: str | os.PathLike[str]) -> bool:
    """Return whether an AVI file is shorter than its RIFF header says."""
    file = Path(os.fsdecode(path))
    with file.open("rb") as video:
        head = video.read(8)
    return head[:4] == b"RIFF" and len(head) == 8 and int.from_bytes(head[4:], "little") + 8 > file.stat().st_size


def _claimed_by_avi(head: bytes) -> tuple[int, int]:
    """The largest width and height in an AVI's main header and video stream formats; zeros for other files.

    FFmpeg uses the size in the stream if that differs, so it would not refuse such a file by itself.
    """
    if head[:4] != b"RIFF" or head[8:12] != b"AVI ":
        return 0, 0
    fields = [(start + 40, "<II") for start in (head.find(b"avih"),) if start >= 0]
    for match in re.finditer(b"vids", head):
        if (start := head.find(b"strf", match.start())) >= 0:
            fields.append((start + 12, "<ii"))  # a negative height means that rows are stored top-down
    sizes = [struct.unpack_from(kind, head, offset) for offset, kind in fields if offset + 8 <= len(head)]
    width, height = max(sizes, key=lambda size: abs(size[0] * size[1]), default=(0, 0))
    return abs(width), abs(height)
