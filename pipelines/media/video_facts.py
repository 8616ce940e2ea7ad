"""What reading a video finds besides pictures and vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Probe:
    """Properties in a file's header: the decoder's name, the frame's ``width`` and ``height`` in px (0 if unknown),
    and whether the decoder exports motion vectors."""

    codec: str
    width: int
    height: int
    exports_vectors: bool


@dataclass(frozen=True, slots=True)
class Motion:
    """The result of `extract` besides the vectors.

    ``frame_size`` is (height, width) in px; ``key_frames`` are the numbers of the key frames; ``motion_scale`` is the
    number of vector units per px, 1 if there are no vectors; ``bad_packets`` is the number of undecodable packets, and
    ``num_interlaced`` that of interlaced frames. Of a window of a video, ``first_frame`` is the number of its first
    frame in the video, ``last_time`` is when its last frame is shown (seconds), and ``goes_on`` is set if the video has
    frames after it.
    """

    num_frames: int
    frame_size: tuple[int, int]
    key_frames: tuple[int, ...]
    motion_scale: int
    num_vectors: int
    bad_packets: int
    num_interlaced: int = 0
    first_frame: int = 0
    last_time: float = -math.inf
    goes_on: bool = False
