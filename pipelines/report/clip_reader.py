"""The data of one clip in a store: its values from the records, its cached frames, its vectors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from data_specs.recipes import FullView, MotionView, moves
from data_specs.records import BoxRow, Record
from data_specs.stored import Store, StoreError, VectorReader, reading
from mocrop_core import PAPER_V1, SOURCE_NONE, VECTOR, ActorMethod, BoxPath, filter_by_magnitude
from pipelines.store.progress import Progress
from pipelines.store.record_blocks import block_reader
from pipelines.store.table_rows import empty_tables

MOST_VECTORS = 50_000_000  # of one clip in memory, 1 GB: about half an hour of 320 × 240 px
Picture = npt.NDArray[np.uint8]
Vectors = npt.NDArray[Any]
Corners = tuple[int, int, int, int]
Rows = npt.NDArray[np.int64]
Boxes = npt.NDArray[np.int32]
"""x0, y0, x1, y1, px: (n, 4)."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A cached frame: its index in the array ``frames`` and its number in the H.264 file."""

    slot: int
    frame: int


class ClipReader:
    """The clips of a store, finished or not, by its records, which are written before the tables.

    ``published``: by the tables, which a run has just written, so that no record is read but those of clips shown.
    """

    def __init__(self, store: Store, *, published: bool = False) -> None:
        self.store = store
        self.recipe = store.recipe
        self.ids = store.ids
        self.tables = {name: store.table(name) for name in ("label", "split")}
        if published:
            self.tables |= {path: store.table(path) for path in ("state", "reason", *empty_tables(store.recipe, 0))}
        else:
            self.tables |= self.progress.tables()
        self.records = block_reader(store)
        self._drop_what_nothing_carries()
        self.full = next((view.name for view in self.recipe.views if isinstance(view, FullView)), None)
        self.motion_views = [view for view in self.recipe.views if isinstance(view, MotionView)]
        self._reader = lru_cache(maxsize=1)(lambda shard: VectorReader(store.zarr, shard))
        self._frames = lru_cache(maxsize=None)(lambda view: store.view(view).array("frames"))
        self._density = lru_cache(maxsize=None)(self._find_density)

    @cached_property
    def progress(self) -> Progress:
        """What is done in the store according to its records."""
        return Progress.of(self.store)

    def _drop_what_nothing_carries(self) -> None:
        """Leave out boxes without a frame size and crops without a box: the record they depend on is missing."""
        unknown = ~self.tables["frame_size"].all(axis=1)
        for view in self.recipe.views:
            box, score, source, frame_index = (
                self.tables[f"views/{view.name}/{name}"] for name in ("box", "score", "source", "frame_index")
            )
            box[unknown], score[unknown], source[unknown] = 0, np.nan, SOURCE_NONE
            frame_index[source == SOURCE_NONE] = -1

    def _find_density(self, view: str) -> zarr.Array[Any] | None:
        one = self.store.view(view)
        return one.array("density") if one.has_density else None

    @property
    def main_view(self) -> str:
        """The view to show first: the first with the preset actor, else the first motion view, else the first view."""
        views = [*(view for view in self.motion_views if view.preset == "actor"), *self.motion_views]
        return (views or self.recipe.views)[0].name

    @property
    def threshold(self) -> float:
        """Minimum length of vectors that are drawn and counted, px: the main view's, else that of paper-v1."""
        method = self.motion_views[0].method() if self.motion_views else PAPER_V1
        keep = PAPER_V1.keep if isinstance(method, ActorMethod) else method.keep
        return keep[1] if keep[0] == "threshold" else PAPER_V1.keep[1]

    def frame_size(self, row: int) -> tuple[int, int]:
        """Height and width of a clip's frames, px; (0, 0) if not known yet."""
        height, width = self.tables["frame_size"][row]
        return int(height), int(width)

    def box(self, view: str, row: int) -> Corners | None:
        """The static box x0, y0, x1, y1, px; None if none was chosen yet."""
        if not self.tables[f"views/{view}/source"][row]:
            return None
        x0, y0, x1, y1 = (int(edge) for edge in self.tables[f"views/{view}/box"][row])
        return x0, y0, x1, y1

    def path(self, view: str, row: int) -> BoxPath | None:
        """The path of the box through the clip; None if it is static or none was chosen yet."""
        if not moves(self.recipe.view(view)) or self.box(view, row) is None:
            return None
        record = self.box_record(view, row // self.recipe.clips_per_shard)
        return record.clips[self.ids[row]].path

    def box_record(self, view: str, shard: int) -> Record[BoxRow]:
        """The record of the stage boxes of a view and shard; ``KeyError`` if there is none."""
        return self.records(shard).boxes[view][shard]

    def boxes_at(self, view: str, row: int, frames: Iterable[int]) -> Boxes | None:
        """The boxes in the given frames; None if none was chosen yet."""
        box, path = self.box(view, row), self.path(view, row)
        if box is None:
            return None
        return np.array([box if path is None else path.box_at(frame).corners for frame in frames], np.int32)

    def places(self, view: str, row: int) -> Boxes:
        """The boxes that a view chose for a clip: one, or one per part if its box moves."""
        box, path = self.box(view, row), self.path(view, row)
        boxes = [box] if path is None else [each.corners for each in path.boxes]
        return np.array([] if box is None else boxes, np.int32).reshape(-1, 4)

    def all_places(self, view: str, rows: Rows) -> tuple[npt.NDArray[np.float64], Rows]:
        """The `places` of several clips with a box, (n, 4), and the row of each, (n,)."""
        if not moves(self.recipe.view(view)):
            return self.tables[f"views/{view}/box"][rows].astype(np.float64), rows
        places = [self.places(view, row) for row in rows.tolist()]
        return np.concatenate(places).astype(np.float64), np.repeat(rows, [len(boxes) for boxes in places])

    def middle_slot(self, view: str, row: int) -> Slot | None:
        """The cached frame that represents the clip in pictures; None if none was cached yet."""
        slots = self.slots(view, row)
        return slots[len(slots) // 2] if slots else None

    def middle_box(self, view: str, row: int) -> Corners | None:
        """The box in the middle cached frame, or in the middle of the clip; None if none was chosen yet."""
        slot = self.middle_slot(view, row)
        frame = slot.frame if slot else int(self.tables["num_frames"][row]) // 2
        boxes = self.boxes_at(view, row, [frame])
        return None if boxes is None else tuple(boxes[0].tolist())

    def score(self, view: str, row: int) -> float | None:
        """The share of the density inside the box; None if there is no density."""
        score = float(self.tables[f"views/{view}/score"][row])
        return None if np.isnan(score) else score

    def slots(self, view: str, row: int) -> list[Slot]:
        """The cached frames of a view, in order; empty if none were cached yet."""
        frames = self.tables[f"views/{view}/frame_index"][row]
        return [Slot(slot, int(frame)) for slot, frame in enumerate(frames) if frame >= 0]

    def picture(self, view: str, row: int, slot: Slot) -> Picture:
        """A cached frame, (size, size, 3): the view's crop, resized to a square. ``Damaged`` if it is."""
        with reading(f"frame {slot.frame} in views/{view}/frames"):
            return np.asarray(self._frames(view)[row, slot.slot])

    def density(self, view: str, rows: slice) -> npt.NDArray[np.float32] | None:
        """The density maps (n, rows, cols) of a motion view; None for another view. ``Damaged`` if they are."""
        with reading(f"views/{view}/density from {self.ids[rows.start]} on"):
            density = self._density(view)
            return None if density is None else np.asarray(density[rows])

    def has_vectors(self, row: int) -> bool:
        """Whether the store has the motion vectors of a clip."""
        shard = row // self.recipe.clips_per_shard
        record = self.records(shard).motion.get(shard)
        return record is not None and self.ids[row] in record.clips

    def fast_vectors(self, row: int) -> Vectors:
        """The vectors of a clip that are longer than ``threshold``, in decode order."""
        shard, index = divmod(row, self.recipe.clips_per_shard)
        reader = self._reader(shard)
        count = reader.count(index)
        with reading(f"motion of {self.ids[row]!r} in the store"):
            if count != self.records(shard).motion[shard].clips[self.ids[row]].vectors:
                raise ValueError(f"{count} vectors, but its record has another number")
        kept, length = [np.empty(0, VECTOR)], 0
        for block in reader.blocks(index):
            kept.append(filter_by_magnitude(block, self.threshold))
            length += len(kept[-1])
            if length > MOST_VECTORS:
                raise StoreError(f"clip {self.ids[row]!r} has more than {MOST_VECTORS:,} vectors: too many to draw")
        return np.concatenate(kept)
