"""Access to the records of previous stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from zarr.abc.store import Store as ZarrStore

from data_specs.datasets import Clip
from data_specs.records import Record, Row, TranscodeRow, read_records
from pipelines.errors import RunStopped
from pipelines.store.writer import remove_record


def upstream(store: ZarrStore, row_type: type[Row], shard: int, view: str | None = None) -> Record[Row]:
    """The record of a previous stage of a shard; ``RunStopped`` if it is missing."""
    records = read_records(store, row_type, view, [shard])
    if shard not in records:
        raise RunStopped(f"shard {shard} has no record of its stage {row_type.stage}; run mocrop preprocess again")
    return records[shard]


@contextmanager
def undone_if_failed(undo: Callable[[int], None], index: int) -> Iterator[None]:
    """Call ``undo`` with the clip's index if the block raises, so that a failed clip leaves no data."""
    try:
        yield
    except BaseException:
        undo(index)
        raise


def check_unchanged(clip: Clip, video: TranscodeRow, transcoded: Record[TranscodeRow], store: ZarrStore) -> None:
    """Raise ``RunStopped`` if the source or the H.264 file differs from the transcode record, and remove the record."""
    recorded = transcoded.clips[clip.id]
    if video.source != recorded.source:
        problem = f"the source file of {clip.id} was changed; run the same command again"
    elif video.h264 != recorded.h264:
        problem = f"the H.264 file of {clip.id} was changed; run the same command again"
    else:
        return
    remove_record(store, transcoded.path)
    raise RunStopped(problem)
