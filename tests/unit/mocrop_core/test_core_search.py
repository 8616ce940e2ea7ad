"""The fast search against the loop that defines it."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mocrop_core import Rectangle, best_rectangle, candidate_sizes, within_tolerance
from mocrop_core import search as search_module

few = settings(max_examples=150)

CONTENTS = {
    "zeros": lambda rng, shape: np.zeros(shape),
    "ones": lambda rng, shape: np.ones(shape),
    "counts": lambda rng, shape: rng.integers(0, 4, shape),
    "counts float32": lambda rng, shape: rng.integers(0, 2000, shape).astype(np.float32),
    "huge counts": lambda rng, shape: rng.integers(2**47, 2**49, shape).astype(np.float64),
    "tenths": lambda rng, shape: rng.integers(0, 3, shape) * 0.1,
    "all a tenth": lambda rng, shape: np.full(shape, 0.1),
    "float32 tenths": lambda rng, shape: (rng.integers(0, 3, shape) * 0.1).astype(np.float32),
    "one hot cell": lambda rng, shape: 0.1 * (np.arange(math.prod(shape)) == 1).reshape(shape),
    "reals": lambda rng, shape: rng.random(shape),
    "reals over 600 decades": lambda rng, shape: 10.0 ** rng.uniform(-310, 290, shape),
    "subnormal": lambda rng, shape: rng.integers(0, 4, shape) * 5e-324,
    "columns first": lambda rng, shape: np.asfortranarray(rng.integers(0, 3, shape) * 0.1),
}
WEIGHTS = [(1.0, 0.0), (0.6, 0.4), (0.0, 1.0), (0.1, 0.0), (3.0, 7.0)]


def literal(density, ratio, tolerance=0.1, sum_weight=1.0, mean_weight=0.0):
    """The definition: every rectangle in visiting order, and the first of those with the highest score."""
    density = np.asarray(density, dtype=np.float64)
    rows, columns = density.shape
    wanted = ratio * rows * columns
    sizes = [(h, w) for h in range(1, rows + 1) for w in range(1, columns + 1)]
    least, most = wanted * (1 - tolerance), wanted * (1 + tolerance)
    allowed = [(h, w) for h, w in sizes if least <= h * w <= most]
    if not allowed:
        nearest = sorted(abs(h * w - wanted) for h, w in sizes)[0]
        allowed = [(h, w) for h, w in sizes if abs(h * w - wanted) == nearest]
    best_score, best = -math.inf, None
    for h, w in allowed:
        for top in range(rows - h + 1):
            for left in range(columns - w + 1):
                total = density[top : top + h, left : left + w].sum()
                score = sum_weight * total + mean_weight * (total / (h * w))
                if score > best_score:
                    best_score, best = score, Rectangle(top, left, top + h, left + w)
    return best


@st.composite
def searches(draw, most_rows=10, most_columns=12):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.integers(1, most_rows)), draw(st.integers(1, most_columns))
    density = CONTENTS[draw(st.sampled_from(sorted(CONTENTS)))](rng, shape)
    ratio = draw(st.one_of(st.sampled_from([0.75, 0.5, 0.25, 0.1, 1.0]), st.floats(0.01, 1.0)))
    return density, ratio, draw(st.sampled_from([0.1, 0.1, 0.0, 0.35])), *draw(st.sampled_from(WEIGHTS))


@few
@given(searches())
def test_search_gives_the_loops_rectangle(case):
    density, ratio, tolerance, sum_weight, mean_weight = case
    found = best_rectangle(density, ratio, tolerance=tolerance, sum_weight=sum_weight, mean_weight=mean_weight)
    assert found == literal(*case)


@settings(few, max_examples=60)
@given(searches())
def test_integral_images_give_the_loops_rectangle_on_small_grids_too(case):
    density, ratio, tolerance, sum_weight, mean_weight = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_module, "_LARGEST_MASKS", -1)
        search_module._search.cache_clear()
        weights = {"sum_weight": sum_weight, "mean_weight": mean_weight}
        found = best_rectangle(density, ratio, tolerance=tolerance, **weights)
        search_module._search.cache_clear()
    assert found == literal(*case)


@pytest.mark.parametrize("content", sorted(CONTENTS))
@pytest.mark.parametrize(("grid", "ratio"), [((6, 8), 0.75), ((9, 16), 0.75), ((17, 23), 0.4), ((30, 40), 0.75)])
def test_search_gives_the_loops_rectangle_for_every_kind_of_map(content, grid, ratio):
    density = CONTENTS[content](np.random.default_rng(3), grid)
    assert best_rectangle(density, ratio) == literal(density, ratio)


@pytest.mark.parametrize("content", ["zeros", "all a tenth", "tenths", "one hot cell", "counts"])
def test_search_gives_the_loops_rectangle_on_the_largest_grid(content):
    density = CONTENTS[content](np.random.default_rng(4), (60, 80))
    assert best_rectangle(density, 0.8) == literal(density, 0.8)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.float32, np.float64, bool])
def test_the_kind_of_number_changes_nothing(dtype):
    counts = np.random.default_rng(5).integers(0, 2, (7, 9))
    wanted = literal(counts, 0.5)
    assert best_rectangle(counts.astype(dtype), 0.5) == wanted
    assert best_rectangle(counts.astype(dtype).tolist(), 0.5) == wanted


def test_a_map_of_zeros_gives_the_first_candidate():
    assert best_rectangle(np.zeros((6, 8)), 0.75) == Rectangle(0, 0, 5, 7)


def test_of_equal_sums_the_first_visited_wins():
    density = np.zeros((6, 8))
    density[1:5, 1:6] = 1  # in all of the 5x7 rectangles but the top and bottom ones, and two of the 6x6
    assert best_rectangle(density, 0.75) == Rectangle(0, 0, 5, 7)
    density[5, 7] = 1e-9
    assert best_rectangle(density, 0.75) == Rectangle(1, 1, 6, 8)


def test_the_published_setting_has_seven_rectangles():
    assert candidate_sizes((6, 8), 0.75) == ((5, 7), (6, 6))
    assert sum((6 - h + 1) * (8 - w + 1) for h, w in candidate_sizes((6, 8), 0.75)) == 7


@few
@given(st.integers(1, 30), st.integers(1, 30), st.floats(0.001, 1), st.floats(0, 0.5))
def test_candidates_are_the_sizes_within_the_tolerance_or_else_the_nearest(rows, columns, ratio, tolerance):
    sizes = candidate_sizes((rows, columns), ratio, tolerance)
    assert sizes
    assert list(sizes) == sorted(set(sizes))
    wanted = ratio * rows * columns
    if within := within_tolerance((rows, columns), ratio, tolerance):
        assert sizes == within
        assert all(abs(h * w - wanted) <= tolerance * wanted * (1 + 1e-9) for h, w in sizes)
    else:
        off = {abs(h * w - wanted) for h in range(1, rows + 1) for w in range(1, columns + 1)}
        assert {abs(h * w - wanted) for h, w in sizes} == {min(off)}


@pytest.mark.parametrize(
    ("grid", "ratio", "sizes"),
    [((1, 1), 0.5, ((1, 1),)), ((2, 2), 0.3, ((1, 1),)), ((1, 4), 0.625, ((1, 2), (1, 3)))],
)
def test_where_no_size_is_within_the_tolerance_the_nearest_areas_are_tried(grid, ratio, sizes):
    assert within_tolerance(grid, ratio) == ()
    assert candidate_sizes(grid, ratio) == sizes


@few
@given(searches(8, 8), st.integers(-30, 30))
def test_scaling_the_map_by_a_power_of_two_changes_nothing(case, exponent):
    density, ratio, *_ = case
    density = np.asarray(density, dtype=np.float64)
    assume(not ((density > 0) & (density < 1e-250) | (density > 1e250)).any())  # where scaling is not exact
    assert best_rectangle(density * 2.0**exponent, ratio) == best_rectangle(density, ratio)


@few
@given(st.integers(0, 2**32), st.integers(1, 7), st.integers(1, 7), st.sampled_from([0.25, 0.5, 0.75]))
def test_a_mirrored_map_has_the_mirrored_rectangle(seed, rows, columns, ratio):
    powers = 2.0 ** np.random.default_rng(seed).permutation(rows * columns)  # so no two rectangles tie
    density = powers.reshape(rows, columns)
    found, mirrored = best_rectangle(density, ratio), best_rectangle(density[:, ::-1], ratio)
    assert mirrored == Rectangle(found.row0, columns - found.col1, found.row1, columns - found.col0)


def test_the_map_is_not_written_to():
    density = np.random.default_rng(6).random((6, 8))
    before = density.copy()
    density.setflags(write=False)
    best_rectangle(density, 0.75)
    assert np.array_equal(density, before)


@pytest.mark.parametrize("cell", [math.nan, math.inf, -math.inf, -1.0, -1e-300])
@pytest.mark.parametrize("grid", [(6, 8), (30, 40)])
@pytest.mark.filterwarnings("error")
def test_a_bad_cell_is_refused_with_its_value(cell, grid):
    density = np.ones(grid)
    density[-1, -1] = cell
    with pytest.raises(ValueError, match=re.escape(str(cell))):
        best_rectangle(density, 0.75)


@pytest.mark.filterwarnings("error")
def test_cells_whose_sum_would_overflow_are_refused():
    with pytest.raises(ValueError, match=r"1e\+308"):
        best_rectangle(np.full((6, 8), 1e308), 0.75)


@pytest.mark.parametrize("ratio", [0, -0.1, 1.01, math.nan, math.inf])
def test_a_ratio_outside_its_range_is_refused_with_its_value(ratio):
    with pytest.raises(ValueError, match=re.escape(f"got {ratio}")):
        best_rectangle(np.ones((6, 8)), ratio)


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"tolerance": -0.1}, "-0.1"),
        ({"tolerance": math.nan}, "nan"),
        ({"sum_weight": -1.0}, "-1.0"),
        ({"mean_weight": math.inf}, "inf"),
        ({"sum_weight": 0}, "0 and 0"),
    ],
)
def test_an_option_outside_its_range_is_refused_with_its_value(options, value):
    with pytest.raises(ValueError, match=f"got {value}"):
        best_rectangle(np.ones((6, 8)), 0.75, **options)


def test_a_map_of_another_shape_is_refused_with_its_shape():
    with pytest.raises(ValueError, match=r"\(2, 6, 8\)"):
        best_rectangle(np.ones((2, 6, 8)), 0.75)
    with pytest.raises(ValueError, match=r"\(0, 8\)"):
        best_rectangle(np.ones((0, 8)), 0.75)


@pytest.mark.parametrize("corners", [(0, 0, 0, 1), (1, 0, 1, 1), (-1, 0, 1, 1), (0, 2, 1, 1)])
def test_an_empty_or_negative_rectangle_is_refused(corners):
    with pytest.raises(ValueError, match=str(corners[0])):
        Rectangle(*corners)
