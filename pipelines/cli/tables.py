"""The boxes of a store as rows to print, and its density maps as files for the reference loader."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from data_specs.recipes import moves
from data_specs.schema import State
from data_specs.stored import Store, StoreError
from data_specs.text import printable
from mocrop_core.method import SOURCE_FALLBACK, SOURCE_FIXED, SOURCE_MOTION, SOURCE_NONE

SOURCES = {SOURCE_NONE: "none", SOURCE_MOTION: "motion", SOURCE_FIXED: "fixed", SOURCE_FALLBACK: "fallback"}
Row = dict[str, Any]


def box_rows(store: Store, view: str | None = None, clip: str | None = None, by_frame: bool = False) -> list[Row]:
    """One row per clip and view: the box in px, its share of the frame's area, the score (None if there is none).

    All views and clips, or only the given ones. ``by_frame`` gives one row per cached frame, with its number in the
    clip, its number in the source video, and its box, which differs between frames if the view's box moves. Raises
    ``StoreError`` for an unknown view or clip.
    """
    rows = range(len(store.ids)) if clip is None else [store.row(clip)]
    states, sizes, first_frames = (store.table(table) for table in ("state", "frame_size", "first_frame"))
    found = []
    for name in store.views if view is None else [view]:
        one = store.view(name)
        scores, sources, numbers = (one.table(table) for table in ("score", "source", "frame_index"))
        boxes = one.table("frame_box" if by_frame and moves(store.recipe.view(name)) else "box")
        for row in rows:
            height, width = (int(side) for side in sizes[row])
            score = float(scores[row])
            for slot in np.flatnonzero(numbers[row] >= 0) if by_frame else [0]:
                x0, y0, x1, y1 = (int(edge) for edge in (boxes[row, slot] if boxes.ndim == 3 else boxes[row]))
                area = (x1 - x0) * (y1 - y0) / (height * width) if height and width else 0.0
                found.append(
                    {
                        "id": store.ids[row],
                        "view": name,
                        "state": State(int(states[row])).name.lower(),
                        **(_frame_numbers(numbers[row, slot], first_frames[row]) if by_frame else {}),
                        "x0": x0,
                        "y0": y0,
                        "x1": x1,
                        "y1": y1,
                        "frame_height": height,
                        "frame_width": width,
                        "area": round(area, 6),
                        "score": None if math.isnan(score) else score,
                        "source": SOURCES[int(sources[row])],
                    }
                )
    return found


def _frame_numbers(frame: int, first: int) -> Row:
    """The number of a frame in the clip, and in the source video."""
    return {"frame": int(frame), "video_frame": int(first + frame)}


def print_table(rows: Sequence[Row]) -> None:
    """Print rows with the same columns as a table on standard output, numbers right-aligned."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, value in rows[0].items():
        table.add_column(name, justify="left" if isinstance(value, str) else "right", no_wrap=True)
    for row in rows:
        table.add_row(*("" if value is None else f"{value:.3f}" if isinstance(value, float) else printable(str(value))
                        for value in row.values()))  # fmt: skip
    out = Console(width=None if sys.stdout.isatty() else 10_000, highlight=False, markup=False)
    out.print(table)


def export_npy(store: Store, folder: Path, view: str | None = None) -> list[Path]:
    """Write each done clip's density map to ``<Class>/<video>/motion_vectors_denoised_all_mc_<rows>_<cols>.npy``.

    The files are float32 (rows, cols) counts of sampled vectors, in the place and form that the public code's loader
    expects. The default view is the only motion view; ``StoreError`` if there are none or several.
    """
    name = view or _only_motion_view(store)
    one = store.view(name)
    if not one.has_density:
        raise StoreError(f"view {name!r} has no density map; name a motion view with --view")
    density, states = one.array("density"), store.table("state")
    rows, cols = density.shape[1:]
    written = []
    step = density.chunks[0]
    for first in range(0, len(store.ids), step):
        maps = np.asarray(density[first : first + step])
        for id, state, one_map in zip(store.ids[first:], states[first:], maps, strict=False):
            if state == State.DONE:
                target = folder / id / f"motion_vectors_denoised_all_mc_{rows}_{cols}.npy"
                target.parent.mkdir(parents=True, exist_ok=True)
                np.save(target, one_map, allow_pickle=False)
                written.append(target)
    return written


def _only_motion_view(store: Store) -> str:
    names = [name for name in store.views if store.view(name).has_density]
    if len(names) != 1:
        raise StoreError(
            f"--view: name a motion view, one of {', '.join(names)}" if names else "the store has no motion view"
        )
    return names[0]
