"""The rows of boxes records: a clip's box, and where it is in each frame if it moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mocrop_core import Box, BoxPath


def box_path(row: Mapping[str, Any]) -> BoxPath | None:
    """The way of a clip's box, by its row in a record of the stage boxes; None where it stays."""
    path = row.get("path")
    if path is None:
        return None
    return BoxPath(tuple(path["moments"]), tuple(Box(*corners) for corners in path["boxes"]))


def frame_box(row: Mapping[str, Any], frame: int) -> list[int]:
    """The box x0, y0, x1, y1 (px, half-open) of a clip in a frame, by its row in a record of the stage boxes."""
    path = box_path(row)
    return list(row["box"] if path is None else path.box_at(frame).corners)
