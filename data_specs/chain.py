"""The chain of fingerprints: what decides the result of each stage of a shard.

    source file → encode settings and ffmpeg build → H.264 file → vectors → boxes → crops

A record's ``output`` is the fingerprint of its ``inputs`` and its results, and the next stage's ``inputs`` contain that
``output``. Every record thus depends on everything upstream of it, down to the bytes of the source files, even where an
intermediate result is the same: two videos with the same motion vectors have different boxes records and crops
records. A record is current if its inputs equal what these functions return.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from data_specs.clip_rows import Clip
from data_specs.fingerprints import fingerprint
from data_specs.recipes import Recipe, View, view_params

REVISION = 3
"""Raised when the same inputs give other bytes, or when records change. Stores of another revision are refused."""


def transcode_settings(recipe: Recipe) -> dict[str, Any]:
    """The part of a recipe that H.264 files depend on."""
    return recipe.model_dump(mode="json", include={"transcode", "max_missing"})


def transcode_inputs(
    recipe: Recipe, build: str, clips: Sequence[Clip], settings: Mapping[str, Any] | None = None
) -> str:
    """What determines the H.264 files of a shard, except the source files, whose fingerprints are in the record.

    A window is identified by its video and its times, too. ``settings`` are the recipe's `transcode_settings`, if
    already known.
    """
    known = [clip.id if clip.window is None else [clip.id, clip.video, clip.start, clip.end] for clip in clips]
    return fingerprint("transcode", REVISION, settings or transcode_settings(recipe), build, known)


class Made(Protocol):
    """A result with its fingerprint: a record, or what a run keeps of it."""

    @property
    def output(self) -> str: ...

    @property
    def inputs(self) -> str: ...


def motion_inputs(transcode: Made) -> str:
    """What determines the motion vectors of a shard and the texture of its key frames."""
    return fingerprint("motion", REVISION, "texture", transcode.output)


def boxes_inputs(motion: Made, recipe: Recipe, view: View, params: Mapping[str, Any] | None = None) -> str:
    """What determines the boxes of a shard in a view; ``params`` are its `view_params`, if already known."""
    return fingerprint("boxes", REVISION, motion.output, recipe.seed, params or view_params(view))


def clips_inputs(transcode: Made, motion: Made, boxes: Made, recipe: Recipe) -> str:
    """What determines the crops of a shard in a view."""
    outputs = [transcode.output, motion.output, boxes.output]
    return fingerprint("clips", REVISION, outputs, recipe.frames.model_dump(mode="json"))


def is_current(
    stage: str,
    view: View | None,
    recipe: Recipe,
    made: Callable[[str, str | None], Made | None],
    params: Mapping[str, Any] | None = None,
) -> bool:
    """Return whether the record of a stage after ``transcode`` was made from the current records of the stages before.

    ``made`` returns a shard's record of a stage (and view), None if it is missing.
    """
    name = view.name if view else None
    record = made(stage, name)
    if record is None:
        return False
    if stage == "motion":
        before = made("transcode", None)
        return before is not None and record.inputs == motion_inputs(before)
    assert view is not None, "a stage of views"
    motion = made("motion", None)
    if motion is None:
        return False
    if stage == "boxes":
        return record.inputs == boxes_inputs(motion, recipe, view, params)
    transcode, boxes = made("transcode", None), made("boxes", name)
    if transcode is None or boxes is None:
        return False
    return record.inputs == clips_inputs(transcode, motion, boxes, recipe)
