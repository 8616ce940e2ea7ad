"""The stage ``transcode``: each source file as H.264, which contains motion vectors."""

from __future__ import annotations

from data_specs.chain import transcode_inputs
from data_specs.datasets import Clip
from data_specs.recipes import Recipe
from data_specs.records import Record, TranscodeRow
from pipelines.stages.h264_cache import check_missing, video_of
from pipelines.stages.tasks import EachClip, ShardPlan
from pipelines.store.writer import HashingStore


def transcode_records(
    plan: ShardPlan, recipe: Recipe, store: HashingStore, each: EachClip
) -> list[Record[TranscodeRow]]:
    """Make the H.264 file of each clip in the shard; return the record of the stage."""

    def work(_: int, clip: Clip) -> TranscodeRow:
        row = video_of(clip, recipe, plan.build, plan.folders)[1]
        if recipe.transcode != "keep":
            check_missing(row, recipe)
        return row

    inputs = transcode_inputs(recipe, plan.build, [clip.id for clip in plan.clips])
    return [Record("transcode", None, plan.shard, inputs, *each(None, work), {})]
