"""The chain of fingerprints: what decides the result of each stage of a shard.

    source file → encode settings and ffmpeg build → vectors → boxes → crops

Each stage's ``inputs`` hold the ``output`` of the stage before it, which in turn holds the hashes of what was really
written. So a record whose inputs are what these functions give was made from what lies there now.
"""

from __future__ import annotations

from collections.abc import Sequence

from data_specs.fingerprints import fingerprint
from data_specs.recipes import Recipe, View, view_params
from data_specs.stored import Record

REVISION = 2
"""Raised when the code of a stage changes so that the same inputs give other bytes."""


def transcode_inputs(recipe: Recipe, build: str, ids: Sequence[str]) -> str:
    """What decides the H.264 files of a shard, but for the source files: their hashes stand in the record."""
    return fingerprint("transcode", REVISION, recipe.model_dump(mode="json")["transcode"], build, list(ids))


def motion_inputs(transcode: Record) -> str:
    """What decides the motion vectors of a shard."""
    return fingerprint("motion", REVISION, transcode.output)


def boxes_inputs(motion: Record, recipe: Recipe, view: View) -> str:
    """What decides the boxes of a shard in a view."""
    return fingerprint("boxes", REVISION, motion.output, recipe.seed, view_params(view))


def clips_inputs(motion: Record, boxes: Record, recipe: Recipe) -> str:
    """What decides the crops of a shard in a view."""
    return fingerprint("clips", REVISION, motion.output, boxes.output, recipe.frames.model_dump(mode="json"))
