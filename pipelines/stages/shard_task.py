"""The four stages, each a function over one shard of clips that runs anywhere, with or without Prefect and Dask.

    transcode   source file                     → H.264 file in the work folder
    motion      H.264 file                      → motion/<shard>: its motion vectors
    boxes       motion/<shard>                  → one box a clip and view, and the density it was chosen on
    clips       H.264 file, boxes               → views/<view>/frames: the crops

A stage reads the record of the stage before it, leaves out the clips that were quarantined there, writes whole Zarr
shards, and writes its own record last. A clip that fails is quarantined; what no clip is to blame for stops the run: a
full disk, a damaged store, an error in our own code.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from zarr.abc.store import Store as ZarrStore

from data_specs import schema
from data_specs.chain import boxes_inputs, clips_inputs, motion_inputs, transcode_inputs
from data_specs.datasets import Clip
from data_specs.recipes import FullView, MotionView, Recipe, view_rng
from data_specs.recipes import View as RecipeView
from data_specs.stored import Attributes, Record, VectorReader, read_records, zarr_store
from data_specs.text import printable
from mocrop_core import boxes as core_boxes
from mocrop_core.frames import spread
from mocrop_core.method import SOURCE_FIXED, choose_box_from, denoise
from pipelines.errors import ClipError, RunStopped
from pipelines.internal_errors import mark_clip
from pipelines.media import decoder
from pipelines.media.decoder import VideoError
from pipelines.media.encoder import FfmpegError
from pipelines.media.streams import Decoded
from pipelines.stages.h264_cache import Folders, check_missing, check_source, losses, video_of
from pipelines.store.shard_writer import FrameWriter, VectorWriter
from pipelines.store.software import versions_here
from pipelines.store.writer import HashingStore, remove_attributes, write_record, write_rows

STAGES = schema.STAGES
DOES = {
    "transcode": "Each video to H.264, its motion vectors in it",
    "motion": "The motion vectors of each H.264 file, decoded once",
    "boxes": "The box of each clip in each view, and the motion density that it was chosen on",
    "clips": "The crops of each clip in each view, from frames of its H.264 file",
}
"""What each stage makes, for people who watch a run."""
_NOT_THE_CLIPS_FAULT = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EMFILE,
    errno.ENOMEM,
}


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

_Work = Callable[[int, Clip], Attributes]
_Each = Callable[[Record | None, _Work], dict[str, Attributes]]


def process_shard(plan: ShardPlan, recipe: Recipe, around: Around = nullcontext) -> ShardReport:
    """Do one stage of one shard and record it. ``RunStopped`` if the disk is full, a right is missing, or the source
    folder or a usable ffmpeg is not there.

    ``StoreError`` if the store is damaged or does not answer.
    """
    began = time.perf_counter()
    store = HashingStore(zarr_store(plan.store, read_only=False))
    try:
        records = _STAGE[plan.stage](plan, recipe, store, partial(_each_clip, plan, around))
        store.settle()
        for record in records:
            write_record(store, replace(record, software=versions_here(plan.stage)))
    except OSError as error:
        _stop_if_not_the_clips_fault(error)
        raise
    failed = {id: reason for record in records for id, reason in record.reasons.items()}
    own = {id: reason for id, reason in failed.items() if reason.startswith(f"{plan.stage}: ")}
    seconds = time.perf_counter() - began
    return ShardReport(plan.stage, plan.shard, len(plan.clips), len(plan.clips) - len(failed), seconds, own)


def _stop_if_not_the_clips_fault(error: OSError) -> None:
    if error.errno in _NOT_THE_CLIPS_FAULT:
        place = f" ({error.filename})" if error.filename else ""
        raise RunStopped(f"{error.strerror}{place}; mend it and start the same command again") from error


def _each_clip(plan: ShardPlan, around: Around, before: Record | None, work: _Work) -> dict[str, Attributes]:
    """What ``work`` says of each clip of the shard; the reason for each that fails or failed in a stage before."""
    earlier = {id: f"{plan.stage}: {why}" for id, why in plan.dead} | (before.reasons if before else {})
    rows: dict[str, Attributes] = {}
    for index, clip in enumerate(plan.clips):
        if clip.id in earlier:
            rows[clip.id] = {"reason": earlier[clip.id]}
            continue
        try:
            with around(clip):
                rows[clip.id] = work(index, clip)
        except MemoryError:  # a worker's memory is bounded, and what a clip needs depends on its frame's size
            rows[clip.id] = {"reason": f"{plan.stage}: it needs more memory than a worker may have"}
        except (ClipError, FfmpegError, VideoError) as error:  # what the decoder and the encoder say of a file
            check_source(plan.folders)
            rows[clip.id] = {"reason": f"{plan.stage}: {_one_line(error, plan)}"}
        except OSError as error:  # of the clip's own source file, or else of the store or the work folder
            _stop_if_not_the_clips_fault(error)
            check_source(plan.folders)
            if not _is_of_source(error, plan):
                raise
            rows[clip.id] = {"reason": f"{plan.stage}: {type(error).__name__}: {_one_line(error, plan)}"}
        except Exception as error:  # an error in our own code, or a store that is damaged: no clip is to blame
            mark_clip(error, clip.id)
            raise
    return rows


def _is_of_source(error: OSError, plan: ShardPlan) -> bool:
    """Whether an error names a file in the source folder."""
    name = error.filename
    return isinstance(name, (str, bytes, os.PathLike)) and Path(os.fsdecode(name)).is_relative_to(plan.folders.source)


def _one_line(error: Exception, plan: ShardPlan) -> str:
    """What an error says, without the folders of this run: the same clip has the same reason wherever they are."""
    text = str((isinstance(error, OSError) and error.strerror) or error)
    for folder in (plan.folders.source, plan.folders.work_dir, plan.store):
        text = text.replace(folder, "…")
    return printable(" ".join(text.split())[:300]) or type(error).__name__


def _upstream(store: ZarrStore, stage: str, shard: int, view: str | None = None) -> Record:
    found = read_records(store, stage, view, [shard])
    if shard not in found:
        raise RunStopped(f"shard {shard} has no record of its stage {stage}; start mocrop preprocess again")
    return found[shard]


def _transcode(plan: ShardPlan, recipe: Recipe, store: HashingStore, each: _Each) -> list[Record]:
    def work(_: int, clip: Clip) -> Attributes:
        row = video_of(clip, recipe, plan.build, plan.folders)[1]
        if recipe.transcode != "keep":
            check_missing(row, recipe)
        return row

    inputs = transcode_inputs(recipe, plan.build, [clip.id for clip in plan.clips])
    return [Record("transcode", None, plan.shard, inputs, each(None, work), {})]


def _motion(plan: ShardPlan, recipe: Recipe, store: HashingStore, each: _Each) -> list[Record]:
    before = _upstream(store, "transcode", plan.shard)
    writer = VectorWriter(store, plan.shard)
    scales = [0] * len(plan.clips)
    counts = [0] * len(plan.clips)

    def work(index: int, clip: Clip) -> Attributes:
        path, known = video_of(clip, recipe, plan.build, plan.folders)
        _check_unchanged(clip, known, before, store)
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


@contextmanager
def _undone_if_failed(undo: Callable[[int], None], index: int) -> Iterator[None]:
    """Let a clip that fails leave nothing in its rows."""
    try:
        yield
    except BaseException:
        undo(index)
        raise


def _check_unchanged(clip: Clip, known: Attributes, transcoded: Record, store: ZarrStore) -> None:
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


def _boxes(plan: ShardPlan, recipe: Recipe, store: HashingStore, each: _Each) -> list[Record]:
    before = _upstream(store, "motion", plan.shard)
    views = [recipe.view(name) for name in plan.views]
    vectors = VectorReader(store, plan.shard)
    density = {
        view.name: np.zeros((len(plan.clips), *view.method().grid), np.float32)
        for view in views
        if isinstance(view, MotionView)
    }
    found: dict[str, dict[str, Attributes]] = {view.name: {} for view in views}

    def blank(index: int) -> None:
        for maps in density.values():
            maps[index] = 0

    def work(index: int, clip: Clip) -> Attributes:
        height, width = before.clips[clip.id]["size"]
        with _undone_if_failed(blank, index):
            for view in views:
                found[view.name][clip.id] = _choose(
                    view, recipe, clip.id, (height, width), vectors, index, density.get(view.name)
                )
        return {}

    failed = {id: row for id, row in each(before, work).items() if "reason" in row}
    records = []
    for view in views:
        if view.name in density:
            write_rows(store, f"views/{view.name}/density", plan.rows, density[view.name])
        rows = {clip.id: failed.get(clip.id) or found[view.name][clip.id] for clip in plan.clips}
        inputs = boxes_inputs(before, recipe, view)
        records.append(Record("boxes", view.name, plan.shard, inputs, rows, *store.taken()))
    return records


def _choose(
    view: RecipeView,
    recipe: Recipe,
    id: str,
    frame_size: tuple[int, int],
    vectors: VectorReader,
    index: int,
    density: npt.NDArray[Any] | None,
) -> Attributes:
    """The box of one clip in one view; a motion view's density goes into its row of ``density``."""
    rng = view_rng(view, recipe.seed, id)
    if isinstance(view, MotionView):
        assert density is not None
        kept = denoise(vectors.blocks(index), view.method(), vectors.count(index))
        choice = choose_box_from(kept, frame_size, view.method(), rng)
        density[index] = choice.density
        score = None if np.isnan(choice.score) else float(np.float32(choice.score))
        box = choice.box
        return {"box": [box.x0, box.y0, box.x1, box.y1], "score": score, "source": choice.source}
    if isinstance(view, FullView):
        box = core_boxes.full_box(frame_size)
    elif view.kind == "centre":
        box = core_boxes.centre_box(frame_size, view.crop_ratio)
    else:
        box = core_boxes.random_box(frame_size, view.crop_ratio, rng)
    return {"box": [box.x0, box.y0, box.x1, box.y1], "score": None, "source": SOURCE_FIXED}


def _clips(plan: ShardPlan, recipe: Recipe, store: HashingStore, each: _Each) -> list[Record]:
    transcoded, motion = _upstream(store, "transcode", plan.shard), _upstream(store, "motion", plan.shard)
    boxes = {name: _upstream(store, "boxes", plan.shard, name) for name in plan.views}
    size = recipe.frames.size
    writers = {name: FrameWriter(store, f"views/{name}/frames", plan.rows) for name in plan.views}

    def drop(index: int) -> None:
        for writer in writers.values():
            writer.drop(index)

    def work(index: int, clip: Clip) -> Attributes:
        path, known = video_of(clip, recipe, plan.build, plan.folders)
        _check_unchanged(clip, known, transcoded, store)
        chosen = frame_choice(motion.clips[clip.id], recipe)
        if not chosen:
            raise ClipError('it has no key frame to keep; frames.choose = "uniform" takes others')
        keys = motion.clips[clip.id]["key_frames"]
        slot = 0
        with _undone_if_failed(drop, index):
            for slot, (_, picture) in enumerate(
                decoder.rgb_frames(path, chosen, keys, time_limit=recipe.time_limit), 1
            ):
                image = Image.fromarray(picture)
                for name, writer in writers.items():
                    writer.put(index, slot - 1, crop(image, boxes[name].clips[clip.id]["box"], size))
            if slot != len(chosen):
                raise ClipError(f"{slot} of {len(chosen)} frames could be decoded")
        return {"frame_index": chosen}

    before = next(iter(boxes.values()))
    rows = each(before, work)
    records = []
    for name, writer in writers.items():
        writer.write()
        inputs = clips_inputs(transcoded, motion, boxes[name], recipe)
        records.append(Record("clips", name, plan.shard, inputs, rows, *store.taken()))
    return records


def frame_choice(motion: Attributes, recipe: Recipe) -> list[int]:
    """The frames of a clip that the store keeps: indices in its video, rising, at most the recipe's slots."""
    candidates = motion["key_frames"] if recipe.frames.choose == "key" else range(motion["frames"])
    return [int(candidates[i]) for i in spread(len(candidates), recipe.frames.slots)]


def crop(picture: Image.Image, box: Sequence[int], size: int) -> npt.NDArray[np.uint8]:
    """The box of an RGB picture, resized to ``size`` × ``size`` px with Pillow's antialiased bilinear filter."""
    x0, y0, x1, y1 = box
    inside = picture if (x0, y0, x1, y1) == (0, 0, *picture.size) else picture.crop((x0, y0, x1, y1))
    return np.asarray(inside.resize((size, size), Image.Resampling.BILINEAR))


_STAGE: dict[str, Callable[[ShardPlan, Recipe, HashingStore, _Each], list[Record]]] = {
    "transcode": _transcode,
    "motion": _motion,
    "boxes": _boxes,
    "clips": _clips,
}
