"""Crops of one video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from mocrop_core.box_path import BoxPath
from mocrop_core.boxes import Box
from mocrop_core.frames import sample_segments_test
from mocrop_core.ranges import check_count
from pipelines.media import decoder
from pipelines.media.pictures import cropped
from pipelines.one_video.sources import Source, local_video


def crop(source: Source, box: Box | BoxPath, size: int = 224, frames: int | Sequence[int] = 8) -> npt.NDArray[np.uint8]:
    """Decode frames of a video and crop them to a box.

    source: as in `read_motion_vectors`, with any codec. box: in px of the displayed frame, as returned by `find_box`;
    or the path of a moving box. size: height and width to resize the box to, px, >= 1 (Pillow's antialiased bilinear
    filter). frames: the number of frames, >= 1, from the middles of that many equal parts of the video, so that a short
    video repeats frames; or a sequence of frame numbers, from 0. Returns uint8 (frames, size, size, 3), RGB. Raises
    ``mocrop.VideoError`` for a file that is not a video or ends before a requested frame, ValueError for a box outside
    the frame or a number out of range.

    >>> mocrop.crop("clip.mp4", mocrop.Box(0, 40, 200, 240), size=112, frames=4).shape
    (4, 112, 112, 3)
    """
    check_count("size", size, least=1)
    if not isinstance(box, (Box, BoxPath)):
        raise TypeError(f"box must be a mocrop.Box or a path of boxes, got {box!r}; write mocrop.Box(x0, y0, x1, y1)")
    with local_video(source) as path:
        numbers = _numbers(path, frames)
        pictures = {}
        for number, picture in decoder.rgb_frames(path, numbers):
            height, width, _ = picture.shape
            here = box.box_at(number) if isinstance(box, BoxPath) else box
            if here.x1 > width or here.y1 > height:
                raise ValueError(f"box {here.corners} leaves the frame of {width}x{height} px")
            pictures[number] = cropped(Image.fromarray(picture), here.corners, size)
    return np.stack([pictures[number] for number in numbers])


def _numbers(path: Path, frames: int | Sequence[int]) -> list[int]:
    if isinstance(frames, Sequence):
        if not frames:
            raise ValueError("frames must name at least one frame, got none")
        return [int(number) for number in frames]
    check_count("frames", frames, least=1)
    return sample_segments_test(decoder.decode_all(path).frames, frames).tolist()
