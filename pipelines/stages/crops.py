"""The stage ``clips``: the crops of each clip in each view, from frames of its H.264 file."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from data_specs.chain import clips_inputs
from data_specs.datasets import Clip
from data_specs.recipes import Recipe
from data_specs.records import BoxRow, CropRow, MotionRow, Record, TranscodeRow
from mocrop_core.frames import spread
from pipelines.errors import ClipError
from pipelines.media import decoder
from pipelines.media.pictures import cropped
from pipelines.stages.h264_cache import video_of
from pipelines.stages.tasks import EachClip, ShardPlan
from pipelines.stages.upstream import check_unchanged, undone_if_failed, upstream
from pipelines.store.shard_writer import FrameWriter
from pipelines.store.writer import HashingStore


def crop_records(plan: ShardPlan, recipe: Recipe, store: HashingStore, each: EachClip) -> list[Record[CropRow]]:
    """Decode each clip once and write its crops in each of the plan's views; return one record per view."""
    transcoded, motion = upstream(store, TranscodeRow, plan.shard), upstream(store, MotionRow, plan.shard)
    boxes = {name: upstream(store, BoxRow, plan.shard, name) for name in plan.views}
    size = recipe.frames.size
    writers = {name: FrameWriter(store, f"views/{name}/frames", plan.rows) for name in plan.views}

    def drop(index: int) -> None:
        for writer in writers.values():
            writer.drop(index)

    def work(index: int, clip: Clip) -> CropRow:
        path, video = video_of(clip, recipe, plan.build, plan.folders)
        check_unchanged(clip, video, transcoded, store)
        chosen = frame_choice(motion.clips[clip.id], recipe)
        if not chosen:
            raise ClipError('it has no key frame to keep; frames.choose = "uniform" keeps other frames')
        keys: Sequence[int] | None = motion.clips[clip.id].key_frames
        numbers: Sequence[int] = chosen
        if clip.window is not None and recipe.transcode == "keep":  # the file is the whole video
            first, keys = motion.clips[clip.id].first_frame, None
            numbers = [first + number for number in chosen]
        slot = 0
        with undone_if_failed(drop, index):
            for slot, (_, picture) in enumerate(
                decoder.rgb_frames(path, numbers, keys, time_limit=recipe.time_limit), 1
            ):
                image = Image.fromarray(picture)
                for name, writer in writers.items():
                    box = boxes[name].clips[clip.id].box_at(chosen[slot - 1])
                    writer.put(index, slot - 1, cropped(image, box.corners, size))
            if slot != len(chosen):
                raise ClipError(f"{slot} of {len(chosen)} frames could be decoded")
        return CropRow(chosen)

    before = next(iter(boxes.values()))
    rows, reasons = each(before, work)
    records = []
    for name, writer in writers.items():
        writer.write()
        inputs = clips_inputs(transcoded, motion, boxes[name], recipe)
        records.append(Record("clips", name, plan.shard, inputs, rows, reasons, *store.taken()))
    return records


def frame_choice(motion: MotionRow, recipe: Recipe) -> tuple[int, ...]:
    """Increasing indices of the frames of a clip that the store keeps, at most the recipe's number of slots."""
    candidates = motion.key_frames if recipe.frames.choose == "key" else range(motion.frames)
    return tuple(int(candidates[i]) for i in spread(len(candidates), recipe.frames.slots))
