"""How fast flow maps come, beside the cached frames of the RGB stream, on one core.

Both streams read the same plans of a training epoch: three segments of each of 600 clips, which are the real clips
again and again, in batches of 32. Flow maps are made at 112 px, of five frames, without the camera's motion; the cells
that they are resized from are in memory. Making these cells from the vectors, once before the first epoch, is measured
apart. The RGB stream reads frames of the store's size, 256 px, compressed with zstd, out of the page cache.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.benchmarks.loader import BATCH, PLANS, ROWS, SEGMENTS, VIEW, built_store
from tests.benchmarks.measuring import REPETITIONS, Result, answer, called, least
from training.clips import Clips, read_all_clips
from training.motion import FlowMaps, MotionInput
from training.stream import ClipStream, batches_of_training, plan_of_training

SIZE = 112
LEAST = 1000.0
STEADY_SECONDS = 1.0  # of each repetition


def repeated_clips(location: str, count: int) -> Clips:
    """The clips of a store again and again."""
    clips = read_all_clips(location, VIEW)
    turn = np.arange(count) % len(clips)
    tables = {name: getattr(clips, name)[turn] for name in ("rows", "labels", "frames", "box_sizes")}
    return replace(clips, ids=tuple(clips.ids[place] for place in turn.tolist()), **tables)


def rates(stream: ClipStream, repetitions: int, seconds: float) -> list[float]:
    """Clips a second of whole epochs, in each repetition."""
    plans = [plan_of_training(stream.clips, SEGMENTS, 0, epoch) for epoch in range(PLANS)]
    found = []
    for repetition in range(repetitions):
        began, read = time.perf_counter(), 0
        while read == 0 or time.perf_counter() - began < seconds:
            stream.plan = plans[repetition % PLANS]
            stream.batches = batches_of_training(stream.plan.order, BATCH)
            for batch in stream:
                read += len(batch.labels)
                assert batch.frames.dtype == torch.uint8
        found.append(read / (time.perf_counter() - began))
    return found


def on_one_core(location: str, count: int, repetitions: int, seconds: float) -> dict[str, Any]:
    """Clips a second of both streams in a process that has one core; those of the flow maps' first epoch apart."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    clips = repeated_clips(location, count)
    maps = FlowMaps(clips, MotionInput(), SIZE, keep=1 << 33)
    maps.prepare(1)
    made = [making(location) for _ in range(repetitions)]
    streams = {"motion": ClipStream(clips, maps=maps, threads=2), "rgb": ClipStream(clips, threads=2)}
    for stream in streams.values():
        rates(stream, 1, 0)  # a first epoch is not kept
    found: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(repetitions):
        for name, stream in streams.items():
            found[name] += rates(stream, 1, seconds)
    kept, size = maps.kept
    return {**found, "made": made, "kept": kept, "kb_a_clip": size / kept / 1e3}


def making(location: str) -> float:
    """Clips a second whose flow maps are made from their vectors: once for each clip, before its first epoch."""
    maps = FlowMaps(repeated_clips(location, BATCH), MotionInput(), SIZE, keep=1 << 33)
    began = time.perf_counter()
    maps.prepare(1)
    return BATCH / (time.perf_counter() - began)


def run(quick: bool = False) -> list[Result]:
    """The loaders of both streams on one core."""
    with tempfile.TemporaryDirectory() as name:
        store = built_store(Path(name), 2 if quick else None)
        count, repetitions = (2 * BATCH, 2) if quick else (ROWS, REPETITIONS)
        seconds = 0.05 if quick else STEADY_SECONDS
        function = "tests.benchmarks.motion_stream:on_one_core"
        asked = {"location": str(store), "count": count, "repetitions": repetitions, "seconds": seconds}
        found = answer(called(function, **asked))
    remark = f"{SEGMENTS} stacks of {MotionInput().channels} x {SIZE} x {SIZE} a clip"
    kept = {"kept_clips": found["kept"], "kb_of_cells_a_clip": round(found["kb_a_clip"], 1)}
    return [
        Result("loader of flow maps on one core", "clips/s", tuple(found["motion"]), least(LEAST), remark, kept),
        Result(
            "loader of RGB frames on one core", "clips/s", tuple(found["rgb"]), remark="zstd, 3 frames of 256 px a clip"
        ),
        Result(
            "making flow maps from vectors on one core",
            "clips/s",
            tuple(found["made"]),
            remark="once, before the first epoch",
        ),
    ]
