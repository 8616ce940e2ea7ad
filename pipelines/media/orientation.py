"""How a picture is turned or mirrored when it is shown: the display matrix of ISO/IEC 14496-12, 8.3.2."""

from __future__ import annotations

import struct

import numpy as np

from pipelines.media.containers import NoVectors, VideoError


def check_upright(matrix: bytes, number: int) -> None:
    """`NoVectors` if the display matrix of frame ``number`` does more than move or scale the picture."""
    across, right_down, _, down_right, down, *_ = struct.unpack("=9i", matrix)
    if across <= 0 or down <= 0 or right_down or down_right:
        raise NoVectors(
            f"its display matrix turns or mirrors the picture (frame {number}), and vectors are those of the "
            "picture as it is coded: transcode it"
        )


def upright(picture: np.ndarray, matrix: bytes) -> np.ndarray:
    """A picture (height, width, 3) as players show it; ``VideoError`` unless it is turned by quarters or mirrored."""
    across, right_down, _, down_right, down, *_ = struct.unpack("=9i", matrix)
    if across and down and not right_down and not down_right:
        right, downward = across, down
    elif right_down and down_right and not across and not down:
        picture = picture.transpose(1, 0, 2)
        right, downward = down_right, right_down
    else:
        raise VideoError("its display matrix turns the picture by other than quarters: transcode it")
    return np.ascontiguousarray(picture[:: 1 if downward > 0 else -1, :: 1 if right > 0 else -1])
