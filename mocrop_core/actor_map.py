"""The clip's map of persistent motion relative to the camera, from vectors and key frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mocrop_core.camera import camera_residual
from mocrop_core.cells import CellEdges, CellGrid, Cells, Picture, cell_displacements
from mocrop_core.mirrored import mirrored_mean, mirrored_totals
from mocrop_core.persistence import REACH, persistent_motion, weighted
from mocrop_core.texture import smooth_texture
from mocrop_core.vectors import VECTOR, Vectors, check_vectors

Map = npt.NDArray[np.float64]
AT_ONCE = 2**16  # cells processed at once: many enough to amortise NumPy's overhead, few enough for the CPU cache
MOST_BLOCKS = 2**18  # of 16 x 16 px: bounds the memory of their vectors


@dataclass(frozen=True, slots=True)
class KeyFrames:
    """The key frames of a clip with their texture and picture area.

    frames: their numbers, increasing. textures: uint8 (len(frames), rows, columns) of `key_frame_textures`. picture:
    the part of the frame inside black bars, from `picture_area`; None for the whole frame. Raises ValueError if numbers
    are not increasing or the number of textures differs. Source: ours.
    """

    frames: tuple[int, ...]
    textures: npt.NDArray[np.uint8]
    picture: Picture | None = None

    def __post_init__(self) -> None:
        if any(after <= before for before, after in zip((-1, *self.frames), self.frames, strict=False)):
            raise ValueError(f"frames must be increasing and at least 0, got {self.frames}")
        if self.textures.dtype != np.uint8 or self.textures.ndim != 3 or len(self.textures) != len(self.frames):
            expected = f"uint8 ({len(self.frames)}, rows, columns)"
            raise ValueError(f"textures must be {expected}, got {self.textures.dtype} {self.textures.shape}")

    def cells(self, grid: CellGrid) -> tuple[slice, slice]:
        """Return the rows and the columns of the grid's cells that lie entirely inside the picture.

        Raises ValueError if textures do not have the grid's shape.
        """
        if self.textures.shape[1:] != grid.shape:
            raise ValueError(f"textures must have {grid.shape} cells, got {self.textures.shape[1:]}")
        return grid.whole_cells(self.picture) if self.picture else (slice(grid.shape[0]), slice(grid.shape[1]))

    def smooth_textures(self, cells: tuple[slice, slice]) -> Cells:
        """Return the weights of the cells of each key frame, float32; a single map of ones without key frames."""
        textures = smooth_texture(self.textures[:, cells[0], cells[1]])
        return textures if len(textures) else np.ones((1, *textures.shape[1:]), np.float32)

    def latest(self, frames: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return, for each frame, the index of the last key frame up to it; 0 before the first key frame."""
        return np.maximum(np.searchsorted(self.frames, frames, side="right") - 1, 0)


def motion_maps(
    blocks: Iterable[Vectors], num_frames: int, keys: KeyFrames, grid: CellGrid, segments: int = 1
) -> tuple[Map, Map]:
    """Return the mean motion map of a clip, and that of each of its equal parts.

    blocks: `VECTOR` (n,) each, in frame order; how they are split into blocks makes no difference. num_frames: of the
    clip. Key frames are left out; each other frame's map of persistent motion is divided by its sum, or is 0 if nothing
    moves. Returns float64 (rows, columns) and (segments, rows, columns), of the cells that lie entirely inside the
    picture, each with a sum of 1 or 0. Raises ValueError if frame numbers are not increasing or outside the clip, or
    textures do not have the grid's shape. Source: ours.
    """
    cells = keys.cells(grid)
    frames = np.setdiff1d(np.arange(num_frames), keys.frames)
    part = frames * segments // max(num_frames, 1)
    shape = (len(range(grid.shape[0])[cells[0]]), len(range(grid.shape[1])[cells[1]]))
    whole, parts = np.zeros(shape), np.zeros((segments, *shape))
    if whole.size:
        for begin, motion in _motion(blocks, num_frames, frames, keys, grid, cells):
            total = mirrored_totals(motion)
            share = np.divide(1, total, out=np.zeros_like(total), where=total > 0)
            motion *= share.astype(np.float32)[:, None, None]
            whole += motion.sum(axis=0)
            if segments > 1:
                now = part[begin : begin + len(motion)]
                for index in np.unique(now):
                    parts[index] += motion[now == index].sum(axis=0)
    (mean,) = _shares(whole[None])
    return mean, _shares(parts) if segments > 1 else mean[None]


def _motion(
    blocks: Iterable[Vectors],
    num_frames: int,
    frames: npt.NDArray[np.int64],
    keys: KeyFrames,
    grid: CellGrid,
    cells: tuple[slice, slice],
) -> Iterator[tuple[int, Cells]]:
    """Yield maps of persistent motion of consecutive groups of frames, with the index of the first in `frames`."""
    textures, latest = keys.smooth_textures(cells), keys.latest(frames)
    length, begin = _frames_at_once(grid), 0
    chunks = [slice(start, min(start + length, len(frames))) for start in range(0, len(frames), length)]
    ends = [int(frames[chunk.stop - 1]) + 1 for chunk in chunks]
    sums = None
    for chunk, v in zip(chunks, _cut(blocks, ends, num_frames), strict=True):
        dx, dy, has = cell_displacements(v, frames[chunk], grid, keys.picture)
        if textures.shape[1:] != grid.shape:
            dx, dy = (np.ascontiguousarray(each[:, cells[0], cells[1]]) for each in (dx, dy))
            has = np.ascontiguousarray(has[:, cells[0], cells[1]])
        texture = textures[latest[chunk]]
        new = weighted(camera_residual(dx, dy, has, texture), has, texture)
        before = np.repeat(new[:, :1], REACH, axis=1) if sums is None else sums[:, -2 * REACH :]
        after = np.repeat(new[:, -1:], REACH if chunk.stop == len(frames) else 0, axis=1)
        sums = np.concatenate([before, new, after], axis=1)
        end = begin + sums.shape[1] - 2 * REACH
        yield begin, persistent_motion(sums, textures[latest[begin:end]])
        begin = end


def blurred(motion: Map, rows: float, columns: float) -> Map:
    """Return a map blurred by a Gaussian, with zeros outside of it.

    motion: (rows, columns). rows, columns: the Gaussian's standard deviations, as shares of the map's rows and columns.
    Mirrored maps give mirrored results, bit for bit. Source: ours.
    """
    down, across = (_gaussian(length, share) for length, share in zip(motion.shape, (rows, columns), strict=True))
    return mirrored_mean(lambda each: down @ each @ across, motion)


def centred(motion: Map, edges: CellEdges, rows: float, columns: float) -> Map:
    """Return a map scaled to a maximum of 1, times a Gaussian around the middle of the picture.

    motion: (rows, columns), >= 0. rows, columns: the Gaussian's standard deviations, as shares of the picture's height
    and width. A map of zeros stays 0. Source: ours.
    """
    highest = motion.max(initial=0)
    if highest <= 0:
        return np.zeros_like(motion)
    y, x = ((each[1:] + each[:-1]) / 2 for each in (edges.y, edges.x))
    prior_weighted: Map = motion / highest * np.exp(-((x / columns) ** 2)[None, :] / 2 - ((y / rows) ** 2)[:, None] / 2)
    return prior_weighted


def _frames_at_once(grid: CellGrid) -> int:
    height, width = grid.frame_size
    blocks = -(-height // 16) * -(-width // 16)
    return max(4, min(AT_ONCE // (grid.shape[0] * grid.shape[1]), MOST_BLOCKS // blocks))


def _cut(blocks: Iterable[Vectors], ends: list[int], num_frames: int) -> Iterator[Vectors]:
    """Yield, for each end, the vectors of the frames up to it that were not yielded before."""
    held: list[Vectors] = []
    waiting, last = iter(ends), -1
    end = next(waiting, None)
    for block in blocks:
        check_vectors("v", block)
        frame = np.ascontiguousarray(block["frame"])
        if len(block) and (frame[0] < max(last, 0) or (frame[1:] < frame[:-1]).any() or frame[-1] >= num_frames):
            raise ValueError(f"v must be in frame order, with frames 0 to {num_frames - 1}")
        last = int(frame[-1]) if len(block) else last
        while end is not None and len(block) and frame[-1] >= end:
            cut = int(np.searchsorted(block["frame"], end))
            yield np.concatenate([*held, block[:cut]]) if held else block[:cut]
            held, block, end = [], block[cut:], next(waiting, None)
        held.append(block)
    while end is not None:
        yield np.concatenate([np.empty(0, VECTOR), *held])
        held, end = [], next(waiting, None)


def _gaussian(length: int, share: float) -> Map:
    """Return the Gaussian weights between ``length`` cells: (length, length)."""
    away = np.subtract.outer(np.arange(length), np.arange(length)) / (share * length)
    weights: Map = np.exp(-(away * away) / 2)
    return weights


def _shares(maps: Map) -> Map:
    """Return maps (n, rows, columns) divided by their sums; maps of zeros unchanged."""
    totals = mirrored_totals(maps)[:, None, None]
    shares: Map = np.divide(maps, totals, out=np.zeros_like(maps), where=totals > 0)
    return shares
