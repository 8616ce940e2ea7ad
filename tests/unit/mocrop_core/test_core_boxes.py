"""Boxes of pixels: that they lie in the frame, and how large they are."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mocrop_core import (
    VECTOR,
    Box,
    Rectangle,
    candidate_sizes,
    centre_box,
    density_map,
    full_box,
    pixel_box,
    random_box,
    reference_box,
    within_tolerance,
)

many = settings(max_examples=150)
sizes = st.tuples(st.integers(1, 700), st.integers(1, 700))
grids = st.tuples(st.integers(1, 20), st.integers(1, 20))
ratios = st.floats(0.001, 1)


@st.composite
def rectangles(draw):
    grid = draw(grids)
    (row0, row1), (col0, col1) = (
        sorted(draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True))) for n in grid
    )
    return Rectangle(row0, col0, row1, col1), grid


@many
@given(rectangles(), sizes)
def test_a_box_never_leaves_the_frame(case, frame_size):
    frame = full_box(frame_size)
    assert frame.contains(pixel_box(*case, frame_size))
    assert frame.contains(reference_box(*case, frame_size))


@many
@given(rectangles(), sizes)
def test_a_pixel_box_holds_just_the_pixels_counted_in_its_cells(case, frame_size):
    rectangle, grid = case
    assume(grid[0] <= frame_size[0] and grid[1] <= frame_size[1])
    box = pixel_box(rectangle, grid, frame_size)
    diagonal = np.zeros(max(frame_size), VECTOR)
    diagonal["x"] = diagonal["y"] = np.arange(len(diagonal))
    counted = density_map(diagonal[: frame_size[1]], (1, frame_size[1]), (1, grid[1]))
    assert counted[0, rectangle.col0 : rectangle.col1].sum() == box.width
    counted = density_map(diagonal[: frame_size[0]], (frame_size[0], 1), (grid[0], 1))
    assert counted[rectangle.row0 : rectangle.row1].sum() == box.height


@many
@given(grids, sizes)
def test_pixel_boxes_of_neighbouring_cells_tile_the_frame(grid, frame_size):
    assume(grid[0] <= frame_size[0] and grid[1] <= frame_size[1])
    columns = [pixel_box(Rectangle(0, c, 1, c + 1), grid, frame_size) for c in range(grid[1])]
    rows = [pixel_box(Rectangle(r, 0, r + 1, 1), grid, frame_size) for r in range(grid[0])]
    assert [columns[0].x0, columns[-1].x1] == [0, frame_size[1]]
    assert [rows[0].y0, rows[-1].y1] == [0, frame_size[0]]
    assert all(left.x1 == right.x0 for left, right in pairwise(columns))
    assert all(upper.y1 == lower.y0 for upper, lower in pairwise(rows))


@many
@given(rectangles(), sizes)
def test_a_pixel_boxs_sides_are_less_than_a_pixel_off_their_cells_share(case, frame_size):
    rectangle, grid = case
    assume(grid[0] <= frame_size[0] and grid[1] <= frame_size[1])
    box = pixel_box(rectangle, grid, frame_size)
    assert abs(box.height - Fraction((rectangle.row1 - rectangle.row0) * frame_size[0], grid[0])) < 1
    assert abs(box.width - Fraction((rectangle.col1 - rectangle.col0) * frame_size[1], grid[1])) < 1


@many
@given(grids, sizes, st.floats(0.05, 1), st.data())
def test_a_candidates_area_in_pixels_is_within_the_tolerance_and_a_pixel_a_side(grid, frame_size, ratio, data):
    """Bound: (0.9 or 1.1) * ratio of the frame's pixels, plus or minus height + width + 1 px."""
    assume(grid[0] <= frame_size[0] and grid[1] <= frame_size[1] and within_tolerance(grid, ratio))
    h, w = data.draw(st.sampled_from(candidate_sizes(grid, ratio)))
    top, left = data.draw(st.integers(0, grid[0] - h)), data.draw(st.integers(0, grid[1] - w))
    box = pixel_box(Rectangle(top, left, top + h, left + w), grid, frame_size)
    wanted, rounding = ratio * frame_size[0] * frame_size[1], sum(frame_size) + 1
    assert 0.9 * wanted * (1 - 1e-9) - rounding < box.area < 1.1 * wanted * (1 + 1e-9) + rounding


@pytest.mark.parametrize("frame_size", [(240, 320), (480, 640), (6, 8), (60, 40)])
def test_exact_and_reference_boxes_agree_on_frames_of_whole_cells(frame_size):
    sizes = candidate_sizes((6, 8), 0.75)
    places = [(h, w, r, c) for h, w in sizes for r in range(7 - h) for c in range(9 - w)]
    assert len(places) == 7
    for h, w, r, c in places:
        rectangle = Rectangle(r, c, r + h, c + w)
        assert pixel_box(rectangle, (6, 8), frame_size) == reference_box(rectangle, (6, 8), frame_size)


def test_the_reference_leaves_out_the_frames_rest():
    assert reference_box(Rectangle(0, 0, 6, 8), (6, 8), (226, 400)) == Box(0, 0, 400, 222)
    assert pixel_box(Rectangle(0, 0, 6, 8), (6, 8), (226, 400)) == Box(0, 0, 400, 226)


def test_a_frame_smaller_than_the_grid_still_has_boxes():
    assert reference_box(Rectangle(0, 0, 1, 1), (6, 8), (4, 4)) == full_box((4, 4))
    assert pixel_box(Rectangle(5, 7, 6, 8), (6, 8), (4, 4)) == Box(3, 3, 4, 4)


@many
@given(sizes, ratios, st.integers(0, 2**32))
def test_a_random_box_lies_in_the_frame_and_has_the_centre_boxs_size(frame_size, ratio, seed):
    centre, other = centre_box(frame_size, ratio), random_box(frame_size, ratio, np.random.default_rng(seed))
    assert full_box(frame_size).contains(centre)
    assert full_box(frame_size).contains(other)
    assert (other.height, other.width) == (centre.height, centre.width)


@many
@given(sizes, ratios)
def test_a_centre_box_has_its_ratio_of_each_side_to_half_a_pixel_and_is_in_the_middle(frame_size, ratio):
    box = centre_box(frame_size, ratio)
    for side, wanted in zip((box.height, box.width), frame_size, strict=True):
        assert side == max(1, round(wanted * math.sqrt(ratio)))
    assert frame_size[1] - box.x1 - box.x0 in (0, 1)
    assert frame_size[0] - box.y1 - box.y0 in (0, 1)


def test_a_random_box_reaches_every_place_alike():
    rng = np.random.default_rng(0)
    corners = [random_box((4, 6), 0.25, rng).corners[:2] for _ in range(6000)]
    places, times = np.unique(corners, axis=0, return_counts=True)
    assert len(places) == 3 * 4
    assert abs(times / 500 - 1).max() < 0.25


def test_a_box_crops_the_pixels_it_names():
    image = np.arange(24 * 32).reshape(24, 32)
    box = Box(5, 2, 20, 12)
    assert image[box.slices].shape == (box.height, box.width) == (10, 15)
    assert image[box.slices][0, 0] == image[2, 5]
    assert box.area == 150


def test_a_box_contains_itself_and_no_larger_one():
    assert Box(1, 2, 3, 4).contains(Box(1, 2, 3, 4))
    assert not Box(1, 2, 3, 4).contains(Box(1, 2, 4, 4))
    assert not Box(1, 2, 3, 4).contains(Box(0, 2, 3, 4))


@pytest.mark.parametrize("corners", [(0, 0, 0, 1), (0, 5, 9, 5), (-1, 0, 4, 4), (3, 0, 2, 4)])
def test_an_empty_or_negative_box_is_refused_with_its_corners(corners):
    with pytest.raises(ValueError, match=str(corners)[1:-1]):
        Box(*corners)


def test_what_lies_outside_its_range_is_refused_with_its_value():
    with pytest.raises(ValueError, match="col1=9"):
        pixel_box(Rectangle(0, 0, 6, 9), (6, 8), (240, 320))
    with pytest.raises(ValueError, match="row1=7"):
        reference_box(Rectangle(0, 0, 7, 8), (6, 8), (240, 320))
    with pytest.raises(ValueError, match=r"got 0\b"):
        centre_box((240, 320), 0)
    with pytest.raises(ValueError, match=r"1\.5"):
        random_box((240, 320), 1.5, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"\(0, 320\)"):
        full_box((0, 320))
