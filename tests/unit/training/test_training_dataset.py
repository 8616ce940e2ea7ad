"""``mocrop.CropDataset`` gives what training sees; ``mocrop.transforms.MotionCrop`` cuts videos to their boxes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

import mocrop
from training.clips import Part, read_clips
from training.stream import ClipStream, batches_of_test, plan_of_test, plan_of_training


def seen_in_training(store: Path, part: Part, epoch: int) -> dict[int, tuple[torch.Tensor, int]]:
    """The frames (3, 3, y, x) and the label of each position in a list, as `training.train` streams them."""
    clips = read_clips(str(store), "mocrop", 1, part)
    stream = ClipStream(clips, threads=0)
    stream.plan = plan_of_training(clips, 3, 7, epoch) if part == "train" else plan_of_test(clips, 3)
    stream.batches = batches_of_test(stream.plan.order, 4, 0, 1)
    found = {}
    for batch in stream:
        for position, frames, label in zip(batch.positions.tolist(), batch.frames, batch.labels, strict=True):
            found[position] = frames.permute(0, 3, 1, 2).clone(), int(label)
    return found


@pytest.mark.parametrize("part", ["train", "test"])
def test_items_are_the_frames_and_labels_that_training_sees(part: Part, ucf_store: Path) -> None:
    data = mocrop.CropDataset(ucf_store, part=part, frames=3, seed=7)
    drawn = []
    for epoch in (0, 1):
        data.set_epoch(epoch)
        expected = seen_in_training(ucf_store, part, epoch)
        assert expected.keys() == set(range(len(data)))
        for position, (frames, label) in expected.items():
            video, found = data[position]
            assert isinstance(video, tv_tensors.Video)
            assert torch.equal(video.as_subclass(torch.Tensor), frames)
            assert found == label == data.labels[position]
        drawn.append(torch.stack([data[position][0] for position in range(len(data))]))
    assert torch.equal(*drawn) == (part == "test"), "each epoch of a training draws its own frames"


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.soak)])
def test_workers_of_a_loader_give_the_same_items_and_see_the_next_epoch(context: str, ucf_store: Path) -> None:
    data = mocrop.CropDataset(ucf_store, frames=2, transform=v2.Resize((32, 32)))
    data[0]  # opened here before the workers begin
    loader = DataLoader(data, 4, num_workers=1, multiprocessing_context=context, persistent_workers=True)
    for epoch in (0, 3):
        data.set_epoch(epoch)
        videos, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
        assert videos.shape == (len(data), 2, 3, 32, 32)
        assert torch.equal(videos, torch.stack([data[i][0] for i in range(len(data))]))
        assert labels.tolist() == data.labels.tolist()


def test_a_copy_of_a_data_set_reads_for_itself(ucf_store: Path) -> None:
    data = mocrop.CropDataset(ucf_store, part="test")
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[-1][0], data[len(data) - 1][0])
    assert repr(copy) == repr(data)
    assert len(list(copy)) == len(data)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"split": 4}, ValueError, "split must be 1, 2 or 3, got 4"),
        ({"part": "valid"}, ValueError, 'part must be "train", "val" or "test"'),
        ({"part": "val"}, mocrop.StoreError, "no clip in the val list of split"),
        ({"frames": 0}, ValueError, "frames"),
        ({"view": "x"}, mocrop.StoreError, "view 'x' is not in"),
    ],
)
def test_a_wrong_data_set_is_refused(
    settings: dict[str, Any], error: type[Exception], message: str, ucf_store: Path
) -> None:
    with pytest.raises(error) as raised:
        mocrop.CropDataset(ucf_store, **settings)
    assert message in str(raised.value)


def boxes(*corners: tuple[float, ...]) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(torch.tensor(corners), format="XYXY", canvas_size=(240, 320))


def test_a_motion_crop_cuts_the_video_to_its_box_and_moves_other_boxes() -> None:
    video = tv_tensors.Video(torch.randint(0, 256, (2, 4, 3, 240, 320), dtype=torch.uint8))
    sample = {"video": video, "box": boxes((40, 0, 240, 200)), "actor": boxes((140, 100, 340, 150)), "label": 3}
    cut = mocrop.transforms.MotionCrop(size=None)(sample)
    assert isinstance(cut["video"], tv_tensors.Video)
    assert torch.equal(cut["video"], video[..., 0:200, 40:240])
    assert cut["box"].tolist() == [[0, 0, 200, 200]]
    assert cut["actor"].tolist() == [[100, 100, 200, 150]], "cut at the border of the crop"
    assert cut["label"] == 3
    half = v2.Compose([mocrop.transforms.MotionCrop(size=100), v2.ToDtype(torch.float32, scale=True)])(sample)
    assert half["video"].shape == (2, 4, 3, 100, 100)
    assert half["actor"].tolist() == [[50, 50, 100, 75]]
    np.testing.assert_allclose(half["video"].mean(), cut["video"].float().mean() / 255, atol=0.01)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ((), "needs a box"),
        ((boxes((0, 0, 9, 9), (1, 1, 5, 5)),), "needs one box, got 2"),
        ((boxes((300, 0, 330, 9)),), "leaves the frame of 320x240 px"),
        ((boxes((9, 9, 9, 20)),), "is empty"),
    ],
)
def test_a_motion_crop_without_one_box_in_the_frame_is_refused(sample: tuple[Any, ...], message: str) -> None:
    video = tv_tensors.Video(torch.zeros(1, 3, 240, 320))
    with pytest.raises(ValueError, match="box") as raised:
        mocrop.transforms.MotionCrop()(video, *sample)
    assert message in str(raised.value)
