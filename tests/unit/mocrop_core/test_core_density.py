"""The motion-density map: where each vector counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mocrop_core import VECTOR, density_map

many = settings(max_examples=100)
sizes = st.tuples(st.integers(1, 500), st.integers(1, 500))
grids = st.tuples(st.integers(1, 20), st.integers(1, 20))
points = st.lists(st.tuples(st.integers(-600, 600), st.integers(-600, 600)), max_size=40)


def at(points):
    v = np.zeros(len(points), VECTOR)
    v["x"], v["y"] = np.array(points, dtype=np.int16).reshape(-1, 2).T
    return v


@many
@given(points, sizes, grids)
def test_each_vector_counts_once_in_its_cell(points, frame_size, grid):
    (height, width), (rows, columns) = frame_size, grid
    wanted = np.zeros(grid)
    for x, y in points:
        row = min(max(y, 0), height - 1) * rows // height
        wanted[row, min(max(x, 0), width - 1) * columns // width] += 1
    density = density_map(at(points), frame_size, grid)
    assert density.dtype == np.float32
    assert density.sum() == len(points)
    np.testing.assert_array_equal(density, wanted)


@many
@given(points, grids, st.tuples(st.integers(1, 30), st.integers(1, 30)), st.integers(0, 3), st.integers(0, 3))
def test_a_shift_by_whole_cells_shifts_the_map(points, grid, cell, down, right):
    frame_size = grid[0] * cell[0], grid[1] * cell[1]
    points = [(x % frame_size[1], y % frame_size[0]) for x, y in points]
    larger = (grid[0] + down, grid[1] + right)
    moved = density_map(
        at([(x + right * cell[1], y + down * cell[0]) for x, y in points]),
        (larger[0] * cell[0], larger[1] * cell[1]),
        larger,
    )
    np.testing.assert_array_equal(moved[down:, right:], density_map(at(points), frame_size, grid))
    assert moved.sum() == len(points)


@many
@given(points, grids, st.tuples(st.integers(1, 30), st.integers(1, 30)))
def test_a_mirrored_frame_of_whole_cells_has_the_mirrored_map(points, grid, cell):
    height, width = grid[0] * cell[0], grid[1] * cell[1]
    density = density_map(at(points), (height, width), grid)
    mirrored = density_map(at([(width - 1 - x, y) for x, y in points]), (height, width), grid)
    np.testing.assert_array_equal(mirrored, density[:, ::-1])


@many
@given(points, sizes, grids, st.integers(1, 20))
def test_an_enlarged_frame_has_the_same_map(points, frame_size, grid, factor):
    height, width = frame_size
    inside = [(x % width, y % height) for x, y in points]
    enlarged_frame = height * factor, width * factor
    enlarged = density_map(at([(x * factor, y * factor) for x, y in inside]), enlarged_frame, grid)
    np.testing.assert_array_equal(enlarged, density_map(at(inside), frame_size, grid))


def test_centres_outside_the_frame_count_in_the_nearest_cell():
    density = density_map(at([(348, 100), (-8, 250), (32767, -32768)]), (240, 340), (6, 8))
    assert density[2, 7] == density[5, 0] == density[0, 7] == 1
    assert density.sum() == 3


def test_no_vectors_give_zeros():
    assert not density_map(at([]), (240, 320), (6, 8)).any()


@pytest.mark.parametrize(
    ("frame_size", "grid", "value"),
    [((0, 320), (6, 8), r"\(0, 320\)"), ((240, 320), (6, 0), r"\(6, 0\)"), ((240, 320, 3), (6, 8), "320, 3")],
)
def test_a_size_below_one_is_refused_with_its_value(frame_size, grid, value):
    with pytest.raises(ValueError, match=value):
        density_map(at([]), frame_size, grid)
