"""The stage ``transcode``: each source file as H.264, which contains motion vectors."""

from __future__ import annotations

from collections import defaultdict

from data_specs.chain import transcode_inputs
from data_specs.datasets import Clip
from data_specs.recipes import Recipe
from data_specs.records import Record, TranscodeRow
from pipelines.media.ffmpeg_binary import FfmpegError
from pipelines.stages.h264_cache import check_missing, encode_together, video_of
from pipelines.stages.tasks import EachClip, ShardPlan
from pipelines.store.writer import HashingStore


def transcode_records(
    plan: ShardPlan, recipe: Recipe, store: HashingStore, each: EachClip
) -> list[Record[TranscodeRow]]:
    """Make the H.264 file of each clip in the shard; return the record of the stage.

    Windows of one video are made together when the first of them is due, so that the video is decoded once.
    """
    dead = dict(plan.dead)
    windows: dict[str, list[Clip]] = defaultdict(list)
    for clip in plan.clips:
        if clip.window is not None and clip.id not in dead:
            windows[clip.path].append(clip)
    errors: dict[str, FfmpegError] = {}

    def work(_: int, clip: Clip) -> TranscodeRow:
        if clip.window is not None and (together := windows.pop(clip.path, None)):
            errors.update(encode_together(together, recipe, plan.build, plan.folders))
        if clip.id in errors:
            raise errors[clip.id]
        row = video_of(clip, recipe, plan.build, plan.folders)[1]
        if recipe.transcode != "keep":
            check_missing(row, recipe)
        return row

    inputs = transcode_inputs(recipe, plan.build, plan.clips)
    return [Record("transcode", None, plan.shard, inputs, *each(None, work), {})]
