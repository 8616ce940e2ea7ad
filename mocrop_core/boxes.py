"""Boxes of pixels, and rules that choose one without using motion."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mocrop_core.ranges import check_share, check_size
from mocrop_core.search import Rectangle


@dataclass(frozen=True, slots=True)
class Box:
    """A box of whole pixels, half-open: columns x0 to x1 and rows y0 to y1, at least one of each.

    Raises ValueError for a negative corner or an empty box.
    """

    x0: int
    y0: int
    x1: int
    y1: int

    def __post_init__(self) -> None:
        if not (0 <= self.x0 < self.x1 and 0 <= self.y0 < self.y1):
            raise ValueError(f"a box needs 0 <= x0 < x1 and 0 <= y0 < y1, got {self.corners}")

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1: px, half-open."""
        return self.x0, self.y0, self.x1, self.y1

    @property
    def width(self) -> int:
        """Columns, px."""
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        """Rows, px."""
        return self.y1 - self.y0

    @property
    def area(self) -> int:
        """Pixels."""
        return self.width * self.height

    @property
    def slices(self) -> tuple[slice, slice]:
        """The index that crops an array whose first axes are y and x: `image[box.slices]`."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def contains(self, other: Box) -> bool:
        """Return whether this box contains every pixel of another."""
        return self.x0 <= other.x0 and self.y0 <= other.y0 and other.x1 <= self.x1 and other.y1 <= self.y1


def full_box(frame_size: tuple[int, int]) -> Box:
    """Return the box of the whole frame.

    frame_size: height and width, px. Raises ValueError for a size below 1. Source: the paper's baseline.
    """
    check_size("frame_size", frame_size)
    height, width = frame_size
    return Box(0, 0, width, height)


def centre_box(frame_size: tuple[int, int], ratio: float) -> Box:
    """Return the box in the middle of the frame with its shape and `ratio` of its area.

    frame_size: height and width, px. ratio: in (0, 1]. Each side is the frame's times sqrt(ratio), rounded
    (halves to even) and at least 1 px; of two middle positions the upper left one is used. Raises ValueError
    outside these ranges. Source: ours, a control of the same area.
    """
    height, width = _sides(frame_size, ratio)
    return _placed((frame_size[0] - height) // 2, (frame_size[1] - width) // 2, height, width)


def random_box(frame_size: tuple[int, int], ratio: float, rng: np.random.Generator) -> Box:
    """Return a box of `centre_box`'s size at a uniformly random position in the frame.

    frame_size: height and width, px. ratio: in (0, 1]. Raises ValueError outside these ranges. Source: ours,
    a control of the same area.
    """
    height, width = _sides(frame_size, ratio)
    y0 = int(rng.integers(frame_size[0] - height + 1))
    x0 = int(rng.integers(frame_size[1] - width + 1))
    return _placed(y0, x0, height, width)


def pixel_box(rectangle: Rectangle, grid: tuple[int, int], frame_size: tuple[int, int]) -> Box:
    """Return the box of the pixels that `density_map` counts in a rectangle of cells.

    rectangle: cells of the grid. grid: rows and columns. frame_size: height and width, px. Column c begins at
    pixel ceil(c * width / columns), so neighbouring rectangles meet without gap or overlap, and a side of k
    cells is less than 1 px off k * width / columns. If the frame has fewer pixels than cells, a rectangle
    without pixels gets the nearest one. Raises ValueError for a size below 1 or a rectangle outside the
    grid. Source: ours.
    """
    _check_inside(rectangle, grid, frame_size)
    y0, y1 = _pixels(rectangle.row0, rectangle.row1, grid[0], frame_size[0])
    x0, x1 = _pixels(rectangle.col0, rectangle.col1, grid[1], frame_size[1])
    return Box(x0, y0, x1, y1)


def reference_box(rectangle: Rectangle, grid: tuple[int, int], frame_size: tuple[int, int]) -> Box:
    """Return a rectangle's box by the arithmetic of the public MoCrop code.

    rectangle: cells of the grid. grid: rows and columns. frame_size: height and width, px. Cells are frame //
    grid px, so that the remainder at the right and bottom is in no cell; the box is converted to a relative
    centre and size and back, rounded (halves to even) and clipped to the frame. An empty box becomes the
    whole frame. Raises ValueError for a size below 1 or a rectangle outside the grid. Source: the public
    code's `mv2yolo` and crop; deviation: there the cells and shares are always those of a 320x240 frame,
    here those of the actual frame.
    """
    _check_inside(rectangle, grid, frame_size)
    y0, y1 = _rounded(rectangle.row0, rectangle.row1, grid[0], frame_size[0])
    x0, x1 = _rounded(rectangle.col0, rectangle.col1, grid[1], frame_size[1])
    return Box(x0, y0, x1, y1) if x0 < x1 and y0 < y1 else full_box(frame_size)


def _sides(frame_size: tuple[int, int], ratio: float) -> tuple[int, int]:
    check_size("frame_size", frame_size)
    check_share("ratio", ratio)
    height, width = (max(1, round(side * math.sqrt(ratio))) for side in frame_size)
    return height, width


def _placed(y0: int, x0: int, height: int, width: int) -> Box:
    return Box(x0, y0, x0 + width, y0 + height)


def _pixels(first: int, last: int, cells: int, pixels: int) -> tuple[int, int]:
    """Return the pixels, half-open, of the cells first to last of an axis of `cells` cells."""
    begin = min(-(-first * pixels // cells), pixels - 1)
    return begin, max(-(-last * pixels // cells), begin + 1)


def _rounded(first: int, last: int, cells: int, pixels: int) -> tuple[int, int]:
    """Return the pixels, half-open, of the cells first to last of an axis, rounded as in the public code."""
    begin, end = first * (pixels // cells), last * (pixels // cells)
    centre = (begin + end) / 2.0 / pixels * pixels
    size = (end - begin) / pixels * pixels
    return max(0, round(centre - size / 2)), min(pixels, round(centre + size / 2))


def _check_inside(rectangle: Rectangle, grid: tuple[int, int], frame_size: tuple[int, int]) -> None:
    check_size("grid", grid)
    check_size("frame_size", frame_size)
    if rectangle.row1 > grid[0] or rectangle.col1 > grid[1]:
        raise ValueError(f"{rectangle} does not fit into a grid of {grid[0]} rows and {grid[1]} columns")
