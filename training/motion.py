"""The input of the motion stream: stacks of flow maps, from a store's motion vectors, without decoding a video.

Around each frame that the RGB stream would see, the maps of K consecutive predicted frames are stacked: 2 K channels,
``dx`` and ``dy`` of the first, of the second and so on. They are made like this:

1. the mean displacement of the vectors in square cells of the frame (`mocrop_core.frame_motion`), in px a frame, with
   the sign of the vectors: what moves to the right has a negative ``dx``. Cells without a vector are at rest;
2. the motion of the camera subtracted, as for the boxes of ``actor``, if asked for;
3. divided by the frame's height, clipped to ±`LIMIT` and stored as 128 + 127 x / LIMIT, uint8, so that 128 is rest and
   a mirrored ``dx`` is 256 - dx;
4. the cells that the view's box reaches, resized bilinearly to the size of the input.

Sources: CoViAR (arXiv 1712.00636) for vectors as a stream of their own, clipped at 20 px of frames of 256 lines;
EMV-CNN (arXiv 1604.07669) for stacks of consecutive vector fields. What deviates: CoViAR accumulates vectors back to
the last key frame and gives the network one field of 2 channels; its third stream, residuals, is not in a store.
EMV-CNN learns from a network on optical flow. Neither removes the camera's motion, or crops a box around the motion.
"""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from data_specs.clip_motion import MotionReader, shards_of, vector_counts
from data_specs.locations import StoreError, shown
from data_specs.recipes import moves
from data_specs.resources import usable_memory
from data_specs.stored import open_store
from mocrop_core import KeyFrames, cell_grid
from mocrop_core.frame_motion import frame_motion, predicted_frames
from mocrop_core.motion_vectors import MotionVectors
from training.clips import Clips
from training.options import Failed, Refused, whole

LIMIT = 20 / 256
"""Largest displacement of a map, as a share of the frame's height a frame: CoViAR's 20 px at 256 lines."""
ZERO, STEPS = 128, 127
"""What rest is as uint8, and how far from it `LIMIT` is."""
MOST_FRAMES = 64
KEPT_SHARE = 4  # maps take at most this part of the memory
Maps = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
Track = Callable[[Iterable[None], int], Iterable[None]]


@dataclass(frozen=True, slots=True)
class MotionInput:
    """What the motion stream sees around a frame: ``frames`` consecutive predicted frames, with the camera or not."""

    frames: int = 5
    remove_camera: bool = True

    @property
    def channels(self) -> int:
        """Channels of a stack: dx and dy of each frame."""
        return 2 * self.frames

    @property
    def settings(self) -> dict[str, Any]:
        """The flags that ask for it, as values of JSON."""
        return {"stream": "motion", "flow_frames": self.frames, "remove_camera": self.remove_camera}

    def __str__(self) -> str:
        return f"motion ({self.frames} frames, camera {'removed' if self.remove_camera else 'kept'})"


def add_stream_flags(parser: argparse.ArgumentParser, **stream: Any) -> None:
    """Add the flags that choose the stream; ``stream``: further options of the flag ``--stream``."""
    group = parser.add_argument_group("stream")
    group.add_argument(
        "--stream",
        choices=("rgb", "motion"),
        **{
            "default": "rgb",
            "help": "cached frames, or flow maps from the store's motion vectors, cropped by the view's boxes",
            **stream,
        },
    )
    group.add_argument(
        "--flow-frames", type=whole(1, MOST_FRAMES), metavar="K",
        help=f"motion: consecutive predicted frames per stack, 2 channels each; default: {MotionInput().frames}",
    )  # fmt: skip
    group.add_argument(
        "--remove-camera", action=argparse.BooleanOptionalAction,
        help="motion: subtract the camera's motion, as the boxes of actor do; default: yes",
    )  # fmt: skip


def check_stream(args: argparse.Namespace) -> None:
    """Raise `Refused` for flags of the motion stream without ``--stream motion``."""
    given = {"--flow-frames": args.flow_frames, "--remove-camera": args.remove_camera}
    for flag, value in given.items():
        if value is not None and "motion" not in (args.stream or ""):
            raise Refused(f"{flag} {value}: is for the motion stream; give --stream motion, or omit it")


def motion_input(settings: Mapping[str, Any]) -> MotionInput | None:
    """Return what settings (of flags, a checkpoint or a result) say of the motion stream; None for the RGB stream."""
    if settings.get("stream") != "motion":
        return None
    default = MotionInput()
    frames, remove = settings.get("flow_frames"), settings.get("remove_camera")
    return MotionInput(
        default.frames if frames is None else frames, default.remove_camera if remove is None else remove
    )


def clips_without_vectors(clips: Clips) -> int:
    """Return how many clips of a list have no motion vector at all, so that they are at rest for the motion stream.

    `Refused` for a store that has no motion vectors of a clip, or of any of them.
    """
    where = f"--stream motion: store {shown(clips.location)!r}"
    try:
        counts = vector_counts(open_store(clips.location), clips.rows)
    except StoreError as error:
        raise Refused(f"{where}: {error}; repair it with the mocrop preprocess that made it") from error
    if not counts.any():
        raise Refused(
            f"{where} has no motion vectors: all frames of its {len(clips)} clips are key frames; make it with a "
            "recipe that transcodes, or give --stream rgb"
        )
    return int((counts == 0).sum())


class FlowMaps:
    """The stacks of flow maps of clips, made from their vectors and kept in memory while they fit.

    ``size`` is the side of a map, px. Up to ``keep`` bytes of cells are kept: by default a quarter of the memory that
    this process may use; what does not fit is made again each time. Threads may read at the same time.
    """

    def __init__(self, clips: Clips, motion: MotionInput, size: int, *, keep: int | None = None) -> None:
        self.clips, self.motion, self.size = clips, motion, size
        self.keep = self.memory() if keep is None else keep
        self.without_vectors = clips_without_vectors(clips)
        store = open_store(clips.location)
        view = store.view(clips.view)
        self._index = view.table("frame_index")[clips.rows]
        if moves(store.recipe.view(clips.view)):
            self._boxes = view.table("frame_box")[clips.rows]
        else:
            self._boxes = np.broadcast_to(view.table("box")[clips.rows, None], (*self._index.shape, 4))
        self._sizes = store.table("frame_size")[clips.rows]
        _check_boxes(clips, self._boxes, self._sizes)
        sizes, of_clip = np.unique(self._sizes, axis=0, return_inverse=True)
        self._sides = np.array([cell_grid((height, width)).side for height, width in sizes.tolist()])[of_clip.ravel()]
        self._kept: dict[int, list[Maps]] = {}
        self._bytes = 0
        self._local = threading.local()

    @staticmethod
    def memory() -> int:
        """Bytes that maps may take by default."""
        return (usable_memory() or 1 << 32) // KEPT_SHARE

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}, "_bytes": 0, "_local": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _local=threading.local())

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of a stack."""
        return self.motion.channels, self.size, self.size

    @property
    def kept(self) -> tuple[int, int]:
        """How many clips are kept in memory, and their bytes."""
        return len(self._kept), sum(each.nbytes for maps in self._kept.values() for each in maps)

    def prepare(self, threads: int, track: Track = lambda shards, _: shards) -> None:
        """Make the maps of all clips in the order of the store, shard by shard, until the memory for them is full."""
        shard_of = shards_of(open_store(self.clips.location), self.clips.rows).tolist()
        shards = [list(each) for _, each in groupby(range(len(self.clips)), key=shard_of.__getitem__)]

        def make(shard: list[int]) -> None:
            for position in shard:
                if self._bytes < self.keep:
                    self._of(position)

        with ThreadPoolExecutor(max(threads, 1), "motion") as pool:
            for _ in track(pool.map(make, shards), len(shards)):
                pass

    def read(self, positions: Indices, slots: Indices, out: Maps) -> None:
        """Fill ``out[i]`` ((n, 2 K, size, size)) with the stack around slot ``slots[i]`` of clip ``positions[i]``.

        `Failed` names a clip whose vectors are missing or damaged.
        """
        keys = list(zip(positions.tolist(), map(tuple, self._boxes[positions, slots].tolist()), strict=True))
        for (position, box), run in groupby(range(len(out)), key=keys.__getitem__):  # the slots of a clip in one go
            places, maps = list(run), self._of(position)
            cells = np.stack([maps[slots[place]] for place in places])
            x0, y0, x1, y1 = box
            side = int(self._sides[position])
            down, across = resizing(y0, y1, side, self.size), resizing(x0, x1, side, self.size).T
            wide = (torch.from_numpy(cells).float() + 0.5) @ across  # the half makes the conversion below round
            torch.from_numpy(out[places[0] : places[-1] + 1]).copy_(down @ wide)

    def _of(self, position: int) -> list[Maps]:
        maps = self._kept.get(position)
        if maps is None:
            maps = self._made(position)
            size = sum(each.nbytes for each in maps)
            if self._bytes + size <= self.keep:
                self._kept[position] = maps
                self._bytes += size
        return maps

    def _made(self, position: int) -> list[Maps]:
        """The cells of each cached frame's stack that its box reaches: uint8 (2 K, rows, columns) each."""
        slots = range(int(self.clips.frames[position]))
        around = self._index[position, : len(slots)].astype(np.int64)
        try:
            vectors = self._reader().read(int(self.clips.rows[position]))
            if list(vectors.frame_size) != self._sizes[position].tolist():
                raise ValueError(f"its frame_size is {self._sizes[position].tolist()}, its record has another")
            cells = stacks(vectors, around, self.motion)
        except (StoreError, ValueError) as error:
            raise Failed(
                f"clip {self.clips.ids[position]!r}, motion vectors: {error}; mocrop verify "
                f"{shown(self.clips.location)} says what is damaged"
            ) from error
        return [np.ascontiguousarray(cells[slot][:, *self._reached(position, slot)]) for slot in slots]

    def _reached(self, position: int, slot: int) -> tuple[slice, slice]:
        """The rows and the columns of the cells that the box reaches."""
        x0, y0, x1, y1 = self._boxes[position, slot].tolist()
        side = int(self._sides[position])
        return slice(y0 // side, -(-y1 // side)), slice(x0 // side, -(-x1 // side))

    def _reader(self) -> MotionReader:
        """The reader of this thread in this process."""
        opened = getattr(self._local, "opened", None)
        if opened is None or opened[0] != os.getpid():
            opened = self._local.opened = os.getpid(), MotionReader(open_store(self.clips.location))
        reader: MotionReader = opened[1]
        return reader


def _check_boxes(clips: Clips, boxes: npt.NDArray[np.int32], sizes: npt.NDArray[np.int32]) -> None:
    """Raise ``StoreError`` if the box of a cached frame, (n, slots, 4), is empty or leaves its clip's frame (n, 2)."""
    filled = np.arange(boxes.shape[1]) < clips.frames[:, None]
    x0, y0, x1, y1 = np.moveaxis(boxes, 2, 0)
    height, width = sizes.T[:, :, None]
    inside = (x0 >= 0) & (x0 < x1) & (x1 <= width) & (y0 >= 0) & (y0 < y1) & (y1 <= height)
    wrong = np.flatnonzero((filled & ~inside).any(axis=1))
    if len(wrong):
        raise StoreError(
            f"store {shown(clips.location)!r}: a box of clip {clips.ids[wrong[0]]!r} is empty or leaves the frame; "
            "mocrop verify says what else is damaged"
        )


def stacks(vectors: MotionVectors, around: Indices, motion: MotionInput) -> Maps:
    """Return the stack of flow maps around each of some frames of a clip: uint8 (n, 2 K, rows, columns), in cells.

    ``around`` int64 (n,): numbers of frames. Where no frame is predicted, as in a clip of one frame, all is at rest.
    """
    chosen = predicted_frames(vectors.num_frames, vectors.key_frames, around, motion.frames)
    frames, places = np.unique(chosen, return_inverse=True)
    grid = cell_grid(vectors.frame_size)
    if frames[0] < 0:
        return np.full((len(around), motion.channels, *grid.shape), ZERO, np.uint8)
    assert vectors.texture is not None
    keys = KeyFrames(vectors.key_frames, vectors.texture, vectors.picture)
    moved = frame_motion(vectors.vectors, frames, keys, grid, remove_camera=motion.remove_camera)
    flow = np.stack(moved, axis=1) * np.float32(STEPS / (LIMIT * vectors.frame_size[0]))
    maps: Maps = (np.rint(np.clip(flow, -STEPS, STEPS)) + ZERO).astype(np.uint8)
    return maps[places.reshape(chosen.shape)].reshape(len(around), motion.channels, *grid.shape)


@lru_cache(maxsize=4096)
def resizing(start: int, stop: int, side: int, size: int) -> torch.Tensor:
    """Return the weights of the cells from ``start`` to ``stop``, px, in each of ``size`` points.

    Returns float32 (size, cells). The points are the middles of ``size`` equal parts of the way; each is between the
    middles of two cells of ``side`` px, which count by nearness (bilinear interpolation). Beyond the first and the last
    middle, the cell there counts alone. Rows sum to 1.
    """
    first, last = start // side, -(-stop // side)
    places = (start + (np.arange(size) + 0.5) * (stop - start) / size) / side - 0.5 - first
    places = np.clip(places, 0, last - first - 1)
    lower = np.minimum(places.astype(np.int64), max(last - first - 2, 0))
    weights = np.zeros((size, last - first), np.float32)
    points = np.arange(size)
    weights[points, lower] = 1 - (places - lower)
    weights[points, np.minimum(lower + 1, last - first - 1)] += places - lower
    return torch.from_numpy(weights)
