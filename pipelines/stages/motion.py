"""The stage ``motion``: the motion vectors and the key-frame texture of each H.264 file, from one decoding."""

from __future__ import annotations

from data_specs.chain import motion_inputs
from data_specs.datasets import Clip
from data_specs.recipes import Recipe
from data_specs.records import MotionRow, Record, TranscodeRow
from mocrop_core import Box
from mocrop_core.texture import Bars, Luma, bars, key_frame_textures, picture_area
from pipelines.errors import ClipError
from pipelines.media import decoder
from pipelines.media.streams import Decoded
from pipelines.stages.h264_cache import check_missing, video_of
from pipelines.stages.tasks import EachClip, ShardPlan
from pipelines.stages.upstream import check_unchanged, upstream
from pipelines.store.shard_writer import VectorWriter
from pipelines.store.writer import HashingStore

NO_BARS: Bars = (0, 0, 0, 0)


def motion_records(plan: ShardPlan, recipe: Recipe, store: HashingStore, each: EachClip) -> list[Record[MotionRow]]:
    """Write the motion vectors and the key-frame texture of the shard's clips; return the record of the stage."""
    before = upstream(store, TranscodeRow, plan.shard)
    writer = VectorWriter(store, plan.shard)
    scales = [0] * len(plan.clips)
    counts = [0] * len(plan.clips)
    cells = [0] * len(plan.clips)

    def work(index: int, clip: Clip) -> MotionRow:
        path, video = video_of(clip, recipe, plan.build, plan.folders)
        check_unchanged(clip, video, before, store)
        mark, first, first_cell = writer.mark(), writer.count, writer.num_cells
        borders: list[Bars | None] = []

        def keep(lumas: Luma) -> None:
            writer.append_texture(key_frame_textures(lumas))
            for luma in lumas:
                if NO_BARS not in borders:  # the bars of further frames would make no difference
                    borders.append(bars(luma))

        try:
            survey, window = decoder.survey(path), clip.window if recipe.transcode == "keep" else None
            motion = decoder.extract(
                path, writer.append, time_limit=recipe.time_limit, on_key_frames=keep, window=window
            )
            if video.frames not in (None, motion.num_frames):
                raise ClipError(
                    f"{motion.num_frames} frames decoded from the H.264 file, {video.frames} from the source"
                )
            decoded = Decoded(motion.num_frames, motion.bad_packets, motion.num_interlaced)
            if window is not None:
                survey = survey.of_window(window, decoded, motion.last_time, goes_on=motion.goes_on)
            row = MotionRow(
                motion.num_frames,
                motion.frame_size,
                tuple(motion.key_frames),
                writer.count - first,
                Box(*picture_area(motion.frame_size, borders)),
                survey.missing(decoded),
                survey.notes(decoded, 'their combs kept: transcode = "keep"'),
                video.first_frame if window is None else motion.first_frame,
            )
            check_missing(row, recipe)
        except BaseException:
            writer.rollback(mark)
            raise
        counts[index], cells[index] = row.vectors, writer.num_cells - first_cell
        scales[index] = motion.motion_scale if counts[index] else 0
        return row

    rows, reasons = each(before, work)
    writer.close(counts, cells, scales)
    return [Record("motion", None, plan.shard, motion_inputs(before), rows, reasons, *store.taken())]
