"""A task: one stage of one shard, and what is reported of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from data_specs import schema
from data_specs.datasets import Clip
from data_specs.stored import Attributes, Record
from pipelines.stages.h264_cache import Folders

STAGES = schema.STAGES
DOES = {
    "transcode": "Each video to H.264, its motion vectors in it",
    "motion": "The motion vectors of each H.264 file, decoded once",
    "boxes": "The box of each clip in each view, and the motion density that it was chosen on",
    "clips": "The crops of each clip in each view, from frames of its H.264 file",
}
"""What each stage makes, for people who watch a run."""


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """One task: a stage, a shard, and where to find and put things. Small, so that it travels.

    ``apart`` asks for a process of its own, once a worker has died on the shard; ``dead`` are the ids of clips that
    such processes were found to end with, and why.
    """

    stage: str
    shard: int
    store: str
    folders: Folders
    build: str
    first_row: int
    clips: tuple[Clip, ...]
    views: tuple[str, ...] = ()
    apart: bool = False
    dead: tuple[tuple[str, str], ...] = ()

    @property
    def rows(self) -> range:
        return range(self.first_row, self.first_row + len(self.clips))


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What a task did: clips in the shard, those that are still good after it, those it quarantined, and why."""

    stage: str
    shard: int
    clips: int
    done: int
    seconds: float
    quarantined: dict[str, str] = field(default_factory=dict)


Around = Callable[[Clip], AbstractContextManager[object]]
"""Entered before the work on a clip and left after it: where a caller sets an alarm, or notes the clip in hand."""
Work = Callable[[int, Clip], Attributes]
EachClip = Callable[[Record | None, Work], dict[str, Attributes]]
