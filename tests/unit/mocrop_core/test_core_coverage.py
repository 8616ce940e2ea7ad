"""What boxes keep of actors: shares, controls of exactly the same area, the best static box, bootstrap intervals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mocrop_core.bootstrap import intervals, resampled_means
from mocrop_core.coverage import (
    best_static_box,
    central_box,
    mostly_kept,
    random_shares,
    shares_kept,
    shares_kept_each,
)

SIZE = (240, 320)
Corners = tuple[int, int, int, int]

corners = st.tuples(st.integers(0, 300), st.integers(0, 220), st.integers(1, 20), st.integers(1, 20)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
areas = st.sampled_from([0.05, 0.25, 0.5, 35 / 48, 0.75, 1.0])


def area_of(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def test_the_share_kept_of_a_real_actor_is_as_worked_out_by_hand(data: Path) -> None:
    # SoccerJuggling g23 c01: one actor, 240 boxes, one a frame. The crop x 40–320, y 40–240 cuts only tops off: every
    # box lies in x 91–225 and ends above y 189. 172 boxes begin at y 40 or below it: kept whole. The other 68, as
    # "y: boxes", with 40 - y rows lost each:
    #   149 px high   13: 11, 17: 1, 18: 13, 19: 1, 20: 1, 21: 5, 22: 1, 23: 1, 24: 1, 28: 1, 30: 10, 31: 5, 32: 1,
    #                 33: 6, 34: 3, 38: 1
    #     rows lost   297 + 23 + 286 + 21 + 20 + 95 + 18 + 17 + 16 + 12 + 100 + 45 + 8 + 42 + 18 + 2 = 1020
    #   138 px high   38: 2, 39: 4;   rows lost 4 + 4 = 8
    # A box keeps 1 - lost/high of itself, as it loses nothing at the sides. Mean: 1 - (1020/149 + 8/138) / 240
    # = 1 - 6.903609 / 240 = 0.971235. Less than 90 % is kept where more than 14.9 (13.8) rows are lost, so from y 25
    # up: 11 + 1 + 13 + 1 + 1 + 5 + 1 + 1 + 1 = 35 boxes; 205 of 240 = 0.854167 keep 90 % or more.
    annotations = json.loads((data / "annotations/ucf101_24.json").read_text())
    (tube,) = annotations["SoccerJuggling/v_SoccerJuggling_g23_c01"]["tubes"]
    x, y, width, height = np.array(tube["boxes_xywh"], float).T
    shares = shares_kept(np.stack([x, y, x + width, y + height], axis=1), np.array([[40, 40, 320, 240]]))[0]
    assert shares.shape == (240,)
    assert shares.mean() == pytest.approx(0.971235, abs=1e-6)
    assert mostly_kept(shares).mean() == pytest.approx(205 / 240)


@given(st.lists(corners, min_size=1, max_size=6), st.lists(corners, min_size=1, max_size=4))
def test_shares_are_those_of_counted_pixels(actors: list[Corners], boxes: list[Corners]) -> None:
    found = shares_kept(np.array(actors, float), np.array(boxes))
    assert found.shape == (len(boxes), len(actors))
    for i, box in enumerate(boxes):
        inside = np.zeros(SIZE, bool)
        inside[box[1] : box[3], box[0] : box[2]] = True
        for j, (x0, y0, x1, y1) in enumerate(actors):
            assert found[i, j] == pytest.approx(inside[y0:y1, x0:x1].mean())
    assert np.array_equal(shares_kept_each(actors, np.tile(boxes[0], (len(actors), 1))), found[0])


def test_a_share_of_exactly_nine_tenths_counts_as_mostly_kept() -> None:
    # 3 of 10 thirds of a pixel are not exact in floats: 0.1 + 0.7 + 0.1 is 0.8999999999999999
    assert mostly_kept(np.array([0.9, 0.1 + 0.7 + 0.1, 0.8999, 1.0])).tolist() == [True, True, False, True]


@given(areas, st.tuples(st.integers(1, 2000), st.integers(1, 2000)))
def test_the_central_box_has_exactly_the_area_and_the_frames_shape(area: float, size: tuple[int, int]) -> None:
    height, width = size
    x0, y0, x1, y1 = box = central_box(size, area)
    assert area_of(box) == pytest.approx(area * height * width, rel=1e-12)
    assert (x0 + x1, y0 + y1) == pytest.approx((width, height))
    assert (x1 - x0) / width == pytest.approx((y1 - y0) / height)


@settings(max_examples=20)
@given(st.lists(corners, min_size=1, max_size=3), areas)
def test_random_shares_are_those_of_boxes_at_32_by_32_even_places(actors: list[Corners], area: float) -> None:
    side = np.sqrt(area)
    free_x, free_y = SIZE[1] * (1 - side), SIZE[0] * (1 - side)
    places = [((i + 0.5) / 32 * free_x, (j + 0.5) / 32 * free_y) for i in range(32) for j in range(32)]
    boxes = np.array([(x, y, x + SIZE[1] * side, y + SIZE[0] * side) for x, y in places])
    every = shares_kept(np.array(actors, float), boxes)
    mean, mostly = random_shares(np.array(actors, float), SIZE, area)
    assert mean == pytest.approx(every.mean(axis=0))
    assert mostly == pytest.approx(mostly_kept(every).mean(axis=0), abs=2 / 1024)  # where a share is 0.9 to rounding


@settings(max_examples=40)
@given(st.lists(corners, min_size=1, max_size=8), areas, st.integers(0, 2**32))
def test_no_box_of_the_same_area_keeps_more_than_the_best(actors: list[Corners], area: float, seed: int) -> None:
    unique, counts = np.unique(np.array(actors, float), axis=0, return_counts=True)
    best = best_static_box(unique, counts, SIZE, area)
    assert area_of(best) == pytest.approx(area * SIZE[0] * SIZE[1])
    assert (best >= -1e-9).all()
    assert (best[2:] <= np.array([320, 240]) + 1e-9).all()
    rng = np.random.default_rng(seed)
    high = area ** rng.random(3000)
    wide = area / high
    y, x = rng.random(3000) * (1 - high), rng.random(3000) * (1 - wide)
    others = np.stack([x, y, x + wide, y + high], axis=1) * [320, 240, 320, 240]
    kept = shares_kept(unique, np.vstack([best, others])) @ counts / counts.sum()
    assert kept[0] >= kept[1:].max() - 1e-3


def test_the_best_box_holds_an_actor_that_fits_wholly_wherever_it_is() -> None:
    for actor in ((0, 0, 160, 120), (160, 120, 320, 240), (0, 0, 320, 60), (240, 0, 320, 240)):
        best = best_static_box([actor], [1], SIZE, 0.25)
        assert shares_kept([actor], [best])[0, 0] == pytest.approx(1, abs=1e-6)


def test_what_is_given_besides_is_taken_where_it_keeps_more() -> None:
    exact = [10.0, 20.0, 170.0, 140.0]
    assert best_static_box([exact], [3], SIZE, 0.25, [exact]).tolist() == exact


@pytest.mark.parametrize("area", [0.0, 1.5, float("nan")])
def test_an_area_that_no_box_has_is_refused(area: float) -> None:
    for made in (
        lambda: central_box(SIZE, area),
        lambda: random_shares([(0, 0, 1, 1)], SIZE, area),
        lambda: best_static_box([(0, 0, 1, 1)], [1], SIZE, area),
    ):
        with pytest.raises(ValueError, match="area must lie in"):
            made()


def test_a_resample_counts_each_row_of_the_groups_that_it_draws() -> None:
    # two groups: {0, 0, 6} and {9}. Drawn (with replacement, two of two): both 1/2, the first twice 1/4, the second 1/4
    values, groups = np.array([[0.0], [0.0], [6.0], [9.0]]), ["a", "a", "a", "b"]
    means = resampled_means(values, groups, np.random.default_rng(0), 4000)[:, 0]
    possible, counts = np.unique(means.round(9), return_counts=True)
    assert possible.tolist() == [2.0, 3.75, 9.0]
    assert counts / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_intervals_hold_the_true_mean_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(7)
    held = np.zeros(2)
    for _ in range(150):
        recordings = rng.normal(size=40)
        values = np.repeat(recordings, 3)[:, None] + rng.normal(size=(120, 1))
        ends = intervals(resampled_means(values, np.repeat(np.arange(40), 3), rng, 300))[0]
        held += (ends[:, 0] <= 0) & (ends[:, 1] >= 0)
    assert 0.8 < held[0] / 150 < held[1] / 150 <= 1  # 90 and 95 %


def test_resampling_needs_rows_with_a_group_each() -> None:
    rng = np.random.default_rng(0)
    for values, groups in ((np.empty((0, 1)), []), (np.zeros((2, 1)), ["a"]), (np.zeros(2), ["a", "b"])):
        with pytest.raises(ValueError, match="group for each row"):
            resampled_means(values, groups, rng)
