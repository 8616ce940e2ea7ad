"""The motion vectors of a store, clip by clip, with their frame sizes and key frames."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data_specs.records import MotionRow, Record, read_records
from data_specs.stored import Store, StoreError, VectorReader
from mocrop_core.cells import cell_grid
from mocrop_core.motion_vectors import MotionVectors


class MotionReader:
    """Reads the motion vectors of clips by row; data shared by a shard are read once if its rows are read in turn.

    Not shared between threads or processes.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._opened: tuple[int, Record[MotionRow], VectorReader] | None = None

    def read(self, row: int) -> MotionVectors:
        """Return the motion vectors of the clip in a row.

        Raises ``StoreError`` for a clip that is pending or was quarantined before they were read, and for damaged
        objects.
        """
        shard, within = divmod(row, self._store.recipe.clips_per_shard)
        id = self._store.ids[row]
        if self._opened is None or self._opened[0] != shard:
            record = read_records(self._store.zarr, MotionRow, None, [shard]).get(shard)
            _clip(record, id)  # before its arrays are opened
            assert record is not None
            self._opened = shard, record, VectorReader(self._store.zarr, shard)
        _, record, reader = self._opened
        clip = _clip(record, id)
        textures = reader.textures(within, (len(clip.key_frames), *cell_grid(clip.size).shape))
        picture = None if clip.picture is None else clip.picture.corners
        return MotionVectors(reader.read(within), clip.size, clip.frames, clip.key_frames, textures, picture)


def shards_of(store: Store, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the shard of each row: the vectors of its clips are read fastest together."""
    return rows // store.recipe.clips_per_shard


def vector_counts(store: Store, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the number of motion vectors of the clip in each row: int64 (n,).

    Raises ``StoreError`` for a clip that is pending, or was quarantined before they were read.
    """
    shards = shards_of(store, rows).tolist()
    records = read_records(store.zarr, MotionRow, None, sorted(set(shards)))
    ids = [store.ids[row] for row in rows.tolist()]
    return np.array([_clip(records.get(shard), id).vectors for shard, id in zip(shards, ids, strict=True)], np.int64)


def _clip(record: Record[MotionRow] | None, id: str) -> MotionRow:
    """The clip's row in a motion record; ``StoreError`` for a clip that is not done, or was quarantined before."""
    clip = record.clips.get(id) if record else None
    if clip is None or clip.picture is None:
        reason = (record.reasons if record else {}).get(id, "its motion stage is not done")
        raise StoreError(f"clip {id!r} has no motion vectors: {reason}")
    return clip
