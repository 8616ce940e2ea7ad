"""The method `actor`: a box that keeps the actor even if the camera moves. Ours; docs/method.md has the reasons.

vectors --cell_displacements--> --camera_residual--> --persistent_motion--> one map --centred--> --box_scores--> box
key frames --key_frame_textures--> weights of the vectors; --bars--> the picture inside black bars

One pass over a video provides all inputs::

    textures.append(key_frame_textures(lumas)); borders += map(bars, lumas)      # of some key frames at a time
    keys = KeyFrames(numbers, np.concatenate(textures), picture_area(frame_size, borders))
    choice = choose_actor_box([vectors], num_frames, keys, frame_size, ACTOR)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mocrop_core.actor_map import KeyFrames, Map, blurred, centred, motion_maps
from mocrop_core.box_path import BoxPath, best_steps, part_moments, reach
from mocrop_core.boxes import Box, centre_box
from mocrop_core.cells import CellGrid, Picture, cell_edges, cell_grid
from mocrop_core.density import Density
from mocrop_core.free_box import (
    STEPS,
    Aspect,
    best_position,
    box_scores,
    box_shapes,
    check_aspect,
    pixel_size,
    placed_box,
)
from mocrop_core.method import SOURCE_FALLBACK, SOURCE_MOTION, BoxSelection
from mocrop_core.mirrored import mirrored_mean, mirrored_totals
from mocrop_core.ranges import check_amount, check_count, check_share, check_size
from mocrop_core.vectors import Vectors


@dataclass(frozen=True, slots=True)
class ActorMethod:
    """How `choose_actor_box` finds a box.

    crop_ratio: the box's area as a share of the picture's, in (0, 1]. aspect: the box's shape; None leaves it free,
    "frame" is the picture's own, "square", or (width, height) in px. segments: the number of equal parts of a clip that
    each have a box of that size; 1 gives one static box. blur: standard deviations of the map's blur, as shares of its
    rows and columns. centre: standard deviations of the centre prior, as shares of the picture's height and width.
    max_speed: the largest move of a box from one frame to the next, as a share of the picture's side along that axis.
    Raises ValueError for a value outside its range. Source: ours.
    """

    crop_ratio: float = 0.5
    aspect: Aspect = None
    segments: int = 1
    blur: tuple[float, float] = (0.10, 0.04)
    centre: tuple[float, float] = (0.5, 0.5)
    max_speed: float = 0.02

    grid: ClassVar[tuple[int, int]] = (30, 40)
    """Rows and columns of the density in a `BoxSelection`, for any frame size."""

    def __post_init__(self) -> None:
        check_share("crop_ratio", self.crop_ratio)
        check_count("segments", self.segments, least=1)
        check_aspect(self.aspect)
        for name in ("blur", "centre"):
            pair = getattr(self, name)
            if not (isinstance(pair, tuple) and len(pair) == 2):
                raise ValueError(f"{name} must be two numbers, vertical first, got {pair}")
            for value in pair:
                check_amount(name, value)
                if not value:
                    raise ValueError(f"{name} must be above 0, got {pair}")
        check_share("max_speed", self.max_speed)


ACTOR = ActorMethod()
"""The recommended method, at half of the frame's area."""


def choose_actor_box(
    blocks: Iterable[Vectors], num_frames: int, keys: KeyFrames, frame_size: tuple[int, int], method: ActorMethod
) -> BoxSelection:
    """Choose the box of a clip, or one for each of its parts, from its motion vectors and key frames.

    blocks: `VECTOR` (n,) each, in frame order; how they are split into blocks makes no difference, nor does the order
    within a frame. Displacements run from the preceding frame to the frame: reverse those of blocks that refer to a
    later frame. num_frames: of the clip. frame_size: height and width, px. The box lies in the picture. The selection's
    density is the searched map over the whole frame, averaged onto 30 x 40 cells; its score is the share of the map
    inside the box; its path is None for one segment. If nothing moves, the box is the middle of the picture, source is
    SOURCE_FALLBACK and score NaN. Mirrored vectors and textures (of frames of whole cells) give the mirrored box,
    unless two mirrored boxes have equal scores. Raises ValueError for a frame size below 1, frame numbers that are not
    increasing or outside the clip, textures of another grid, a displacement that is not finite, or an aspect that does
    not fit at that area. Source: ours.
    """
    check_size("frame_size", frame_size)
    check_count("num_frames", num_frames, least=1)
    height, width = (int(side) for side in frame_size)
    grid, picture = cell_grid(frame_size), keys.picture or (0, 0, width, height)
    size = picture[3] - picture[1], picture[2] - picture[0]
    shapes = box_shapes(method.crop_ratio, method.aspect, size)
    edges = cell_edges(grid, picture)
    whole, parts = motion_maps(blocks, num_frames, keys, grid, method.segments)
    final = centred(blurred(whole, *method.blur), edges, *method.centre)
    density = on_grid(final, grid, keys.picture, method.grid)
    if not final.any():
        return BoxSelection(density, None, _middle(method, shapes, picture), math.nan, SOURCE_FALLBACK)
    scores = box_scores(final, edges, shapes)
    shape, row, column = best_position(scores)
    box = placed_box(pixel_size(shapes[shape], row, column, size), row, column, picture)
    score = min(1.0, float(scores[shape, row, column] / mirrored_totals(final[None])[0]))
    if method.segments == 1:
        return BoxSelection(density, None, box, score, SOURCE_MOTION)
    moving = [centred(blurred(part + whole / 2, *method.blur), edges, *method.centre) for part in parts]
    scores = np.stack([box_scores(each, edges, [shapes[shape]])[0] for each in moving])
    path = _path(scores, box, picture, num_frames, method)
    return BoxSelection(density, None, box, score, SOURCE_MOTION, path)


def on_grid(final: Map, grid: CellGrid, picture: Picture | None, shape: tuple[int, int]) -> Density:
    """Return a map of the picture's cells, averaged by area onto a grid over the whole frame: float32, 0 in bars."""
    rows, columns = grid.whole_cells(picture) if picture else (slice(0, grid.shape[0]), slice(0, grid.shape[1]))
    down, across = (
        _overlaps(cells, grid.side, length, count)
        for cells, length, count in zip((rows, columns), grid.frame_size, shape, strict=True)
    )
    return mirrored_mean(lambda each: down @ each @ across.T, final).astype(np.float32)


def _overlaps(cells: slice, side: int, length: int, count: int) -> Map:
    """Return the share of each of ``count`` equal parts of a length that each cell covers: (count, cells)."""
    edges = np.minimum(np.arange(cells.start, cells.stop + 1) * side, length) - length / 2
    parts = (np.arange(count + 1) - count / 2) * length / count
    common = np.minimum(edges[1:], parts[1:, None]) - np.maximum(edges[:-1], parts[:-1, None])
    overlaps: Map = np.maximum(common, 0) * count / length
    return overlaps


def _middle(method: ActorMethod, shapes: list[tuple[float, float]], picture: Picture) -> Box:
    """Return the box in the middle of the picture, with its shape unless the method has an aspect."""
    x0, y0, x1, y1 = picture
    if method.aspect is not None:
        size = pixel_size(shapes[0], STEPS // 2, STEPS // 2, (y1 - y0, x1 - x0))
        return placed_box(size, STEPS // 2, STEPS // 2, picture)
    box = centre_box((y1 - y0, x1 - x0), method.crop_ratio)
    return Box(x0 + box.x0, y0 + box.y0, x0 + box.x1, y0 + box.y1)


def _path(scores: Map, box: Box, picture: Picture, num_frames: int, method: ActorMethod) -> BoxPath:
    """Return the path of a box through a clip, from the scores of its positions in each part: (segments, 33, 33)."""
    x0, y0, x1, y1 = picture
    frames = num_frames / method.segments
    most = (
        reach(method.max_speed * (y1 - y0), frames, y1 - y0 - box.height),
        reach(method.max_speed * (x1 - x0), frames, x1 - x0 - box.width),
    )
    size = (box.height, box.width)
    boxes = [placed_box(size, row, column, picture) for row, column in best_steps(scores, most)]
    return BoxPath(part_moments(num_frames, method.segments), tuple(boxes))
