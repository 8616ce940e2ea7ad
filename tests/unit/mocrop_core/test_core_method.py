"""The whole method: from motion vectors to a box."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mocrop_core import (
    PAPER_V1,
    PAPER_V2,
    PRESETS,
    SOURCE_FALLBACK,
    SOURCE_MOTION,
    VECTOR,
    Box,
    Method,
    Rectangle,
    candidate_sizes,
    centre_box,
    choose_box,
    choose_box_from,
    clip_rng,
    denoise,
    density_map,
    full_box,
    magnitudes,
    pixel_box,
    sample,
    within_tolerance,
)

some = settings(max_examples=60)
REFERENCE = PRESETS["reference"]


def vectors(rng, n, frame_size=(240, 320), still=0.3):
    """Vectors all over a frame and a little outside it, some still, many equally long."""
    v = np.zeros(n, VECTOR)
    v["frame"] = np.sort(rng.integers(0, 30, n))
    v["y"], v["x"] = (rng.integers(-9, side + 9, n) for side in frame_size)
    moving = rng.random(n) >= still
    v["dx"], v["dy"] = (np.where(moving, rng.integers(-20, 21, n) / 4, 0) for _ in range(2))
    return v


def moving_square(top, left, side, frame_size=(240, 320), blocks=8, frames=20):
    """A square of moving blocks on a still ground, one vector a block of `blocks` px."""
    height, width = frame_size
    y, x = np.mgrid[blocks // 2 : height : blocks, blocks // 2 : width : blocks]
    v = np.zeros((frames, y.size), VECTOR)
    v["frame"] = np.arange(frames)[:, None]
    v["y"], v["x"] = y.ravel(), x.ravel()
    inside = (abs(v["y"] - top - side / 2) < side / 2) & (abs(v["x"] - left - side / 2) < side / 2)
    v["dx"], v["dy"] = np.where(inside, 3.25, 0), np.where(inside, -1.5, 0.25)
    return v.ravel()


def with_counts(counts, frame_size):
    """Vectors whose density map on a grid of `counts`' shape is `counts`, each at its cell's first pixel."""
    rows, columns = np.nonzero(counts)
    cell = np.repeat(np.arange(len(rows)), counts[rows, columns])
    v = np.zeros(len(cell), VECTOR)
    v["y"] = -(-rows[cell] * frame_size[0] // counts.shape[0])
    v["x"] = -(-columns[cell] * frame_size[1] // counts.shape[1])
    v["dx"] = 8
    return v


@pytest.mark.parametrize(("top", "left"), [(0, 0), (80, 120), (160, 240), (50, 203)])
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_the_box_holds_a_moving_square_to_within_a_cell(preset, top, left):
    method = replace(PRESETS[preset], crop_ratio=0.2)
    chosen = choose_box(moving_square(top, left, 80), (240, 320), method, clip_rng(0, "square", "box"))
    assert chosen.source == SOURCE_MOTION
    assert chosen.score > 0.75
    cell = 240 // method.grid[0]
    box = chosen.box
    assert box.x0 - cell <= left < left + 80 <= box.x1 + cell
    assert box.y0 - cell <= top < top + 80 <= box.y1 + cell
    assert box.area < 0.25 * 240 * 320


def test_a_square_of_whole_cells_is_found_to_the_pixel():
    method = replace(PAPER_V1, crop_ratio=4 / 48)
    chosen = choose_box(moving_square(80, 120, 80), (240, 320), method, clip_rng(0, "square", "box"))
    assert chosen.rectangle == Rectangle(2, 3, 4, 5)
    assert chosen.box == Box(120, 80, 200, 160)
    assert chosen.score == 1


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (0, 2), (2, 3)])
def test_motion_shifted_by_whole_cells_shifts_the_box(shift):
    method = replace(PAPER_V1, crop_ratio=4 / 48)
    v = moving_square(40, 80, 80)
    v = v[magnitudes(v) > 1]
    v["y"] += 40 * shift[0]
    v["x"] += 40 * shift[1]
    chosen = choose_box(v, (240, 320), method, clip_rng(0, "square", "box"))
    assert chosen.rectangle == Rectangle(1 + shift[0], 2 + shift[1], 3 + shift[0], 4 + shift[1])


@some
@given(
    st.sampled_from(sorted(PRESETS)),
    st.integers(0, 3000),
    st.tuples(st.integers(9, 400), st.integers(16, 400)),
    st.floats(0.05, 1),
    st.integers(0, 2**32),
)
def test_a_choice_is_whole(preset, n, frame_size, ratio, seed):
    method = replace(PRESETS[preset], crop_ratio=ratio)
    v = vectors(np.random.default_rng(seed), n, frame_size)
    chosen = choose_box(v, frame_size, method, np.random.default_rng(seed))
    again = choose_box(v, frame_size, method, np.random.default_rng(seed))
    assert full_box(frame_size).contains(chosen.box)
    assert (chosen.box, chosen.source) == (again.box, again.source)
    np.testing.assert_array_equal(chosen.density, again.density)
    assert chosen.density.dtype == np.float32
    assert chosen.density.shape == method.grid
    if chosen.source == SOURCE_MOTION:
        assert 0 <= chosen.score <= 1
        inside = chosen.density[chosen.rectangle.slices].sum()
        assert chosen.score == pytest.approx(inside / chosen.density.sum())
    else:
        assert math.isnan(chosen.score)
        assert not chosen.density.any()


@some
@given(
    st.sampled_from(sorted(PRESETS)),
    st.integers(0, 400),
    st.lists(st.integers(0, 400), max_size=6),
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.5, 0.995]),
)
def test_blocks_give_what_the_whole_gives_wherever_they_are_cut(preset, n, cuts, seed, still):
    method, v = PRESETS[preset], vectors(np.random.default_rng(seed), n, still=still)
    blocks = np.split(v, sorted(min(cut, n) for cut in cuts))
    kept = denoise(iter(blocks), method, n)
    np.testing.assert_array_equal(kept, denoise([v], method, n))
    folded = choose_box_from(kept, (240, 320), method, np.random.default_rng(seed))
    whole = choose_box(v, (240, 320), method, np.random.default_rng(seed))
    assert (folded.box, folded.rectangle, folded.source) == (whole.box, whole.rectangle, whole.source)
    np.testing.assert_array_equal(folded.score, whole.score)
    np.testing.assert_array_equal(folded.density, whole.density)


def test_denoising_keeps_what_each_version_says():
    v = vectors(np.random.default_rng(0), 1234)
    lengths = magnitudes(v)
    np.testing.assert_array_equal(denoise([v], PAPER_V1, len(v)), v[lengths > 1])
    top = denoise([v], PAPER_V2, len(v))
    assert len(top) == 13
    assert magnitudes(top).min() == np.sort(lengths)[-13]


def test_a_small_clip_keeps_and_samples_at_least_one_vector():
    v = vectors(np.random.default_rng(0), 3, still=0)
    kept = denoise([v], PAPER_V2, 3)
    assert len(kept) == 1
    assert len(sample(kept, PAPER_V2, np.random.default_rng(0))) == 1
    assert choose_box(v, (240, 320), PAPER_V2, np.random.default_rng(0)).source == SOURCE_MOTION


def test_no_more_than_the_sample_is_counted():
    v = vectors(np.random.default_rng(0), 9000, still=0)
    method = replace(PAPER_V1, sample=("uniform", 500))
    assert choose_box(v, (240, 320), method, np.random.default_rng(0)).density.sum() == 500


@pytest.mark.parametrize("still", [True, False], ids=["still vectors", "no vectors"])
@pytest.mark.parametrize("method", [PAPER_V1, PAPER_V2], ids=["v1", "v2"])
def test_a_clip_without_motion_falls_back_to_the_middle(method, still):
    v = vectors(np.random.default_rng(0), 500, still=1.0) if still else np.zeros(0, VECTOR)
    chosen = choose_box(v, (240, 320), method, np.random.default_rng(0))
    assert chosen.source == SOURCE_FALLBACK
    assert chosen.box == centre_box((240, 320), 0.75)
    assert chosen.rectangle is None
    assert math.isnan(chosen.score)
    assert not chosen.density.any()


def test_the_reference_gives_its_first_candidate_without_motion():
    chosen = choose_box(np.zeros(0, VECTOR), (240, 320), REFERENCE, np.random.default_rng(0))
    assert chosen.source == SOURCE_FALLBACK
    assert chosen.rectangle == Rectangle(0, 0, 5, 7)
    assert chosen.box == Box(0, 0, 280, 200)
    assert math.isnan(chosen.score)


def test_where_no_size_is_within_the_tolerance_the_reference_gives_the_top_left_cell():
    v = with_counts(np.array([[0, 0], [0, 3]]), (240, 320))
    method = replace(REFERENCE, grid=(2, 2), crop_ratio=0.3)
    chosen = choose_box(v, (240, 320), method, np.random.default_rng(0))
    assert chosen.rectangle == Rectangle(0, 0, 1, 1)
    assert (chosen.score, chosen.source) == (0, SOURCE_MOTION)
    exact = choose_box(v, (240, 320), replace(method, arithmetic="exact"), np.random.default_rng(0))
    assert exact.rectangle == Rectangle(1, 1, 2, 2)


def published_box(counts, ratio, height, width):
    """The public code's box for a density map, written from its description: search, shares, crop."""
    rows, columns = counts.shape
    wanted, best, cells = ratio * rows * columns, -math.inf, (0, 0, 1, 1)
    for h in range(1, rows + 1):
        for w in (w for w in range(1, columns + 1) if wanted * 0.9 <= h * w <= wanted * 1.1):
            for i in range(rows + 1 - h):
                for j in range(columns + 1 - w):
                    if (total := counts[i : i + h, j : j + w].sum()) > best:
                        best, cells = total, (i, j, i + h, j + w)
    upper, lower = (edge * (height // rows) for edge in cells[::2])
    left, right = (edge * (width // columns) for edge in cells[1::2])
    centre_x, centre_y = (left + right) / 2 / width * width, (upper + lower) / 2 / height * height
    size_x, size_y = (right - left) / width * width, (lower - upper) / height * height
    x0, y0 = max(0, round(centre_x - size_x / 2)), max(0, round(centre_y - size_y / 2))
    x1, y1 = min(width, round(centre_x + size_x / 2)), min(height, round(centre_y + size_y / 2))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else (0, 0, width, height)


@some
@given(
    st.tuples(st.integers(1, 7), st.integers(1, 9)),
    st.tuples(st.integers(9, 400), st.integers(9, 400)),
    st.sampled_from([0.75, 0.75, 0.5, 0.2, 0.03]),
    st.integers(0, 2**32),
    st.integers(1, 4),
)
def test_the_reference_arithmetic_gives_the_published_box(grid, frame_size, ratio, seed, most):
    counts = np.random.default_rng(seed).integers(0, most, grid)
    method = replace(REFERENCE, grid=grid, crop_ratio=ratio)
    v = with_counts(counts, frame_size)
    np.testing.assert_array_equal(density_map(v, frame_size, grid), counts)
    chosen = choose_box(v, frame_size, method, np.random.default_rng(0))
    assert chosen.box.corners == published_box(counts, ratio, *frame_size)


@some
@given(st.integers(0, 2**32), st.tuples(st.integers(9, 400), st.integers(16, 400)))
def test_an_exact_box_is_the_pixels_of_its_rectangle(seed, frame_size):
    v = vectors(np.random.default_rng(seed), 300, frame_size)
    chosen = choose_box(v, frame_size, PAPER_V2, np.random.default_rng(seed))
    assert chosen.box == pixel_box(chosen.rectangle, PAPER_V2.grid, frame_size)


@some
@given(
    st.tuples(st.integers(2, 7), st.integers(2, 9)),
    st.tuples(st.integers(4, 40), st.integers(4, 40)),
    st.sampled_from([0.75, 0.5, 0.25]),
    st.sampled_from(["paper-v1", "reference"]),
    st.integers(2, 5),
    st.integers(0, 2**32),
)
def test_the_box_of_a_scaled_and_of_a_mirrored_clip_is_scaled_and_mirrored(grid, cell, ratio, preset, times, seed):
    height, width = grid[0] * cell[0], grid[1] * cell[1]
    counts = np.random.default_rng(seed).integers(0, 60, grid)
    sums = [
        counts[row : row + h, col : col + w].sum()
        for h, w in candidate_sizes(grid, ratio)
        for row in range(grid[0] - h + 1)
        for col in range(grid[1] - w + 1)
    ]
    assume(sums.count(max(sums)) == 1)  # of equal sums the first wins, which is another one in a mirror
    method = replace(PRESETS[preset], grid=grid, crop_ratio=ratio)
    assume(preset == "paper-v1" or within_tolerance(grid, ratio))
    v = with_counts(counts, (height, width))

    def box(v, frame_size):
        chosen = choose_box(v, frame_size, method, np.random.default_rng(seed))
        assert chosen.score == pytest.approx(max(sums) / counts.sum())
        return chosen.box

    found = box(v, (height, width))
    scaled = v.copy()
    for name in ("x", "y", "dx", "dy"):
        scaled[name] *= times
    assert box(scaled, (height * times, width * times)) == Box(*(edge * times for edge in found.corners))
    mirrored = v.copy()
    mirrored["x"], mirrored["dx"] = width - 1 - v["x"], -v["dx"]
    assert box(mirrored, (height, width)) == Box(width - found.x1, found.y0, width - found.x0, found.y1)
    upside_down = v.copy()
    upside_down["y"] = height - 1 - v["y"]
    assert box(upside_down, (height, width)) == Box(found.x0, height - found.y1, found.x1, height - found.y0)


def test_the_presets_hold_the_published_numbers():
    assert (PAPER_V1.grid, PAPER_V1.crop_ratio, PAPER_V1.tolerance) == ((6, 8), 0.75, 0.1)
    assert (PAPER_V1.sum_weight, PAPER_V1.mean_weight) == (1, 0)
    assert (PAPER_V2.grid, PAPER_V2.keep, PAPER_V2.sample) == (
        (9, 16),
        ("fastest", 0.01),
        ("speed", 0.1, 4.0),
    )
    assert (PAPER_V2.sum_weight, PAPER_V2.mean_weight) == (0.6, 0.4)
    assert PRESETS["reference"] == replace(PAPER_V1, arithmetic="reference")


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ({"grid": (0, 8)}, r"\(0, 8\)"),
        ({"grid": 6}, "6"),
        ({"grid": ("6", 8)}, r"\('6', 8\)"),
        ({"grid": (6.0, 8)}, r"\(6.0, 8\)"),
        ({"crop_ratio": 0}, "0"),
        ({"crop_ratio": "most"}, "most"),
        ({"crop_ratio": 1.2}, "1.2"),
        ({"tolerance": -1}, "-1"),
        ({"keep": ("threshold", -2.0)}, "-2.0"),
        ({"keep": ("fastest", 0.0)}, "0.0"),
        ({"keep": ("slowest", 0.5)}, "slowest"),
        ({"keep": "fastest"}, "fastest"),
        ({"keep": ("threshold", None)}, "None"),
        ({"sample": ("uniform", 0)}, "0"),
        ({"sample": ("speed", 2.0, 4.0)}, "2.0"),
        ({"sample": ("speed", 0.1, math.inf)}, "inf"),
        ({"sample": ("speed", 0.1)}, r"\('speed', 0.1\)"),
        ({"sum_weight": 0.0}, "0 and 0"),
        ({"mean_weight": math.nan}, "nan"),
        ({"arithmetic": "rough"}, "rough"),
    ],
)
def test_a_method_outside_its_ranges_is_refused_with_the_value(change, value):
    with pytest.raises(ValueError, match=f"got .*{value}"):
        replace(PAPER_V1, **change)


def test_a_wrong_total_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match="10, got 12"):
        denoise([vectors(np.random.default_rng(0), 10)], PAPER_V2, 12)


def test_methods_are_values():
    method = Method(grid=(6, 8), crop_ratio=0.75, keep=("threshold", 1.0), sample=("uniform", 4096))
    assert method == PAPER_V1
    assert len({method, PAPER_V1, PAPER_V2}) == 2
