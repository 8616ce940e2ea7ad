"""The boxes of the method `actor` on real clips against those that another implementation of METHOD.md gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.boxes import agreement, clips_of, expected

CLIPS = {
    "ucf-101": ["VolleyballSpiking/v_VolleyballSpiking_g01_c01"],
    "weizmann": ["walk/moshe_walk", "jack/denis_jack", "bend/moshe_bend"],
}
"""A panning camera, and a still one with an actor that walks, jumps and bends."""


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("name", CLIPS)
def test_real_clips_have_the_boxes_that_another_implementation_gives(name: str, tmp_path: Path) -> None:
    """`expected_boxes.json` was made by somebody else from METHOD.md, on the files of the default encode."""
    clips = clips_of(name, CLIPS[name], tmp_path)
    kept, overlaps = agreement(name, clips)
    assert kept.shape == (len(CLIPS[name]), len(expected()["areas"])) == overlaps.shape
    assert np.median(overlaps) >= 0.98
    assert overlaps.min() > 0.8
    assert (kept[:, 0] > 0.99).all()
    assert (kept[:, 1] > 0.8).all()
