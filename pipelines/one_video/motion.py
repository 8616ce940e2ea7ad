"""The motion vectors of one video, and a file that has some where it has none."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mocrop_core.motion_vectors import MotionVectors
from mocrop_core.vectors import PACKED, in_pixels
from pipelines.media import decoder
from pipelines.media.containers import NoVectors
from pipelines.media.encoder import EncodeSettings, transcode
from pipelines.media.ffmpeg_binary import find_ffmpeg

TIME_LIMIT = 7 * 86400.0
"""Seconds that ffmpeg may take for one video that a person waits for."""

OnFrames = Callable[[int, int], None]
"""Called with the number of frames done and the number of all, 0 where that is not known yet."""


def motion_vectors(path: Path, on_frames: OnFrames = lambda done, total: None) -> MotionVectors:
    """Decode a file for its motion vectors; ``VideoError`` where it cannot be read, `NoVectors` where it has none."""
    total = decoder.survey(path).frames or 0
    blocks = [np.empty(0, PACKED)]

    def take(block: np.ndarray) -> None:
        blocks.append(block)
        on_frames(int(block["frame"][-1]) + 1, total)

    motion = decoder.extract(path, take)
    vectors = in_pixels(np.concatenate(blocks), motion.motion_scale)
    return MotionVectors(vectors, motion.frame_size, motion.num_frames, motion.key_frames)


@contextmanager
def with_vectors(path: Path, on_frames: OnFrames = lambda done, total: None) -> Iterator[tuple[Path, MotionVectors]]:
    """Give a file and its motion vectors: ``path`` itself, or a temporary H.264 file made of it where it has none.

    That is so for codecs such as HEVC, VP9 and AV1, and for a picture that players turn or mirror; the H.264 file is
    made as the recipe ``ucf101`` makes it. ``VideoError`` or ``FfmpegError`` where neither can be had.
    """
    try:
        found = motion_vectors(path, on_frames)
    except NoVectors:
        with tempfile.TemporaryDirectory(prefix="mocrop-") as folder:
            copy = Path(folder, "video.mp4")
            transcode(path, copy, EncodeSettings(), find_ffmpeg(), TIME_LIMIT)
            yield copy, motion_vectors(copy, on_frames)
    else:
        yield path, found
