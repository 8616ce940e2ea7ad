"""`cell_flow` against a slow literal version that paints each block pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mocrop_core.flow import Flow, cell_flow
from mocrop_core.vectors import VECTOR, Vectors


def painted(v: Vectors, num_frames: int, frame_size: tuple[int, int], cell: int) -> Flow:
    """Each pixel of a block adds the block's displacement to its cell; the cell has the mean of what was added."""
    height, width = frame_size
    sums = np.zeros((num_frames, -(-height // cell), -(-width // cell), 3))
    for one in v:
        y0, x0 = int(one["y"]) - int(one["h"]) // 2, int(one["x"]) - int(one["w"]) // 2
        for y in range(y0, y0 + int(one["h"])):
            for x in range(x0, x0 + int(one["w"])):
                if 0 <= y < height and 0 <= x < width:
                    sums[one["frame"], y // cell, x // cell] += one["dx"], one["dy"], 1
    with np.errstate(invalid="ignore"):
        return (sums[..., :2] / sums[..., 2:]).astype(np.float32)


blocks = st.tuples(
    *(st.integers(low, high) for low, high in ((0, 2), (-10, 50), (-10, 40))),
    *[st.sampled_from([4, 8, 16])] * 2,
    *[st.integers(-40, 40).map(lambda quarter: quarter / 4)] * 2,
)


@given(st.lists(blocks, max_size=8), st.integers(1, 20), st.tuples(st.integers(1, 30), st.integers(1, 40)))
def test_each_cell_has_the_mean_of_its_pixels(
    vectors: list[tuple[float, ...]], cell: int, size: tuple[int, int]
) -> None:
    v = np.array(vectors, VECTOR)
    np.testing.assert_allclose(cell_flow(v, 3, size, cell), painted(v, 3, size, cell), rtol=1e-5, atol=1e-5)


def test_a_cell_without_a_vector_is_not_a_number() -> None:
    flow = cell_flow(np.array([(1, 8, 8, 16, 16, -2.0, 0.5)], VECTOR), 2, (16, 32), 8)
    assert np.isnan(flow[0]).all()
    assert np.isnan(flow[1, :, 2:]).all()
    assert (flow[1, :, :2] == (-2.0, 0.5)).all()


def test_a_frame_that_the_clip_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="vectors of frames 0 to 2, but num_frames is 2"):
        cell_flow(np.array([(2, 8, 8, 16, 16, 0, 0)], VECTOR), 2, (16, 16), 8)
