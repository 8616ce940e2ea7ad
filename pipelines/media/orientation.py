"""Rotation and mirroring of displayed pictures by the display matrix (ISO/IEC 14496-12, 8.3.2)."""

from __future__ import annotations

import struct

import numpy as np

from pipelines.media.containers import NoVectors, VideoError


def check_upright(matrix: bytes, number: int) -> None:
    """Raise `NoVectors` if the display matrix of frame ``number`` rotates or mirrors the picture."""
    across, right_down, _, down_right, down, *_ = struct.unpack("=9i", matrix)
    if across <= 0 or down <= 0 or right_down or down_right:
        raise NoVectors(
            f"its display matrix rotates or mirrors the picture (frame {number}), but its vectors refer to the coded "
            "picture: transcode it to H.264"
        )


def upright(picture: np.ndarray, matrix: bytes) -> np.ndarray:
    """Apply a display matrix to a picture (height, width, 3).

    Raises ``VideoError`` for a rotation by other than multiples of 90 degrees.
    """
    across, right_down, _, down_right, down, *_ = struct.unpack("=9i", matrix)
    if across and down and not right_down and not down_right:
        right, downward = across, down
    elif right_down and down_right and not across and not down:
        picture = picture.transpose(1, 0, 2)
        right, downward = down_right, right_down
    else:
        raise VideoError("its display matrix does not rotate the picture by a multiple of 90 degrees: transcode it")
    return np.ascontiguousarray(picture[:: 1 if downward > 0 else -1, :: 1 if right > 0 else -1])
