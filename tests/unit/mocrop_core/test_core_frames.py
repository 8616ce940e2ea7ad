"""Which frames of a clip are cached, and which are seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mocrop_core import frames

many = settings(max_examples=200)


@many
@given(st.integers(0, 2000), st.integers(0, 300))
def test_spread_is_strictly_increasing_and_in_range(count, slots):
    indices = frames.spread(count, slots)
    assert indices.dtype == np.int64
    assert len(indices) == min(count, slots)
    assert (np.diff(indices) > 0).all()
    assert ((indices >= 0) & (indices < count)).all()


@many
@given(st.integers(1, 2000), st.integers(2, 300))
def test_spread_is_even_and_reads_the_same_from_both_ends(count, slots):
    indices = frames.spread(count, slots)
    assert indices[0] == 0
    assert indices[-1] == count - 1
    gaps = np.diff(indices)
    assert np.ptp(gaps) <= 1 if gaps.size else count == 1
    assert abs(indices - np.linspace(0, count - 1, len(indices))).max() < 0.5 + 1e-6
    off = indices + indices[::-1] - (count - 1)
    middle = len(indices) // 2 if len(indices) % 2 and count % 2 == 0 else None
    assert all(value == (-1 if i == middle else 0) for i, value in enumerate(off))


def test_spread_gives_every_index_where_there_are_slots_enough():
    for count in range(12):
        assert frames.spread(count, 12).tolist() == list(range(count))
    assert count == 11


def test_spread_of_one_slot_is_the_middle():
    assert [frames.spread(count, 1).tolist() for count in (1, 2, 3, 10)] == [[0], [0], [1], [4]]


@many
@given(st.integers(1, 500), st.integers(1, 40), st.integers(0, 2**32))
def test_segments_lie_in_the_clip_and_in_order(num, segments, seed):
    for indices in (
        frames.sample_segments_train(num, segments, np.random.default_rng(seed)),
        frames.sample_segments_test(num, segments),
    ):
        assert indices.shape == (segments,)
        assert ((indices >= 0) & (indices < num)).all()
        assert (np.diff(indices) >= 0).all()


@many
@given(st.integers(1, 500), st.integers(1, 40), st.integers(0, 2**32))
def test_segments_are_the_public_codes(num, segments, seed):
    size = float(num - 1) / segments
    train = frames.sample_segments_train(num, segments, np.random.default_rng(seed))
    test = frames.sample_segments_test(num, segments)
    for i in range(segments):
        begin, end = int(np.round(size * i)), int(np.round(size * (i + 1)))
        assert begin <= train[i] <= max(begin, end - 1)
        assert test[i] == min(int(np.round(size * (i + 0.5))), num - 1)
    assert i == segments - 1


@given(st.lists(st.integers(1, 500), min_size=1, max_size=30), st.integers(1, 40), st.integers(0, 2**32))
def test_many_clips_are_drawn_as_one_after_the_other(nums, segments, seed):
    together, alone = np.random.default_rng(seed), np.random.default_rng(seed)
    drawn = frames.sample_segments_train(np.array(nums), segments, together)
    assert drawn.tolist() == [frames.sample_segments_train(num, segments, alone).tolist() for num in nums]
    assert together.random() == alone.random()
    centres = frames.sample_segments_test(np.array(nums), segments)
    assert centres.tolist() == [frames.sample_segments_test(num, segments).tolist() for num in nums]


def test_every_frame_of_a_segment_is_drawn_and_alike():
    rng = np.random.default_rng(0)
    drawn = np.stack([frames.sample_segments_train(31, 3, rng) for _ in range(3000)])
    for segment in range(3):
        seen, times = np.unique(drawn[:, segment], return_counts=True)
        assert seen.tolist() == list(range(segment * 10, segment * 10 + 10))
        assert abs(times / 300 - 1).max() < 0.25
    assert segment == 2


def test_eight_test_frames_of_a_clip_of_151():
    assert frames.sample_segments_test(151, 8).tolist() == [9, 28, 47, 66, 84, 103, 122, 141]


def test_a_number_below_its_range_is_refused_with_its_value():
    with pytest.raises(ValueError, match="got -1"):
        frames.spread(-1, 4)
    with pytest.raises(ValueError, match="got -3"):
        frames.spread(4, -3)
    with pytest.raises(ValueError, match=r"num .* got 0"):
        frames.sample_segments_test(0, 8)
    with pytest.raises(ValueError, match=r"num .* got 0"):
        frames.sample_segments_test(np.array([3, 0]), 8)
    with pytest.raises(ValueError, match=r"segments .* got 0"):
        frames.sample_segments_train(10, 0, np.random.default_rng(0))
