"""The records of some shards, read together and checked against the store's clips and against each other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any

from zarr.abc.store import Store as ZarrStore

from data_specs import schema
from data_specs.recipes import Recipe
from data_specs.records import BoxRow, CropRow, MotionRow, Record, Row, TranscodeRow, read_records
from data_specs.stored import Store
from pipelines.store.record_index import Stamps

BLOCK = 64  # shards whose records are in memory at once


def block_reader(store: Store) -> Callable[[int], RecordBlock]:
    """A function that returns the records of a shard, and keeps those of the last few."""
    return lru_cache(maxsize=8)(lambda shard: RecordBlock(store.zarr, store.recipe, [shard], store.ids))


class RecordBlock:
    """The records of ``shards``, by stage, view and shard; ``damaged`` are the paths of unusable ones.

    With ``ids``, the store's clip ids, a record also counts as damaged if its clips are not those of its shard, a box
    exceeds its frame, or it has more frames than the recipe's slots. Only records of ``stages`` are read, and of these,
    if ``known`` is given, only those that were listed.
    """

    def __init__(
        self,
        store: ZarrStore,
        recipe: Recipe,
        shards: Sequence[int],
        ids: Sequence[str] | None = None,
        stages: Collection[str] = schema.STAGES,
        known: Stamps | None = None,
    ) -> None:
        self.recipe = recipe
        self.damaged: list[str] = []

        def read(row_type: type[Row], view: str | None = None) -> dict[int, Record[Row]]:
            stage = row_type.stage
            wanted = [shard for shard in shards if known is None or schema.progress_path(stage, view, shard) in known]
            own = None if known is None else known.own
            return read_records(store, row_type, view, wanted if stage in stages else (), self.damaged, own)

        self.transcode = read(TranscodeRow)
        self.motion = read(MotionRow)
        self.boxes = {view.name: read(BoxRow, view.name) for view in recipe.views}
        self.clips = {view.name: read(CropRow, view.name) for view in recipe.views}
        if ids is not None:
            self._drop_foreign(ids)

    def _drop_foreign(self, ids: Sequence[str]) -> None:
        for records in self._by_stage:
            for shard, record in list(records.items()):
                rows = schema.shard_rows(shard, len(ids), self.recipe.clips_per_shard)
                if record.ids != set(ids[rows.start : rows.stop]) or not self._fits(record):
                    del records[shard]
                    self.damaged.append(record.path)

    @property
    def _by_stage(self) -> list[dict[int, Record[Any]]]:
        return [self.transcode, self.motion, *self.boxes.values(), *self.clips.values()]

    def _fits(self, record: Record[Any]) -> bool:
        motion = self.motion.get(record.shard)
        for id, row in record.clips.items():
            video = motion.clips.get(id) if motion else None
            if isinstance(row, BoxRow) and video and not row.inside(video.size):
                return False
            if isinstance(row, CropRow) and (
                len(row.frame_index) > self.recipe.frames.slots or (video and row.frame_index[-1] >= video.frames)
            ):
                return False
        return True

    def __iter__(self) -> Iterator[Record[Any]]:
        return (record for records in self._by_stage for record in records.values())

    def records_of(self, shard: int) -> list[Record[Any]]:
        """The existing records of a shard, in the order of the stages."""
        return [records[shard] for records in self._by_stage if shard in records]
