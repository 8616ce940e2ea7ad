"""The motion of single frames, and which frames are stacked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mocrop_core import VECTOR, KeyFrames, cell_grid
from mocrop_core.frame_motion import frame_motion, predicted_frames

SIZE = (48, 64)


def blocks(frames: list[int], dx: float, dy: float) -> np.ndarray:
    """A vector for each block of 16 x 16 px of some frames, all the same."""
    rows = [(f, x, y, 16, 16, dx, dy) for f in frames for y in range(8, 48, 16) for x in range(8, 64, 16)]
    return np.array(rows, VECTOR)


def keys(*frames: int, picture: tuple[int, int, int, int] | None = None) -> KeyFrames:
    return KeyFrames(frames, np.full((len(frames), *cell_grid(SIZE).shape), 200, np.uint8), picture)


def test_predicted_frames_surround_the_given_one_and_skip_key_frames() -> None:
    found = predicted_frames(26, (0, 12, 24), np.array([0, 5, 12, 25]), 5)
    assert found.tolist() == [[1, 2, 3, 4, 5], [3, 4, 5, 6, 7], [10, 11, 13, 14, 15], [20, 21, 22, 23, 25]]


def test_a_clip_with_few_predicted_frames_repeats_the_last_and_one_without_any_has_none() -> None:
    assert predicted_frames(3, (0,), np.array([0, 2]), 4).tolist() == [[1, 2, 2, 2]] * 2
    assert predicted_frames(1, (0,), np.array([0]), 2).tolist() == [[-1, -1]]
    with pytest.raises(ValueError, match="count"):
        predicted_frames(3, (0,), np.array([0]), 0)


@given(st.integers(1, 60), st.integers(1, 13), st.integers(1, 9), st.integers(0, 59))
def test_predicted_frames_are_consecutive_and_the_nearest(num: int, gop: int, count: int, around: int) -> None:
    predicted = [frame for frame in range(num) if frame % gop]
    (found,) = predicted_frames(num, tuple(range(0, num, gop)), np.array([min(around, num - 1)]), count).tolist()
    if len(predicted) < count:
        assert found == (predicted + predicted[-1:] * count)[:count] if predicted else [-1] * count
        return
    runs = [predicted[start : start + count] for start in range(len(predicted) - count + 1)]
    assert found in runs
    before = sum(frame < min(around, num - 1) for frame in found)
    assert before == count // 2 or found in (runs[0], runs[-1])


def test_a_frame_has_the_displacements_of_its_own_vectors() -> None:
    v = np.concatenate([blocks([2], -3, 1), blocks([1], 5, 0)])
    dx, dy = frame_motion(v, np.array([1, 2, 3]), keys(0), cell_grid(SIZE), remove_camera=False)
    assert dx.shape == (3, 6, 8)
    assert [np.unique(each).tolist() for each in dx] == [[5], [-3], [0]]
    assert [np.unique(each).tolist() for each in dy] == [[0], [1], [0]]


def test_the_motion_of_the_camera_is_removed_and_that_of_an_actor_stays() -> None:
    v = blocks([1], 4, 0)
    v["dx"][5] = -2
    dx, _ = frame_motion(v, np.array([1]), keys(0), cell_grid(SIZE), remove_camera=True)
    actor = dx[0, 2:4, 2:4]
    assert np.allclose(actor, -6, atol=0.5)
    dx[0, 2:4, 2:4] = 0
    assert np.abs(dx).max() < 0.5


def test_bars_are_at_rest() -> None:
    v = blocks([1], 4, 4)
    inside = keys(0, picture=(16, 0, 48, 48))
    for remove in (False, True):
        dx, dy = frame_motion(v, np.array([1]), inside, cell_grid(SIZE), remove_camera=remove)
        assert not dx[0, :, :2].any()
        assert not dy[0, :, 6:].any()
        assert bool((np.abs(dx[0, :, 2:6]) > 1e-3).all()) is not remove


def test_textures_of_another_grid_are_refused() -> None:
    wrong = KeyFrames((0,), np.zeros((1, 3, 3), np.uint8))
    with pytest.raises(ValueError, match=r"textures must have \(6, 8\) cells, got \(3, 3\)"):
        frame_motion(blocks([1], 1, 1), np.array([1]), wrong, cell_grid(SIZE), remove_camera=True)
