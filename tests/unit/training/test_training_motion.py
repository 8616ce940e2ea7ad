"""The input of the motion stream: its maps against other implementations, flips, the first convolution, histograms."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mocrop
from training.augmentation import Draws, prepared
from training.backbones import FLOW_DEVIATION, Backbone, build, first_convolution, for_motion
from training.clips import Clips, read_all_clips
from training.flow_histogram import FlowHistogram
from training.motion import LIMIT, STEPS, ZERO, FlowMaps, MotionInput, resizing
from training.options import Refused
from training.stream import ClipStream, plan_of_test

KEPT = MotionInput(3, remove_camera=False)


@pytest.fixture(scope="module")
def clips(ucf_store: Path) -> Clips:
    return read_all_clips(str(ucf_store), "mocrop")


def read(maps: FlowMaps, position: int, slots: list[int]) -> np.ndarray:
    out = np.empty((len(slots), *maps.shape), np.uint8)
    maps.read(np.full(len(slots), position), np.array(slots), out)
    return out


def test_maps_are_the_mean_vectors_of_cells_clipped_scaled_cropped_and_resized(ucf_store: Path) -> None:
    """Against the library's flow and torch's bilinear interpolation, on the whole frame, whose cells fit exactly."""
    full = read_all_clips(str(ucf_store), "full")
    store = mocrop.open_store(ucf_store)
    found = read(FlowMaps(full, KEPT, 48), 0, [0, 1])
    vectors = store.motion_vectors(int(full.rows[0]))
    assert vectors.frame_size == (240, 320)
    flow = np.nan_to_num(vectors.flow(cell=8)) / (240 * LIMIT)
    frames = store._store.view("full").table("frame_index")[full.rows[0], :2].tolist()
    predicted = [frame for frame in range(vectors.num_frames) if frame not in vectors.key_frames]
    for slot, frame in enumerate(frames):
        first = max(sum(each < frame for each in predicted) - 1, 0)
        stack = torch.from_numpy(flow[predicted[first : first + 3]]).permute(0, 3, 1, 2).reshape(1, 6, 30, 40)
        stack = (stack.clamp(-1, 1) * STEPS).round() + ZERO
        (expected,) = F.interpolate(stack, (48, 48), mode="bilinear", align_corners=False)
        assert np.abs(found[slot] - expected.numpy()).max() <= 0.51
        assert found[slot].std() > 1


def test_a_crop_shows_the_cells_that_its_box_reaches_and_no_others(clips: Clips) -> None:
    maps = FlowMaps(clips, KEPT, 56)
    x0, y0, x1, y1 = mocrop.open_store(clips.location).boxes("mocrop")[clips.rows[0]].tolist()
    cells = maps._of(0)[0]
    assert cells.shape == (6, -(-y1 // 8) - y0 // 8, -(-x1 // 8) - x0 // 8)
    points = x0 + (np.arange(56) + 0.5) * (x1 - x0) / 56
    middles = np.arange(x0 // 8, -(-x1 // 8)) * 8 + 4.0
    rising = np.arange(len(middles), dtype=np.float32)
    assert np.allclose(resizing(x0, x1, 8, 56) @ rising, np.interp(points, middles, rising), atol=1e-5)


def test_maps_are_the_same_kept_or_not_by_any_threads_and_after_pickling(clips: Clips) -> None:
    motion, tables = MotionInput(), ("rows", "labels", "frames", "box_sizes", "ids")
    clips = replace(clips, **{name: getattr(clips, name)[:4] for name in tables})
    streams = [
        ClipStream(clips, maps=FlowMaps(clips, motion, 32, keep=keep), threads=threads)
        for keep, threads in ((0, 0), (10**9, 3), (3000, 2))
    ]
    streams[1].maps.prepare(2)
    assert streams[1].maps.kept[0] == len(clips) > streams[2].maps.kept[0]
    streams.append(pickle.loads(pickle.dumps(streams[1])))
    assert streams[-1].maps.kept == (0, 0)
    found = []
    for stream in streams:
        stream.plan = plan_of_test(clips, 3)
        stream.batches = [np.arange(3), np.arange(3, 4)]
        found.append(torch.cat([batch.frames for batch in stream]))
    assert found[0].shape == (4, 3, 32, 32, 10)
    assert all(torch.equal(each, found[0]) for each in found[1:])
    assert streams[2].maps.kept[1] <= 3000


def test_the_camera_is_removed_only_if_asked_for(clips: Clips) -> None:
    kept, removed = (read(FlowMaps(clips, MotionInput(5, remove_camera=on), 32), 3, [0]) for on in (False, True))
    assert not np.array_equal(kept, removed)
    assert np.abs(removed.astype(int) - ZERO).mean() < np.abs(kept.astype(int) - ZERO).mean()


def test_a_flip_mirrors_maps_and_negates_their_horizontal_components() -> None:
    frames = torch.from_numpy(np.random.default_rng(0).integers(1, 256, (2, 3, 16, 16, 4), np.uint8))
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2)
    colours = torch.full((2, 3, 3), 30.0)
    mean, std = (ZERO / 255,) * 4, (STEPS / 255,) * 4
    plain, flipped = (
        prepared(frames, Draws(whole, torch.tensor(flips), colours), 16, mean, std, motion=True)
        for flips in ([False, False], [True, False])
    )
    sign = torch.tensor([-1.0, 1.0, -1.0, 1.0]).view(4, 1, 1)
    assert torch.allclose(flipped[0], plain[0].flip(-1) * sign, atol=1e-4)
    assert torch.allclose(flipped[1], plain[1])
    assert torch.allclose(plain, prepared(frames, None, 16, mean, std, motion=True), atol=1e-4)  # no colour jitter


@pytest.mark.parametrize("arch", ["test_resnet", "mobilenet_v3_large", "test_vit", "tf_efficientnet_lite0"])
def test_mean_filters_answer_equal_channels_as_the_rgb_network_does(arch: str) -> None:
    torch.manual_seed(0)
    backbone = build(arch, 4, 64, pretrained=False)
    model = backbone.model.eval()
    grey = torch.rand(2, 1, 64, 64)
    before = model(grey.expand(-1, 3, -1, -1))
    adapted = for_motion(backbone, MotionInput(5), mean_filters=True)
    assert torch.allclose(model(grey.expand(-1, 10, -1, -1)), before, atol=1e-4)
    assert adapted.motion
    frames = torch.full((1, 1, 64, 64, 10), ZERO, dtype=torch.uint8)
    assert not adapted.input(frames, None, 64).any()
    frames += round(STEPS * FLOW_DEVIATION)
    assert adapted.input(frames, None, 64).mean() == pytest.approx(1, abs=0.1)


def test_a_first_convolution_from_scratch_has_filters_of_its_own_for_each_channel() -> None:
    backbone = build("test_resnet", 4, 32, pretrained=False)
    weights = first_convolution(backbone.model)
    assert weights is not None
    for_motion(backbone, MotionInput(2), mean_filters=False)
    assert weights.weight.shape[1] == 4
    assert weights.weight.std(dim=1).min() > 0


def test_a_network_without_a_first_convolution_of_three_channels_is_refused() -> None:
    for model in (nn.Linear(3, 4), nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(3, 4, 3))):
        with pytest.raises(Refused, match="--stream motion: this --arch does not begin with a convolution of 3"):
            for_motion(Backbone(model, (0.5,) * 3, (0.5,) * 3), MotionInput(), mean_filters=True)


def test_a_histogram_tells_directions_places_and_rest() -> None:
    maps = torch.zeros(1, 4, 64, 64)
    maps[:, 0, :16, :16] = 0.25  # dx of the first frame, in one of the parts
    maps[:, 3, 48:, 48:] = -1.0  # dy of the second
    found = FlowHistogram()(maps).reshape(9, 4, 4)
    assert found[0, 0, 0] == pytest.approx((0.25 / 2) ** 0.5)
    assert found[6, 3, 3] == pytest.approx((1.0 / 2) ** 0.5)
    assert found[8, 0, 0] == found[8, 3, 3] == 0.5
    found[8] -= 1
    found[0, 0, 0] = found[6, 3, 3] = found[8, 0, 0] = found[8, 3, 3] = 0
    assert found.abs().max() < 1e-3
