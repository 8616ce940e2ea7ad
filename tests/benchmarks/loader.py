"""How fast cached clips come: against the reference's way to read them, and against a memory-mapped array.

The store is that of the real clips with the recipe ucf101, its rows repeated to 600 (1.9 GB of raw frames) in each
lossless codec; a clip is three random frames of it, as in training. All files are in the page cache. What to read is
decided before the clock starts: by the plans of a few epochs, which are read again and again.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import tensorstore
import torch
import zarr

from data_specs.recipes import FrameCodec
from data_specs.stored import open_store, zarr_store
from pipelines.runs.options import Options
from pipelines.store.writer import put_attributes, repair_documents, write_rows, write_table
from tests.benchmarks.footage import many, real_clips, run_alone
from tests.benchmarks.measuring import (
    REPETITIONS,
    Result,
    answer,
    called,
    interleaved,
    least,
    most,
    peak_mb,
    ratios,
    resident_mb,
)
from training.augmentation import prepared
from training.clips import Clips, read_clips
from training.stream import AHEAD, ClipStream, Plan, batches_of_training, plan_of_training

ROWS, SHARD, SEGMENTS, BATCH, INPUT = 600, 16, 3, 32, 224
PLANS = 8
REFERENCE_ITEMS, ZARR_ITEMS = 40, 32
STEADY_SECONDS = 1.0  # of each repetition: whole epochs, one after the other
FASTER, OF_MEMORY_MAP = 40.0, 0.5
SLACK_MB = 64.0  # compressed frames, decoders and stacks of the reading threads, and what the allocator keeps
GROWTH_MB = 20.0  # a batch of raw frames, which the allocator keeps or does not
CODECS = ("raw", "lz4", "zstd")
VIEW = "mocrop"
Batch = npt.NDArray[np.int64]


def built_store(folder: Path, clips: int | None = None) -> Path:
    """A store of the real clips, or of the first few, with the recipe ucf101, its H.264 files beside it."""
    store, some = folder / "real.zarr", real_clips()[:clips]
    run_alone(Options(str(many(some, len(some), folder / "source")), str(store)))
    return store


def repeated_store(store: Path, folder: Path, rows: int, codec: str) -> Path:
    """The tables and frames of one view with the clips again and again, all in the train list of split 1."""
    target, old = folder / f"{codec}.zarr", open_store(store)
    frames_settings = old.recipe.frames.model_copy(update={"codec": FrameCodec.model_validate({"name": codec})})
    recipe = old.recipe.model_copy(update={"frames": frames_settings, "shard_clips": SHARD})
    writable = zarr_store(str(target), read_only=False)
    put_attributes(writable, "", {**old.attrs, "recipe": recipe.model_dump(mode="json")})
    repair_documents(writable, recipe, rows)
    turn = np.arange(rows) % len(old.ids)
    ids = [f"{old.ids[k].rpartition('_c')[0]}_c{row}" for row, k in enumerate(turn.tolist())]
    in_train = np.zeros((rows, 3), np.uint8)
    in_train[:, 0] = 1
    tables = {"id": np.array(ids, dtype=object), "split": in_train}
    copied = ("label", "state", "num_frames", "frame_size", f"views/{VIEW}/box", f"views/{VIEW}/frame_index")
    new = open_store(target)
    for path, values in {**tables, **{path: old.table(path)[turn] for path in copied}}.items():
        write_table(writable, new.spec(path), values)
    frames = old.view(VIEW).table("frames")
    for start in range(0, rows, SHARD):
        shard = range(start, min(start + SHARD, rows))
        write_rows(writable, f"views/{VIEW}/frames", shard, frames[turn[shard.start : shard.stop]])
    return target


def memory_map(store: Path, folder: Path, rows: int) -> Path:
    """The same frames as one raw array in a file."""
    path = folder / "frames.npy"
    frames = open_store(store).view(VIEW).table("frames")
    raw = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(rows, *frames.shape[1:]))
    for start in range(0, rows, SHARD):
        raw[start : start + SHARD] = frames[np.arange(start, min(start + SHARD, rows)) % len(frames)]
    raw.flush()
    return path


@cache
def train_list(location: Path) -> Clips:
    """The clips of a store."""
    return read_clips(str(location), VIEW, 1, "train")


@cache
def planned(location: Path, number: int) -> tuple[Plan, list[Batch]]:
    """One of so many plans of an epoch, and its batches."""
    clips = train_list(location)
    plan = plan_of_training(clips, SEGMENTS, 0, number)
    return plan, batches_of_training(plan.order, min(BATCH, len(clips)))


class ReferenceItems:
    """One item after the other as the public MoCrop code makes it, in our words, without its colour change.

    For each segment it opens the video, seeks, reads one frame and closes it; loads the clip's density map from a file;
    tries all rectangles; crops; resizes.
    """

    def __init__(self, store: Path, folder: Path) -> None:
        found = open_store(store)
        density = found.view(VIEW).table("density")
        self.items: list[tuple[str, Path]] = []
        for row, id in enumerate(found.ids):
            (video,) = Path(f"{store}.work").rglob(f"{id.split('/')[1]}*.mp4")
            np.save(folder / f"{row}.npy", density[row])
            self.items.append((str(video), folder / f"{row}.npy"))
        self.frames = found.table("num_frames")
        self.rng = np.random.default_rng(0)

    def read(self, count: int) -> None:
        """Make so many items."""
        for row in self.rng.integers(len(self.items), size=count).tolist():
            video, density = self.items[row]
            edges = np.round(np.linspace(0, self.frames[row] - 1, SEGMENTS + 1)).astype(int)
            pictures = []
            for first, last in pairwise(edges.tolist()):
                picture = self._frame(video, int(self.rng.integers(first, last)))
                x0, y0, x1, y1 = self._box(np.load(density), picture.shape[0], picture.shape[1])
                pictures.append(cv2.resize(picture[y0:y1, x0:x1], (INPUT, INPUT), interpolation=cv2.INTER_LINEAR))
            assert np.stack(pictures).shape == (SEGMENTS, INPUT, INPUT, 3)

    @staticmethod
    def _frame(video: str, index: int) -> Any:
        capture = cv2.VideoCapture(video)
        capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        found, picture = capture.read()
        capture.release()
        assert found
        return picture

    @staticmethod
    def _box(density: npt.NDArray[np.float32], height: int, width: int) -> tuple[int, int, int, int]:
        rows, columns = density.shape
        wanted, most_motion, best = 0.75 * rows * columns, -np.inf, (0, 0, rows, columns)
        for h in range(1, rows + 1):
            for w in range(1, columns + 1):
                if not 0.9 * wanted <= h * w <= 1.1 * wanted:
                    continue
                for top in range(rows - h + 1):
                    for left in range(columns - w + 1):
                        motion = float(np.sum(density[top : top + h, left : left + w]))
                        if motion > most_motion:
                            most_motion, best = motion, (top, left, top + h, left + w)
        cell_y, cell_x = height // rows, width // columns
        return best[1] * cell_x, best[0] * cell_y, best[3] * cell_x, best[2] * cell_y


def read_stream(location: Path, prepare: bool = False, threads: int | None = None) -> Callable[[int], int]:
    """Reads an epoch of a store; ``prepare`` also crops, flips, resizes and normalises it, on the CPU."""
    stream = ClipStream(train_list(location), threads=threads)

    def work(epoch: int) -> int:
        stream.plan, stream.batches = planned(location, epoch % PLANS)
        read = 0
        for batch in stream:
            read += len(batch.labels)
            if prepare and batch.draws is not None:
                draws = replace(batch.draws, colours=None)
                prepared(batch.frames, draws, INPUT, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        return read

    return work


@cache
def wanted_frames(location: Path, number: int) -> list[tuple[Batch, Batch]]:
    """The rows and slots of each batch of a plan."""
    plan, batches = planned(location, number)
    rows = train_list(location).rows
    return [(np.repeat(rows[batch], SEGMENTS), plan.slots[batch].ravel()) for batch in batches]


def read_memory_map(path: Path, location: Path) -> Callable[[int], int]:
    """Reads the same frames of an epoch, batch by batch, out of a memory-mapped array."""
    raw = np.load(path, mmap_mode="r")

    def work(epoch: int) -> int:
        return sum(len(raw[rows, slots]) for rows, slots in wanted_frames(location, epoch % PLANS)) // SEGMENTS

    return work


def read_tensorstore(location: Path) -> Callable[[int], int]:
    """Reads the same frames with tensorstore, one request a batch, as many batches ahead as the loader."""
    folder = f"{location}/views/{VIEW}/frames/"
    array = tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": folder}}, read=True).result()

    def work(epoch: int) -> int:
        pending: deque[Any] = deque()
        read = 0
        for rows, slots in wanted_frames(location, epoch % PLANS):
            pending.append(array.vindex[rows, slots].read())
            if len(pending) > AHEAD:
                read += len(pending.popleft().result())
        return (read + sum(len(future.result()) for future in pending)) // SEGMENTS

    return work


def read_reference(reference: ReferenceItems, items: int) -> Callable[[int], int]:
    """Reads a few of the reference's items."""

    def work(epoch: int) -> int:
        reference.read(items)
        return items

    return work


def read_zarr(location: Path, count: int) -> Callable[[int], int]:
    """Reads the frames of a few clips with zarr-python, one by one."""
    array = zarr.open_array(f"{location}/views/{VIEW}/frames", mode="r")

    def work(epoch: int) -> int:
        (rows, slots), *_ = wanted_frames(location, epoch % PLANS)
        for row, slot in list(zip(rows.tolist(), slots.tolist(), strict=True))[: count * SEGMENTS]:
            array[row, slot]
        return min(count, len(rows) // SEGMENTS)

    return work


def memory_of_epochs(location: str, epochs: int) -> dict[str, float]:
    """MB of this process after the second and the last of so many epochs, its peak above what it began with, and what
    the batches of raw frames take that may be there at once.

    These are the ones read ahead, the one handed out, and the one before it, which whoever iterates still holds.
    """
    torch.set_num_threads(1)
    stream = ClipStream(train_list(Path(location)))
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what it is now
    began, after = resident_mb(), []
    for epoch in range(epochs):
        stream.plan, stream.batches = planned(Path(location), epoch)
        for batch in stream:
            assert len(batch.labels) == len(stream.batches[0])
        after.append(resident_mb())
    frames = len(stream.batches[0]) * SEGMENTS * stream.clips.size**2 * 3 / 1e6
    return {"second": after[1], "last": after[-1], "peak_above": peak_mb() - began, "batches": (AHEAD + 2) * frames}


def clips_per_s_on_one_core(location: str, epochs: int) -> list[float]:
    """The loader's clips a second in a process that has one core, in each of so many epochs after a first."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    work = read_stream(Path(location), threads=2)
    work(0)
    rates = []
    for epoch in range(1, epochs + 1):
        began = time.perf_counter()
        rates.append(work(epoch) / (time.perf_counter() - began))
    return rates


def run(quick: bool = False) -> list[Result]:
    """The loader against the reference's items, against a memory map, on one core, and its memory."""
    rows, repetitions = (4 * SHARD, 2) if quick else (ROWS, REPETITIONS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = built_store(folder, 2 if quick else None)
        places = {codec: repeated_store(store, folder, rows, codec) for codec in CODECS}
        raw = memory_map(store, folder, rows)
        (folder / "density").mkdir()
        reference = ReferenceItems(store, folder / "density")
        items = 4 if quick else REFERENCE_ITEMS
        works: dict[str, Callable[[int], int]] = {
            "reference": read_reference(reference, items),
            "memory map": read_memory_map(raw, places["raw"]),
            **{f"loader, {codec}": read_stream(place) for codec, place in places.items()},
            "loader, crop and resize on the CPU, zstd": read_stream(places["zstd"], prepare=True),
            **{f"tensorstore, {codec}": read_tensorstore(place) for codec, place in places.items()},
            "zarr-python, zstd": read_zarr(places["zstd"], ZARR_ITEMS),
        }
        rates, micro = measured(works, repetitions, 0.05 if quick else STEADY_SECONDS)
        results = compared(rates, micro)
        kept = {codec: folder_bytes(place) / rows for codec, place in places.items()}
        results.append(one_core(places["zstd"], kept, repetitions))
        results += memory(places["zstd"], 3 if quick else 10, 1 if quick else REPETITIONS)
    return results


def measured(
    works: dict[str, Callable[[int], int]], repetitions: int, steady_seconds: float
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Clips a second and CPU milliseconds a clip of each, interleaved; the first repetition is not kept."""
    cpu_ms: dict[str, list[float]] = {name: [] for name in works}
    epochs = iter(range(10**6))

    def timed(name: str) -> float:
        cpu, began, clips, seconds = time.process_time(), time.perf_counter(), 0, 0.0
        while seconds < steady_seconds:
            clips += works[name](next(epochs))
            seconds = time.perf_counter() - began
        cpu_ms[name].append((time.process_time() - cpu) / clips * 1e3)
        return clips / seconds

    samples = interleaved({name: lambda name=name: timed(name) for name in works}, repetitions + 1)
    return {name: values[1:] for name, values in samples.items()}, {name: v[1:] for name, v in cpu_ms.items()}


def compared(rates: dict[str, list[float]], cpu_ms: dict[str, list[float]]) -> list[Result]:
    """The ratios, with every arm's clips a second and CPU time as details of the first."""
    details = {
        name: {
            "clips_per_s": round(float(np.median(rate)), 1),
            "cpu_ms_a_clip": round(float(np.median(cpu_ms[name])), 3),
        }
        for name, rate in rates.items()
    }

    def against(ours: str, theirs: str) -> tuple[float, ...]:
        return ratios(rates[ours], rates[theirs])

    name, transforms = "loader, zstd", "loader, crop and resize on the CPU, zstd"
    results = [
        Result(
            "loader of zstd against the reference's items",
            "times",
            against(name, "reference"),
            least(FASTER),
            details=details,
        ),
        Result(
            "loader, crop and resize on the CPU against the reference's items",
            "times",
            against(transforms, "reference"),
        ),
    ]
    for codec in CODECS:
        share = against(f"loader, {codec}", "memory map")
        results.append(Result(f"loader of {codec} against a memory map", "times", share, least(OF_MEMORY_MAP)))
        less_cpu = ratios(cpu_ms[f"tensorstore, {codec}"], cpu_ms[f"loader, {codec}"])
        results.append(Result(f"CPU time of tensorstore against the loader's, {codec}", "times", less_cpu))
    return results


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def one_core(place: Path, bytes_a_clip: dict[str, float], epochs: int) -> Result:
    """Clips a second on one core, and what GPU work that would feed."""
    rates = answer(called("tests.benchmarks.loader:clips_per_s_on_one_core", location=str(place), epochs=epochs))
    rate = float(np.median(rates))
    forward = {"resnet50": 3.02, "swin_b": 12.64}  # 1e9 multiply-adds a frame at 192 px, python -m training.flops
    fed = {f"{arch}_tflops": round(rate * SEGMENTS * 6 * gflops / 1e3, 1) for arch, gflops in forward.items()}
    details = {
        "steps_per_s_of_32": round(rate / 32, 1),
        **fed,
        "bytes_a_clip": {k: round(v) for k, v in bytes_a_clip.items()},
    }
    remark = f"{rate / 32:.1f} steps of 32 clips a second; tflops: what a GPU does to use them in training at 192 px"
    return Result("loader of zstd on one core", "clips/s", tuple(rates), remark=remark, details=details)


def memory(place: Path, epochs: int, repetitions: int) -> list[Result]:
    """What a reading process has at most above what it began with, and how it grows after the second epoch."""
    function = "tests.benchmarks.loader:memory_of_epochs"
    found = [answer(called(function, location=str(place), epochs=epochs)) for _ in range(repetitions)]
    growth = tuple(one["last"] - one["second"] for one in found)
    batches = found[0]["batches"]
    bound = f"{AHEAD + 2} batches of raw frames, {batches:.0f} MB, and {SLACK_MB:.0f} MB"
    return [
        Result(
            "peak of a reading process above its start", "MB", tuple(one["peak_above"] for one in found),
            most(round(batches + SLACK_MB)), bound, {"MB": found},
        ),
        Result("growth of a reading process", "MB", growth, most(GROWTH_MB), f"from epoch 2 to epoch {epochs}"),
    ]  # fmt: skip
