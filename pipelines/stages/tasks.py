"""Tasks, each one stage of one shard or all of its pending stages, and their reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from data_specs import schema
from data_specs.datasets import Clip
from data_specs.records import Record
from pipelines.stages.h264_cache import Folders

Result = TypeVar("Result")
STAGES = schema.STAGES
ONE_PASS = "one-pass"  # all pending stages of a shard in one task, which discards its H.264 files
DOES = {
    "transcode": "Transcode each video to H.264, which contains motion vectors",
    "motion": "Extract the motion vectors of each H.264 file",
    "boxes": "Choose the box of each clip in each view, and store the motion density behind the choice",
    "clips": "Crop frames of each H.264 file to the clip's box in each view",
    ONE_PASS: "Do all stages of a shard in one task, and discard its H.264 files",
}
"""Description of each stage, and of all of them in one pass, for Prefect's page."""


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """One task: a stage, a shard, its clips and the locations of its inputs and outputs. Small enough to send around.

    ``apart`` requests a separate process, after a worker died on the shard; ``dead`` are (id, reason) of the clips on
    which such processes died, the reason as in a record. If ``stage`` is `ONE_PASS`, ``stages`` are those that may be
    pending, of which the first is; ``scratch`` is the folder on the worker's machine, by default that for temporary
    files, in which the task makes its work folder. ``may_have_records`` is False if the stages of the task have no
    record of the shard, neither one made from other inputs nor one of an earlier attempt.
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
    stages: tuple[str, ...] = ()
    scratch: str | None = None
    may_have_records: bool = False

    @property
    def rows(self) -> range:
        return range(self.first_row, self.first_row + len(self.clips))


@dataclass(frozen=True, slots=True)
class ShardReport:
    """Result of a task: its clips, those not quarantined (``done``), and the reasons for newly quarantined ones.

    ``by_stage`` has the seconds of each stage of a task that did several.
    """

    stage: str
    shard: int
    clips: int
    done: int
    seconds: float
    quarantined: dict[str, str] = field(default_factory=dict)
    by_stage: Mapping[str, float] = field(default_factory=dict)


Around = Callable[[str, Clip], AbstractContextManager[object]]
"""Context manager around the work of a stage on a clip, with which a caller sets an alarm or records the clip."""


class EachClip(Protocol):
    """Calls a function for each clip of a shard; returns its results, and the reasons of quarantined clips, by id."""

    def __call__(
        self, before: Record[Any] | None, work: Callable[[int, Clip], Result], /
    ) -> tuple[dict[str, Result], dict[str, str]]: ...
