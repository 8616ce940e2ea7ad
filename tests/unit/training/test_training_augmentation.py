"""Colour, crop, flip and size on a batch, against literal OpenCV."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.augmentation import COLOUR, SCALES, changed_colour, cropped, draw, prepared


def natural_frames(rng: np.random.Generator, count: int, side: int = 48) -> Any:
    """Smooth, coloured pictures, and noise: uint8 (2 * count, side, side, 3)."""
    coarse = rng.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    smooth = [cv2.resize(picture, (side, side), interpolation=cv2.INTER_CUBIC) for picture in coarse]
    return np.concatenate([np.stack(smooth), rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)])


def literal_colour(rgb: Any, change: Any) -> Any:
    """What the reference does to one frame, which it has in BGR."""
    hls = cv2.cvtColor(np.ascontiguousarray(rgb[..., ::-1]), cv2.COLOR_BGR2HLS).astype(float)
    for channel, highest in enumerate((180, 255, 255)):
        hls[..., channel] = np.minimum(hls[..., channel] + change[channel], highest)
    return cv2.cvtColor(np.maximum(hls, 0).astype(np.uint8), cv2.COLOR_HLS2BGR)[..., ::-1]


def as_images(frames: Any) -> torch.Tensor:
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float()


def as_frames(images: torch.Tensor) -> Any:
    return images.permute(0, 2, 3, 1).numpy()


def test_colour_is_that_of_the_reference_in_opencv() -> None:
    rng = np.random.default_rng(0)
    frames = natural_frames(rng, 20)
    change = (rng.uniform(-1, 1, (len(frames), 3)) * COLOUR).astype(np.float32)
    expected = np.stack([literal_colour(frame, own) for frame, own in zip(frames, change, strict=True)])
    off = np.abs(as_frames(changed_colour(as_images(frames), torch.from_numpy(change))) - expected)
    # hue is rounded to half a turn's 180th: where float32 falls on the other side of a half, it is one off
    assert (off > 0).mean() < 1e-3
    assert off.max() <= 12


def test_no_change_of_colour_is_opencv_there_and_back() -> None:
    frames = natural_frames(np.random.default_rng(1), 5)
    back = as_frames(changed_colour(as_images(frames), torch.zeros(len(frames), 3)))
    expected = np.stack([cv2.cvtColor(cv2.cvtColor(f, cv2.COLOR_RGB2HLS), cv2.COLOR_HLS2RGB) for f in frames])
    assert (back != expected).mean() < 1e-3


def test_grey_stays_grey_and_extremes_stay_in_range() -> None:
    levels = torch.arange(256.0).view(1, 1, 16, 16).expand(1, 3, -1, -1)
    grey = changed_colour(levels, torch.tensor([[36.0, 20.0, 0.0]]))
    assert (grey == (levels + 20).clamp(max=255)).all()
    for change in ([36.0, 50.0, 50.0], [-36.0, -50.0, -50.0]):
        images = changed_colour(as_images(natural_frames(np.random.default_rng(2), 3)), torch.tensor([change] * 6))
        assert images.min() >= 0
        assert images.max() <= 255
        assert (images == images.round()).all()


@pytest.mark.parametrize("size", [16, 31, 48, 64])
@pytest.mark.parametrize("flip", [False, True])
def test_crop_flip_and_resize_are_those_of_opencv(size: int, flip: bool) -> None:
    frames = natural_frames(np.random.default_rng(3), 4)
    windows = torch.tensor([[0, 0, 48, 48], [5, 3, 36, 42], [10, 0, 31, 48], [0, 17, 42, 31]] * 2).float()
    got = as_frames(cropped(as_images(frames), windows, torch.tensor([flip] * 8), size))
    for frame, (x, y, w, h), mine in zip(frames, windows.int().tolist(), got, strict=True):
        inside = frame[y : y + h, x : x + w]
        picture = cv2.resize(inside.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
        assert np.abs(mine - (picture[:, ::-1] if flip else picture)).max() < 0.05


@settings(max_examples=50)
@given(
    sizes=st.lists(st.tuples(st.integers(2, 500), st.integers(2, 500)), min_size=1, max_size=8),
    seed=st.integers(0, 2**32),
)
def test_crops_are_of_the_scales_and_inside_the_box(sizes: list[tuple[int, int]], seed: int) -> None:
    boxes = np.array(sizes)
    draws = draw(np.random.default_rng(seed), boxes, 3)
    pixels = draws.windows.numpy() * np.tile(boxes, 2)
    assert np.abs(pixels - np.rint(pixels)).max() < 1e-2
    x, y, w, h = np.rint(pixels).astype(int).T
    assert (x >= 0).all()
    assert (y >= 0).all()
    assert (x + w <= boxes[:, 0]).all()
    assert (y + h <= boxes[:, 1]).all()
    for (width, height), *sides in zip(sizes, w.tolist(), h.tolist(), strict=True):
        assert set(sides) <= {int(min(width, height) * scale) for scale in SCALES}
    assert draws.colours is not None
    assert (draws.colours.abs() <= torch.tensor(COLOUR)).all()


def test_all_pairs_of_scales_and_both_sides_come_up() -> None:
    draws = draw(np.random.default_rng(0), np.array([[320, 240]] * 2000), 1)
    sizes = np.rint(draws.windows[:, 2:].numpy() * [320, 240]).astype(int)
    assert {tuple(size) for size in sizes.tolist()} == {
        (w, h) for w in (240, 210, 180, 158) for h in (240, 210, 180, 158)
    }
    assert 0.45 < draws.flips.float().mean() < 0.55
    assert (np.rint(draws.windows[:, 0].numpy() * 320) == 320 - sizes[:, 0]).any()


def test_frames_of_a_clip_share_crop_and_flip_but_not_colour() -> None:
    frames = torch.from_numpy(np.repeat(natural_frames(np.random.default_rng(5), 1)[:1], 3, axis=0))[None]
    draws = draw(np.random.default_rng(5), np.array([[300, 200]]), 3)
    images = prepared(frames, draws, 32, (0.0,) * 3, (1.0,) * 3)
    assert not torch.equal(images[0, 0], images[0, 1])
    assert draws.colours is not None
    draws.colours.zero_()
    images = prepared(frames, draws, 32, (0.0,) * 3, (1.0,) * 3)
    assert torch.equal(images[0, 0], images[0, 1])
    assert torch.equal(images[0, 0], images[0, 2])


def test_flips_alone_change_nothing_else() -> None:
    frames = torch.from_numpy(natural_frames(np.random.default_rng(7), 2))[:, None]
    draws = draw(np.random.default_rng(7), np.array([[300, 200]] * 4), 1).flips_alone()
    images = prepared(frames, draws, 48, (0.0,) * 3, (1.0,) * 3)[:, 0] * 255
    expected = as_images(frames[:, 0].numpy())
    assert 0 < draws.flips.sum() < 4
    for flip, image, picture in zip(draws.flips.tolist(), images, expected, strict=True):
        assert (image - (picture.flip(-1) if flip else picture)).abs().max() < 0.01


def test_a_test_only_resizes_and_normalises() -> None:
    frames = natural_frames(np.random.default_rng(6), 3)
    before = torch.get_rng_state()
    images = prepared(torch.from_numpy(frames)[:, None], None, 40, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert torch.equal(before, torch.get_rng_state())
    for frame, image in zip(frames, images[:, 0], strict=True):
        small = cv2.resize(frame.astype(np.float32), (40, 40), interpolation=cv2.INTER_LINEAR) / 255
        expected = (small - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        assert np.abs(image.permute(1, 2, 0).numpy() - expected).max() < 1e-3
    same = prepared(torch.from_numpy(frames)[:, None], None, 48, (0.0,) * 3, (1.0,) * 3)
    assert (same[:, 0] * 255 - as_images(frames)).abs().max() < 1e-4
