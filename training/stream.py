"""Batches of cached clips in the order of a plan, read ahead by threads.

A plan is a pure function of seed and epoch; it does not depend on the number of processes or threads, or on the batch
size. Memory is bounded by the batches read ahead, the requested one and the one in use: (`AHEAD` + 2) * clips *
segments * size * size * 3 bytes, which a stream keeps for its next epoch.
"""

from __future__ import annotations

import math
import os
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import threadpool_limits
from torch.utils.data import IterableDataset, get_worker_info

from data_specs.resources import usable_cores
from mocrop_core.frames import sample_segments_test, sample_segments_train
from training.augmentation import Draws, draw
from training.clips import Clips
from training.motion import FlowMaps
from training.options import Refused
from training.shards import FrameReader

AHEAD = 4  # batches
MOST_THREADS = 4  # by default
Augment = Literal["reference", "flip", "none"]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """One pass over n clips.

    ``order`` (n,): positions of the clips, in order of use; ``slots`` (n, segments): the frames of the clip at each
    position; ``draws``: the random augmentation, None in a test.
    """

    order: Indices
    slots: Indices
    draws: Draws | None = None


def plan_of_training(clips: Clips, segments: int, seed: int, epoch: int, augment: Augment = "reference") -> Plan:
    """Plan one training epoch: shuffled clips, a random frame of each of ``segments`` equal parts, random augmentation.

    ``augment`` reduces the augmentation ("flip", "none"); order and frames stay the same.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(clips))
    slots = sample_segments_train(clips.frames, segments, rng)
    draws = draw(rng, clips.box_sizes, segments)
    return Plan(order, slots, {"reference": draws, "flip": draws.flips_alone(), "none": None}[augment])


def plan_of_test(clips: Clips, segments: int) -> Plan:
    """Plan a test: every clip once, in order, with the centre frames of ``segments`` equal parts; nothing is random."""
    return Plan(np.arange(len(clips)), sample_segments_test(clips.frames, segments))


def batches_of_training(order: Indices, batch_size: int, rank: int = 0, world: int = 1) -> list[Indices]:
    """Return the full batches of process ``rank`` of ``world``, the same number for each process.

    The rest, less than one batch per process, is dropped: different clips in each epoch. `Refused` if there is no full
    batch.
    """
    together = batch_size * world
    if len(order) < together:
        raise Refused(
            f"--batch-size {batch_size}: {world} x {batch_size} clips per step, the train list has {len(order)}; "
            f"give at most {max(1, len(order) // world)}"
        )
    steps = order[: len(order) // together * together].reshape(-1, world, batch_size)
    return list(steps[:, rank])


def batches_of_test(order: Indices, batch_size: int, rank: int, world: int) -> list[Indices]:
    """Return the batches of process ``rank`` of ``world``; each clip is in exactly one batch, without padding."""
    mine = order[rank::world]
    return [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A batch of clips from the store.

    ``frames`` uint8 (clips, segments, size, size, channels): RGB, or flow maps (`training.motion`); ``labels`` int64
    (clips,); ``positions`` (clips,) in the list; ``draws`` for these clips, or None.
    """

    frames: torch.Tensor
    labels: torch.Tensor
    positions: Indices
    draws: Draws | None

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device; from pinned memory, the copy overlaps with computation."""
        draws = None if self.draws is None else self.draws.to(device)
        frames, labels = (part.to(device, non_blocking=True) for part in (self.frames, self.labels))
        return replace(self, frames=frames, labels=labels, draws=draws)


class _Memory:
    """Reuses the memory of batches that are no longer referenced: allocating costs as much as filling it."""

    def __init__(self) -> None:
        self._free: deque[npt.NDArray[np.uint8]] = deque(maxlen=AHEAD + 2)

    def lend(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Return an uninitialised uint8 tensor of that shape."""
        length = math.prod(shape)
        whole = self._free.pop() if self._free else np.empty(0, np.uint8)
        if len(whole) < length:
            whole = np.empty(length, np.uint8)
        lent = whole[:length].reshape(shape)
        weakref.finalize(lent, self._free.append, whole).atexit = False  # kept alive by the tensor and its views
        return torch.from_numpy(lent)


class ClipStream(IterableDataset[Batch]):
    """The batches of a plan, in order, read ahead by ``threads`` threads of this process.

    The default is one thread per core, at most 4. With 0, the iterating thread reads each batch on demand.

    Set ``plan`` and ``batches``, then iterate. Each process opens the store when it reads its first batch, so a stream
    can be pickled or forked; worker processes of a `DataLoader` (``batch_size=None``) yield the batches in the same
    order. ``pin`` puts frames into pinned memory. With ``maps`` of the same clips, these are the frames.
    """

    def __init__(
        self, clips: Clips, *, maps: FlowMaps | None = None, threads: int | None = None, pin: bool = False
    ) -> None:
        self.clips = clips
        self.maps = maps
        self.plan = Plan(np.empty(0, np.int64), np.empty((0, 0), np.int64))
        self.batches: list[Indices] = []
        self.threads = min(MOST_THREADS, usable_cores()) if threads is None else threads
        self.pin = pin
        self._opened: tuple[int, FrameReader | FlowMaps, ThreadPoolExecutor | None, _Memory] | None = None

    def __len__(self) -> int:
        return len(self.batches)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        mine = self.batches if worker is None else self.batches[worker.id :: worker.num_workers]
        pending: deque[tuple[Batch, list[Future[None]]]] = deque()
        try:
            for positions in mine:
                pending.append(self._start(positions))
                if len(pending) > (AHEAD if self.threads else 0):
                    yield self._finish(pending.popleft())
            while pending:
                yield self._finish(pending.popleft())
        finally:
            for _, reads in pending:
                for read in reads:
                    read.cancel()

    def _start(self, positions: Indices) -> tuple[Batch, list[Future[None]]]:
        reader, pool, memory = self._open()
        slots = self.plan.slots[positions]
        shape = (*slots.shape, *(self.maps.shape if self.maps else (self.clips.size, self.clips.size, 3)))
        frames = torch.empty(shape, dtype=torch.uint8, pin_memory=True) if self.pin else memory.lend(shape)
        where, which, out = np.repeat(positions, shape[1]), slots.ravel(), frames.numpy().reshape(-1, *shape[2:])
        reads = []
        if pool is None:
            reader.read(where, which, out)
        else:
            parts = min(self.threads, len(where))
            cuts = [len(where) * part // parts for part in range(parts + 1)]
            reads = [pool.submit(reader.read, where[a:b], which[a:b], out[a:b]) for a, b in pairwise(cuts)]
        draws = None if self.plan.draws is None else self.plan.draws.of(positions)
        if self.maps is not None:  # whose channels come first
            frames = frames.permute(0, 1, 3, 4, 2)
        return Batch(frames, torch.from_numpy(self.clips.labels[positions]), positions, draws), reads

    def _finish(self, started: tuple[Batch, list[Future[None]]]) -> Batch:
        batch, reads = started
        for read in reads:
            read.result()
        return batch

    def _open(self) -> tuple[FrameReader | FlowMaps, ThreadPoolExecutor | None, _Memory]:
        if self._opened is None or self._opened[0] != os.getpid():
            pool = ThreadPoolExecutor(self.threads, "frames", compute_alone) if self.threads else None
            self._opened = (os.getpid(), self.maps or FrameReader(self.clips), pool, _Memory())
        return self._opened[1:]


def compute_alone() -> None:
    """Limit torch to one thread in this thread: distributing a copy over threads takes longer than the copy."""
    torch.get_num_threads()  # initialises the number that the next line lowers
    threadpool_limits(1, "openmp")
