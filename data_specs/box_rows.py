"""The rows of boxes records: a clip's box, and where it is in each frame if it moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mocrop_core import Box, BoxPath


def frame_box(row: Mapping[str, Any], frame: int) -> list[int]:
    """The box x0, y0, x1, y1 (px, half-open) of a clip in a frame, by its row in a record of the stage boxes."""
    path = row.get("path")
    if path is None:
        return list(row["box"])
    boxes = tuple(Box(*corners) for corners in path["boxes"])
    return list(BoxPath(tuple(path["moments"]), boxes).box_at(frame).corners)
