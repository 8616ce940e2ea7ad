"""Rows of a store's tables, as they follow from the records of the stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from data_specs.recipes import Recipe, moves
from data_specs.records import BoxRow, CropRow, MotionRow, Record

Tables = dict[str, npt.NDArray[Any]]
TABLES_OF = {  # of each stage
    "transcode": (),
    "motion": ("num_frames", "frame_size", "first_frame"),
    "boxes": ("box", "score", "source"),
    "clips": ("frame_index", "frame_box"),
}
FILLS = {"score": np.nan, "frame_index": -1}  # of rows without a record, by table; 0 in others


def empty_tables(recipe: Recipe, rows: int) -> Tables:
    tables: Tables = {name: np.zeros(rows, np.int32) for name in ("num_frames", "first_frame")}
    tables["frame_size"] = np.zeros((rows, 2), np.int32)
    slots = recipe.frames.slots
    for view in recipe.views:
        base = f"views/{view.name}"
        tables |= {
            f"{base}/box": np.zeros((rows, 4), np.int32),
            f"{base}/score": np.full(rows, np.nan, np.float32),
            f"{base}/source": np.zeros(rows, np.uint8),
            f"{base}/frame_index": np.full((rows, slots), -1, np.int32),
        }
        if moves(view):
            tables[f"{base}/frame_box"] = np.zeros((rows, slots, 4), np.int32)
    return tables


def fill_rows(tables: Tables, record: Record[Any], ids: Sequence[str], first: int) -> None:
    """Fill the rows of the tables that follow from one record; ``first`` is the row of its first clip."""
    base = f"views/{record.view}"
    for number, id in enumerate(ids, first):
        match record.clips.get(id):
            case MotionRow(frames=frames, size=size, first_frame=first_frame):
                tables["num_frames"][number], tables["frame_size"][number] = frames, size
                tables["first_frame"][number] = first_frame
            case BoxRow(box=box, score=score, source=source):
                tables[f"{base}/box"][number], tables[f"{base}/source"][number] = box.corners, source
                tables[f"{base}/score"][number] = np.nan if score is None else score
            case CropRow(frame_index=frame_index):
                places = tables[f"{base}/frame_index"][number, : len(frame_index)]
                places[:] = frame_index[: len(places)]  # a record from a stranger may have more
