"""One task: running a stage for a shard of clips, or all of its pending stages, with or without Prefect and Dask.

    transcode   source file                     → H.264 file in the work folder
    motion      H.264 file                      → motion/<shard>: its motion vectors
    boxes       motion/<shard>                  → one box per clip and view, and the density it was chosen on
    clips       H.264 file, boxes               → views/<view>/frames: the crops

A stage reads the record of the previous stage, skips the clips that were quarantined there, writes whole Zarr shards,
and writes its own record last. A clip that fails is quarantined. Problems that no clip caused stop the run: a full
disk, a damaged store, a bug in our own code.

A task that does all stages of a shard (`ONE_PASS`) runs the same functions and writes the same records. It reads the
records that exist to see what is pending, and transcodes again where a stage needs H.264 files that were discarded.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from data_specs.chain import is_current
from data_specs.datasets import Clip
from data_specs.recipes import Recipe
from data_specs.records import BoxRow, CropRow, MotionRow, Record, TranscodeRow, read_records
from data_specs.schema import VIEW_STAGES, progress_path
from data_specs.stored import zarr_store
from data_specs.text import printable
from pipelines.errors import ClipError, RunStopped
from pipelines.internal_errors import mark_clip
from pipelines.media.decoder import VideoError
from pipelines.media.ffmpeg_binary import FfmpegError
from pipelines.stages.boxes import box_records
from pipelines.stages.crops import crop_records
from pipelines.stages.h264_cache import check_source
from pipelines.stages.motion import motion_records
from pipelines.stages.tasks import ONE_PASS, Around, EachClip, Result, ShardPlan, ShardReport
from pipelines.stages.transcode import transcode_records
from pipelines.stages.upstream import upstream
from pipelines.store.software import versions_here
from pipelines.store.writer import HashingStore, remove_record, write_record

_NOT_THE_CLIPS_FAULT = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EMFILE,
    errno.ENOMEM,
}


def _nothing(stage: str, clip: Clip) -> AbstractContextManager[object]:
    return nullcontext()


def process_shard(plan: ShardPlan, recipe: Recipe, around: Around = _nothing) -> ShardReport:
    """Run one stage for one shard, or all of its pending stages, and record each.

    ``around`` wraps the work on each clip. Raises ``RunStopped`` if the disk is full, a permission is missing, or there
    is no source folder or usable ffmpeg, and ``StoreError`` if the store is damaged or does not answer.
    """
    return (_process_stages if plan.stage == ONE_PASS else _process_stage)(plan, recipe, around)


def _process_stages(plan: ShardPlan, recipe: Recipe, around: Around) -> ShardReport:
    start = time.perf_counter()
    report = ShardReport(plan.stage, plan.shard, len(plan.clips), len(plan.clips), 0.0)
    seconds: dict[str, float] = {}
    has_files = recipe.transcode == "keep" or "transcode" in plan.stages
    for stage in plan.stages:
        views = () if stage == "transcode" else pending_views(replace(plan, stage=stage), recipe)
        if views is None:
            continue
        part = replace(plan, stage=stage, views=views)
        if not has_files and stage != "boxes":
            seconds["transcode"] = _transcode_again(part, recipe, around)
            has_files = True
        done = _process_stage(part, recipe, around)
        seconds[stage] = done.seconds
        report = replace(report, done=done.done, quarantined=report.quarantined | done.quarantined)
    return replace(report, seconds=time.perf_counter() - start, by_stage=seconds)


def pending_views(plan: ShardPlan, recipe: Recipe) -> tuple[str, ...] | None:
    """The views for which a stage after ``transcode`` is pending in a shard, according to its records; None if none is.

    Empty for the stage ``motion``, which has no views. The records are read unless there are none.
    """
    if not plan.may_have_records:
        return tuple(view.name for view in recipe.views) if plan.stage in VIEW_STAGES else ()
    store = zarr_store(plan.store, read_only=True)

    def record(stage: str, view: str | None) -> Record[Any] | None:
        return read_records(store, _ROWS[stage], view, [plan.shard]).get(plan.shard)

    if plan.stage not in VIEW_STAGES:
        return None if is_current(plan.stage, None, recipe, record) else ()
    return tuple(view.name for view in recipe.views if not is_current(plan.stage, view, recipe, record)) or None


def _transcode_again(plan: ShardPlan, recipe: Recipe, around: Around) -> float:
    """Make the H.264 files that a transcoded shard no longer has; return the seconds that it took.

    A clip that fails is tried again by the stage of the plan, which records why.
    """
    start = time.perf_counter()
    store = HashingStore(zarr_store(plan.store, read_only=False))
    last: Any = MotionRow if plan.stage == "clips" else TranscodeRow
    before = upstream(store, last, plan.shard)
    transcode_records(plan, recipe, store, lambda _, work: _each_clip(plan, around, before, work))
    return time.perf_counter() - start


def _process_stage(plan: ShardPlan, recipe: Recipe, around: Around) -> ShardReport:
    start = time.perf_counter()
    store = HashingStore(zarr_store(plan.store, read_only=False))
    try:
        if plan.may_have_records and plan.stage in VIEW_STAGES:  # whose objects are replaced in place: records go first
            for view in plan.views:
                remove_record(store, progress_path(plan.stage, view, plan.shard))
        records = _STAGE[plan.stage](plan, recipe, store, partial(_each_clip, plan, around))
        store.settle()
        for record in records:
            write_record(store, replace(record, software=versions_here(plan.stage)))
    except OSError as error:
        _stop_if_not_the_clips_fault(error)
        raise
    failed = {id: reason for record in records for id, reason in record.reasons.items()}
    own = {id: reason for id, reason in failed.items() if reason.startswith(f"{plan.stage}: ")}
    seconds = time.perf_counter() - start
    return ShardReport(plan.stage, plan.shard, len(plan.clips), len(plan.clips) - len(failed), seconds, own)


def _stop_if_not_the_clips_fault(error: OSError) -> None:
    if error.errno in _NOT_THE_CLIPS_FAULT:
        place = f" ({error.filename})" if error.filename else ""
        raise RunStopped(f"{error.strerror}{place}; fix this and run the same command again") from error


def _each_clip(
    plan: ShardPlan, around: Around, before: Record[Any] | None, work: Callable[[int, Clip], Result]
) -> tuple[dict[str, Result], dict[str, str]]:
    """Call ``work`` for each clip of the shard; return its results, and why clips failed here or earlier."""
    dead = {id: reason for id, reason in plan.dead if reason.startswith(f"{plan.stage}: ")}
    earlier = dead | dict(before.reasons if before else {})
    rows: dict[str, Result] = {}
    reasons: dict[str, str] = {}
    for index, clip in enumerate(plan.clips):
        if clip.id in earlier:
            reasons[clip.id] = earlier[clip.id]
            continue
        try:
            with around(plan.stage, clip):
                rows[clip.id] = work(index, clip)
        except MemoryError:  # a worker's memory is limited, and a clip's need depends on its frame size
            reasons[clip.id] = f"{plan.stage}: it needs more memory than a worker may have"
        except (ClipError, FfmpegError, VideoError) as error:  # errors of this clip's file
            check_source(plan.folders)
            reasons[clip.id] = f"{plan.stage}: {_one_line(error, plan)}"
        except OSError as error:  # concerns the clip's source file, or else the store or the work folder
            _stop_if_not_the_clips_fault(error)
            check_source(plan.folders)
            if not _is_of_source(error, plan):
                raise
            reasons[clip.id] = f"{plan.stage}: {type(error).__name__}: {_one_line(error, plan)}"
        except Exception as error:  # a bug in our own code or a damaged store, not a fault of the clip
            mark_clip(error, clip.id)
            raise
    return rows, reasons


def _is_of_source(error: OSError, plan: ShardPlan) -> bool:
    """Return whether an error names a file in the source folder."""
    name = error.filename
    return isinstance(name, (str, bytes, os.PathLike)) and Path(os.fsdecode(name)).is_relative_to(plan.folders.source)


def _one_line(error: Exception, plan: ShardPlan) -> str:
    """An error's message without the paths of this run, so that a clip has the same reason wherever they are."""
    text = str((isinstance(error, OSError) and error.strerror) or error)
    for folder in (plan.folders.source, plan.folders.work_dir, plan.store):
        text = text.replace(folder, "…")
    return printable(" ".join(text.split())[:300]) or type(error).__name__


_STAGE: dict[str, Callable[[ShardPlan, Recipe, HashingStore, EachClip], list[Record[Any]]]] = {
    "transcode": transcode_records,
    "motion": motion_records,
    "boxes": box_records,
    "clips": crop_records,
}
_ROWS: dict[str, Any] = {row.stage: row for row in (TranscodeRow, MotionRow, BoxRow, CropRow)}
