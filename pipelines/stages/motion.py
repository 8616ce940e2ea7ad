"""The stage ``motion``: the motion vectors of each H.264 file, decoded once."""

from __future__ import annotations

import numpy as np

from data_specs.chain import motion_inputs
from data_specs.datasets import Clip
from data_specs.recipes import Recipe
from data_specs.stored import Attributes, Record
from pipelines.errors import ClipError
from pipelines.media import decoder
from pipelines.media.streams import Decoded
from pipelines.stages.h264_cache import check_missing, losses, video_of
from pipelines.stages.tasks import EachClip, ShardPlan
from pipelines.stages.upstream import check_unchanged, upstream
from pipelines.store.shard_writer import VectorWriter
from pipelines.store.writer import HashingStore


def motion_records(plan: ShardPlan, recipe: Recipe, store: HashingStore, each: EachClip) -> list[Record]:
    """Write the motion vectors of the shard's clips; the record of the stage."""
    before = upstream(store, "transcode", plan.shard)
    writer = VectorWriter(store, plan.shard)
    scales = [0] * len(plan.clips)
    counts = [0] * len(plan.clips)

    def work(index: int, clip: Clip) -> Attributes:
        path, known = video_of(clip, recipe, plan.build, plan.folders)
        check_unchanged(clip, known, before, store)
        mark, first = writer.mark(), writer.count
        try:
            survey = decoder.survey(path)
            motion = decoder.extract(path, writer.append, time_limit=recipe.time_limit)
            if motion.num_frames != known.get("frames", motion.num_frames):
                raise ClipError(
                    f"{motion.num_frames} frames decoded from the H.264 file, {known['frames']} from the source"
                )
            decoded = Decoded(motion.num_frames, motion.bad_packets, motion.num_interlaced)
            row = {
                "frames": motion.num_frames,
                "size": list(motion.frame_size),
                "key_frames": list(motion.key_frames),
                "vectors": writer.count - first,
                **losses(survey, decoded, 'their combs kept: transcode = "keep"'),
            }
            check_missing(row, recipe)
        except BaseException:
            writer.rollback(mark)
            raise
        counts[index] = row["vectors"]
        scales[index] = motion.motion_scale if counts[index] else 0
        return row

    rows = each(before, work)
    writer.close([0, *np.cumsum(counts).tolist()], scales)
    return [Record("motion", None, plan.shard, motion_inputs(before), rows, *store.taken())]
