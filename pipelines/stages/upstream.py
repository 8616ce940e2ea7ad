"""What a stage takes from the stages before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from zarr.abc.store import Store as ZarrStore

from data_specs.datasets import Clip
from data_specs.stored import Attributes, Record, read_records
from pipelines.errors import RunStopped
from pipelines.store.writer import remove_attributes


def upstream(store: ZarrStore, stage: str, shard: int, view: str | None = None) -> Record:
    found = read_records(store, stage, view, [shard])
    if shard not in found:
        raise RunStopped(f"shard {shard} has no record of its stage {stage}; start mocrop preprocess again")
    return found[shard]


@contextmanager
def undone_if_failed(undo: Callable[[int], None], index: int) -> Iterator[None]:
    """Let a clip that fails leave nothing in its rows."""
    try:
        yield
    except BaseException:
        undo(index)
        raise


def check_unchanged(clip: Clip, known: Attributes, transcoded: Record, store: ZarrStore) -> None:
    """``RunStopped`` if the source or its H.264 file is not that of the transcode record, which is then removed."""
    recorded = transcoded.clips[clip.id]
    if known["source"] != recorded["source"]:
        problem = f"the source file of {clip.id} was changed; start the same command again"
    elif known.get("h264") != recorded.get("h264"):
        problem = f"the H.264 file of {clip.id} was changed; start the same command again"
    else:
        return
    remove_attributes(store, transcoded.path)
    raise RunStopped(problem)
