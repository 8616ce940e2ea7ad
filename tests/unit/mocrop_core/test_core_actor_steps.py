"""The steps of the method `actor` against slow literal versions of themselves."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mocrop_core import VECTOR, Box, BoxPath, KeyFrames, bars, cell_grid, key_frame_textures, picture_area
from mocrop_core.actor_map import blurred, centred, motion_maps
from mocrop_core.box_path import best_steps
from mocrop_core.cells import cell_displacements, cell_edges
from mocrop_core.free_box import best_position, box_scores, box_shapes, pixel_size, placed_box

few = settings(max_examples=30)


@st.composite
def clips(draw):
    """Vectors of blocks on the codec's lattice, as H.264 has them, in frames of any size, and textures."""
    frame_size = draw(st.integers(20, 70)), draw(st.integers(20, 70))
    frames = draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = frames * draw(st.sampled_from([0, 200]))
    v = np.zeros(count, VECTOR)
    v["frame"] = np.sort(rng.integers(0, frames, count))
    v["w"], v["h"] = rng.choice([4, 8, 16], (2, count))
    v["x"] = v["w"] * rng.integers(0, 80 // v["w"], count) + v["w"] // 2
    v["y"] = v["h"] * rng.integers(0, 80 // v["h"], count) + v["h"] // 2
    # a pan, with exceptions: what has no majority makes fits that the last digit decides
    odd = rng.random(count) < 0.2
    for name in ("dx", "dy"):
        v[name] = (rng.integers(-20, 21) + rng.integers(-1, 2, count) + odd * rng.integers(-30, 31, count)) / 4
    numbers = tuple(range(0, frames, 4))
    textures = rng.integers(0, 256, (len(numbers), *cell_grid(frame_size).shape)).astype(np.uint8)
    return v, frames, KeyFrames(numbers, textures), frame_size


def literal_displacements(v, frames, frame_size):
    """Each block cut into pieces of 8 x 8 px or what it has, one after the other."""
    grid = cell_grid(frame_size)
    total = np.zeros((len(frames), *grid.shape))
    sums = np.zeros((2, len(frames), *grid.shape))
    for frame, x, y, w, h, dx, dy in v.tolist():
        if frame not in frames:
            continue
        for left in range(x - w // 2, x - w // 2 + w, 8):
            for top in range(y - h // 2, y - h // 2 + h, 8):
                middle_x, middle_y = left + min(w, 8) / 2, top + min(h, 8) / 2
                if middle_x >= frame_size[1] or middle_y >= frame_size[0]:
                    continue
                cell = (frames.index(frame), int(middle_y // grid.side), int(middle_x // grid.side))
                area = min(w, 8) * min(h, 8)
                total[cell] += area
                sums[0][cell] += area * dx
                sums[1][cell] += area * dy
    return sums / np.maximum(total, 1), total > 0


def literal_residual(d, has, texture):
    """A frame's displacements (2, rows, columns) without the camera's, by a full solve of the normal equations."""
    rows, columns = has.shape
    y, x = np.mgrid[:rows, :columns].astype(float)
    x, y = (x - (columns - 1) / 2) / (max(rows, columns) / 2), (y - (rows - 1) / 2) / (max(rows, columns) / 2)
    one, zero = np.ones_like(x), np.zeros_like(x)
    design = np.stack([np.stack([one, zero, x, -y], -1), np.stack([zero, one, y, x], -1)])
    if not has.any():
        return np.zeros_like(d)
    fit = np.array([np.median(d[0][has]), np.median(d[1][has]), 0, 0])
    for _ in range(3):
        length = np.hypot(*(d - design @ fit))
        sigma = max(0.25, 1.4826 * np.median(length[has]))
        weight = has * (texture + 0.02) / (1 + (length / (2 * sigma)) ** 2) ** 2
        left = np.einsum("kijp,ij,kijq->pq", design, weight, design) + 1e-6 * np.eye(4)
        fit = np.linalg.solve(left, np.einsum("kijp,ij,kij->p", design, weight, d))
    return (d - design @ fit) * has


def literal_box_mean(values):
    """The mean over 3 x 3 cells x 5 frames of (frames, rows, columns), edges repeated."""
    padded = np.pad(values, [(2, 2), (1, 1), (1, 1)], mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 3, 3))
    return windows.mean(axis=(-1, -2, -3))


def literal_map(v, num_frames, keys, frame_size):
    """METHOD's steps 1 to 5 before the blur, frame by frame."""
    frames = [frame for frame in range(num_frames) if frame not in keys.frames]
    rows, columns = cell_grid(frame_size).shape
    if not frames:
        return np.zeros((rows, columns))
    smooth = [literal_smooth(each / 255) for each in keys.textures]
    u = np.stack([smooth[sum(key <= frame for key in keys.frames) - 1] for frame in frames])
    d, has = literal_displacements(v, frames, frame_size)
    r = np.stack([literal_residual(d[:, i], has[i], u[i]) for i in range(len(frames))], axis=1)
    along, down = (literal_box_mean(u * has * each) for each in r)
    m = np.hypot(along, down) / np.maximum(literal_box_mean(u * has), 0.1)
    m = np.where(m < 2**-10, 0, m) * u
    shares = [each / each.sum() if each.sum() else each for each in m]
    return np.mean(shares, axis=0)


def literal_smooth(u):
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(u, 1, mode="edge"), (3, 3))
    return windows.mean(axis=(-1, -2))


@few
@given(clips())
def test_the_map_of_motion_is_that_of_the_steps_one_by_one(case):
    v, num_frames, keys, frame_size = case
    found, (part,) = motion_maps([v], num_frames, keys, cell_grid(frame_size))
    expected = literal_map(v, num_frames, keys, frame_size)
    if expected.sum():
        expected /= expected.sum()
    assert np.array_equal(found, part)
    assert np.abs(found - expected).sum() < 0.01


@few
@given(clips())
def test_cells_have_the_mean_displacement_of_their_pieces(case):
    v, num_frames, _, frame_size = case
    frames = list(range(num_frames))
    dx, dy, has = cell_displacements(v, np.array(frames), cell_grid(frame_size))
    (expected_x, expected_y), expected_has = literal_displacements(v, frames, frame_size)
    assert np.array_equal(has, expected_has)
    np.testing.assert_allclose(dx, expected_x, atol=1e-5)
    np.testing.assert_allclose(dy, expected_y, atol=1e-5)


def test_blocks_that_reach_into_a_bar_and_those_of_other_frames_are_left_out():
    v = np.zeros(4, VECTOR)
    v["frame"], v["x"], v["y"] = [0, 1, 1, 1], 8, [8, 8, 24, 40]
    v["w"] = v["h"] = 16
    v["dx"] = 1
    _, _, has = cell_displacements(v, np.array([1]), cell_grid((48, 16)), (0, 20, 16, 48))
    assert has[0].any(axis=1).tolist() == [False, False, False, False, True, True]


@pytest.mark.parametrize("frame_size", [(240, 320), (144, 180), (480, 854), (1080, 1920), (5, 7)])
def test_texture_is_the_variance_of_a_cell(frame_size):
    rng = np.random.default_rng(3)
    luma = (rng.integers(0, 256, frame_size) * rng.random((frame_size[0], 1))).astype(np.uint8)
    luma[: frame_size[0] // 3] = 90
    grid = cell_grid(frame_size)
    (found,) = key_frame_textures(luma[None])
    assert found.shape == grid.shape
    assert found.dtype == np.uint8
    for row, column in [(0, 0), (grid.shape[0] - 1, grid.shape[1] - 1), (grid.shape[0] // 2, grid.shape[1] // 3)]:
        y = np.minimum(np.arange(row * grid.side, (row + 1) * grid.side), frame_size[0] - 1)
        x = np.minimum(np.arange(column * grid.side, (column + 1) * grid.side), frame_size[1] - 1)
        variance = luma[np.ix_(y, x)].astype(float).var()
        assert abs(int(found[row, column]) - 255 * variance / (variance + 256)) <= 0.5 + 1e-9


def test_luma_of_another_type_is_refused():
    for luma in (np.zeros((4, 4)), np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4), np.uint8), [[1]]):
        with pytest.raises(ValueError, match=r"luma must be uint8 \(height, width\), got"):
            bars(luma)
    for lumas in (np.zeros((1, 4, 4)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 4), np.uint8), [[[1]]]):
        with pytest.raises(ValueError, match=r"lumas must be uint8 \(frames, height, width\), got"):
            key_frame_textures(lumas)


@pytest.mark.parametrize("frame_size", [(240, 320), (144, 180), (1080, 1920)])
def test_textures_of_several_frames_are_those_of_each_alone(frame_size):
    lumas = np.random.default_rng(4).integers(0, 256, (3, *frame_size), np.uint8)
    together = key_frame_textures(lumas)
    assert len(together) == 3
    for luma, texture in zip(lumas, together, strict=True):
        np.testing.assert_array_equal(key_frame_textures(luma[None])[0], texture)


def letterbox(frame_size, picture, black=16, seed=0):
    rng = np.random.default_rng(seed)
    luma = np.full(frame_size, black, np.uint8) + rng.integers(0, 3, frame_size).astype(np.uint8)
    x0, y0, x1, y1 = picture
    luma[y0:y1, x0:x1] = rng.integers(30, 200, (y1 - y0, x1 - x0))
    return luma


@pytest.mark.parametrize("black", [0, 16])
@pytest.mark.parametrize(
    "picture",
    [(0, 0, 320, 240), (0, 36, 320, 204), (90, 0, 230, 240), (40, 30, 280, 210), (0, 1, 320, 240), (0, 0, 317, 239)],
)
def test_bars_are_found_to_the_pixel(black, picture):
    lumas = [letterbox((240, 320), picture, black, seed) for seed in range(3)]
    assert picture_area((240, 320), map(bars, lumas)) == picture


def test_what_an_encoder_leaves_in_a_bar_beside_the_picture_is_bar():
    luma = letterbox((240, 320), (0, 30, 320, 210))
    luma[[28, 29, 210]] = np.random.default_rng(1).integers(10, 23, (3, 320))  # as x264 at CRF 23 does
    assert bars(luma) == (0, 30, 0, 30)
    luma[29, ::20] = 90
    assert bars(luma) == (0, 29, 0, 30)


def literal_bar_rows(luma):
    """The definition: first rows that are black and flat without their darkest and brightest fiftieth."""
    cut = luma.shape[1] // 50
    for row, values in enumerate(np.sort(luma.astype(int), axis=1)):
        darkest, brightest = values[cut], values[-1 - cut]
        if brightest > 26 or brightest - darkest > 12:
            return row
    return len(luma)


def literal_bars(luma):
    height, width = luma.shape
    top, bottom = literal_bar_rows(luma), literal_bar_rows(luma[::-1])
    if top == height:
        return None
    if height - top - bottom < height / 4:
        top = bottom = 0
    columns = luma[top : height - bottom].T
    left, right = literal_bar_rows(columns), literal_bar_rows(columns[::-1])
    return (0, top, 0, bottom) if width - left - right < width / 4 else (left, top, right, bottom)


@given(st.integers(1, 120), st.integers(1, 160), st.integers(0, 2**32 - 1))
def test_bars_are_those_of_the_definition_also_with_noise_in_them(height, width, seed):
    rng = np.random.default_rng(seed)
    black, spread, noise = rng.integers(0, 24), rng.integers(1, 14), rng.random() * 0.03
    luma = (black + rng.integers(0, spread, (height, width))).astype(np.uint8)
    luma[rng.random(luma.shape) < noise] = rng.integers(0, 256)
    (y0, y1), (x0, x1) = (np.sort(rng.integers(0, side + 1, 2)) for side in luma.shape)
    luma[y0:y1, x0:x1] = rng.integers(0, 200, (y1 - y0, x1 - x0))
    assert bars(luma) == literal_bars(luma)


def test_a_bar_is_what_every_key_frame_has():
    wide, narrow = letterbox((240, 320), (0, 36, 320, 204)), letterbox((240, 320), (0, 30, 320, 204))
    black, whole = np.full((240, 320), 16, np.uint8), (0, 0, 320, 240)
    assert bars(black) is None
    assert picture_area((240, 320), [bars(each) for each in (wide, black, narrow)]) == (0, 30, 320, 204)
    assert picture_area((240, 320), [bars(black)]) == whole
    assert picture_area((240, 320), []) == whole
    sliver = letterbox((240, 320), (0, 100, 320, 140))  # a dark scene with a lit window
    assert picture_area((240, 320), [bars(sliver)]) == whole
    dim = np.full((240, 320), 60, np.uint8)
    assert picture_area((240, 320), [bars(dim)]) == whole


@few
@given(
    st.integers(1, 7),
    st.integers(1, 7),
    st.floats(0.05, 1),
    st.sampled_from([None, "frame"]),
    st.integers(0, 2**32 - 1),
)
def test_scores_and_the_best_place_are_those_of_a_slow_search(rows, columns, area, aspect, seed):
    rng = np.random.default_rng(seed)
    density = rng.integers(0, 4, (rows, columns)).astype(float) * rng.random((rows, columns))
    grid = cell_grid((8 * rows, 8 * columns))
    shapes = box_shapes(area, aspect, grid.frame_size)
    found = box_scores(density, cell_edges(grid, (0, 0, 8 * columns, 8 * rows)), shapes)
    assert found.shape == (len(shapes), 33, 33)
    for shape, row, column in zip(
        rng.integers(0, len(shapes), 20), rng.integers(0, 33, 20), rng.integers(0, 33, 20), strict=True
    ):
        height, width = shapes[shape][0] * rows, shapes[shape][1] * columns
        top, left = (rows - height) * row / 32, (columns - width) * column / 32
        score = sum(
            density[i, j]
            * max(0.0, min(i + 1, top + height) - max(i, top))
            * max(0.0, min(j + 1, left + width) - max(j, left))
            for i in range(rows)
            for j in range(columns)
        )
        assert found[shape, row, column] == pytest.approx(score, abs=1e-9)
    best = best_position(found)
    assert found[best] >= found.max() * (1 - 1e-9)
    nearer = [
        place
        for place in zip(*np.nonzero(found >= found.max() * (1 - 1e-9)), strict=True)
        if (place[1] - 16) ** 2 + (place[2] - 16) ** 2 < (best[1] - 16) ** 2 + (best[2] - 16) ** 2
    ]
    assert not nearer


def test_shapes_run_from_wide_to_tall_and_have_the_area():
    shapes = box_shapes(0.25, None, (240, 320))
    assert len(shapes) == 9
    assert shapes[0][0] == pytest.approx(np.sqrt(0.25 * 0.6))
    assert shapes[-1][0] == pytest.approx(np.sqrt(0.25 * 2))
    assert [height * width for height, width in shapes] == pytest.approx([0.25] * 9)
    assert box_shapes(1.0, None, (240, 320)) == [(1.0, 1.0)] * 9


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.01, 1), st.integers(0, 32), st.integers(0, 32))
def test_mirrored_places_have_mirrored_boxes(height, width, share, row, column):
    sizes = pixel_size((share, share), row, column, (height, width))
    assert sizes == pixel_size((share, share), 32 - row, 32 - column, (height, width))
    box = placed_box(sizes, row, column, (0, 0, width, height))
    other = placed_box(sizes, 32 - row, 32 - column, (0, 0, width, height))
    assert other.corners == (width - box.x1, height - box.y1, width - box.x0, height - box.y0)


def test_the_blur_has_nothing_outside_and_the_prior_its_two_widths():
    spike = np.zeros((30, 40))
    spike[15, 0] = 1
    found = blurred(spike, 0.10, 0.04)
    assert found[15, 1] / found[15, 0] == pytest.approx(np.exp(-0.5 / 1.6**2))
    assert found[18, 0] / found[15, 0] == pytest.approx(np.exp(-0.5))
    grid = cell_grid((240, 320))
    even = centred(np.full((30, 40), 7.0), cell_edges(grid, (0, 0, 320, 240)), 0.5, 0.25)
    assert even[14, 29] / even[14, 19] == pytest.approx(
        np.exp(-0.5 * ((29.5 / 40 - 0.5) ** 2 - (19.5 / 40 - 0.5) ** 2) / 0.25**2)
    )
    assert even[29, 19] / even[14, 19] == pytest.approx(
        np.exp(-0.5 * ((29.5 / 30 - 0.5) ** 2 - (14.5 / 30 - 0.5) ** 2) / 0.5**2)
    )
    assert not centred(np.zeros((30, 40)), cell_edges(grid, (0, 0, 320, 240)), 0.5, 0.25).any()


@few
@given(st.integers(2, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_the_places_of_a_path_add_up_to_the_most_that_its_moves_allow(parts, down, across, seed):
    scores = np.random.default_rng(seed).random((parts, 4, 4))
    path = best_steps(scores, (down, across))
    assert len(path) == parts
    for before, after in pairwise(path):
        assert abs(before[0] - after[0]) <= down
        assert abs(before[1] - after[1]) <= across
    places = [(row, column) for row in range(4) for column in range(4)]
    best = {place: scores[0][place] for place in places}
    for part in scores[1:]:
        best = {
            (row, column): part[row, column]
            + max(total for (r, c), total in best.items() if abs(r - row) <= down and abs(c - column) <= across)
            for row, column in places
        }
    assert sum(part[place] for part, place in zip(scores, path, strict=True)) == pytest.approx(max(best.values()))


def test_a_path_is_checked_and_rests_before_and_after():
    first, second = Box(0, 0, 10, 10), Box(20, 4, 30, 14)
    path = BoxPath((2.0, 12.0), (first, second))
    assert [path.box_at(frame) for frame in (-1, 0, 2, 12, 99)] == [first, first, first, second, second]
    assert path.box_at(7).corners == (10, 2, 20, 12)
    for moments, boxes in (((), ()), ((1.0,), (first, second)), ((2.0, 2.0), (first, second))):
        with pytest.raises(ValueError, match=r"path|moments"):
            BoxPath(moments, boxes)
    with pytest.raises(ValueError, match=r"the same size, got \[\(9, 10\), \(10, 10\)\]"):
        BoxPath((1.0, 2.0), (first, Box(0, 0, 10, 9)))
