"""The cached crops of a store as a torch data set with one item per clip."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from data_specs.locations import StoreError, is_url, shown
from mocrop_core.ranges import check_count
from training.clips import CODES, Part, read_clips
from training.options import Failed
from training.shards import FrameReader
from training.stream import Plan, plan_of_test, plan_of_training

Transform = Callable[[tv_tensors.Video], Any]


class CropDataset(Dataset[tuple[Any, int]]):
    """The clips of one list of a split in a view of a store, with the frames and labels that `training.train` sees.

    location: a folder, or the URL of an object store. view: the name of a view. split: 1, 2 or 3. part: ``"train"``,
    ``"val"`` or ``"test"``; clips that are not done are left out. frames: frames per clip, >= 1: for training, one
    random frame of each of that many equal parts of the clip, drawn again in each epoch; otherwise the centre frame of
    each part. transform: applied to the video, such as a transform of torchvision v2; None for none. seed: for the
    random frames, like ``--seed``. An item is a ``tv_tensors.Video``, uint8 (frames, 3, y, x), or the result of the
    transform, and its 0-based label. Each process opens the store itself, so that workers of a ``DataLoader`` may be
    forked or spawned; on an object store they must be spawned. Raises ``mocrop.StoreError`` for a missing store, view
    or list, an unfinished store, or damaged frames; ValueError for a number out of range.

    >>> data = mocrop.CropDataset("videos.zarr", view="mocrop", split=1, part="train", frames=3)
    >>> video, label = data[0]
    >>> video.shape, data.class_names[label], len(data)
    (torch.Size([3, 3, 96, 96]), 'MovingCross', 6)
    """

    def __init__(
        self,
        location: str | os.PathLike[str],
        view: str = "mocrop",
        split: int = 1,
        part: Part = "train",
        frames: int = 3,
        transform: Transform | None = None,
        *,
        seed: int = 0,
    ) -> None:
        if split not in (1, 2, 3):
            raise ValueError(f"split must be 1, 2 or 3, got {split}")
        if part not in CODES:
            raise ValueError(f'part must be "train", "val" or "test", got {part!r}')
        check_count("frames", frames, least=1)
        check_count("seed", seed)
        self.clips = read_clips(os.fspath(location), view, split, part)
        self.frames, self.transform, self.seed = frames, transform, seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # for persistent workers
        self._plan: tuple[int, Plan] | None = None
        self._opened: tuple[int, FrameReader] | None = None
        self._maker = os.getpid()

    def __len__(self) -> int:
        return len(self.clips)

    def __repr__(self) -> str:
        clips = self.clips
        return (
            f"CropDataset({shown(clips.location)!r}: {len(clips)} clips of {len(clips.class_names)} classes, "
            f"view {clips.view}, {clips.part} list of split {clips.split}, {self.frames} frames of {clips.size} px)"
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, indexed by labels."""
        return self.clips.class_names

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The label of each item: int64 (clips,)."""
        return self.clips.labels

    def set_epoch(self, epoch: int) -> None:
        """Draw the frames of the given epoch (from 0), also in running workers; no effect outside training.

        >>> data = mocrop.CropDataset("videos.zarr")
        >>> data.set_epoch(1)
        """
        check_count("epoch", epoch)
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        position = index % len(self)
        side = self.clips.size
        pictures = np.empty((self.frames, side, side, 3), np.uint8)
        try:
            self._reader().read(np.repeat(position, self.frames), self._slots()[position], pictures)
        except Failed as error:
            raise StoreError(str(error)) from error
        video = tv_tensors.Video(torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous())
        return self.transform(video) if self.transform else video, int(self.clips.labels[position])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plan": None, "_opened": None, "_maker": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _maker=os.getpid())

    def _slots(self) -> npt.NDArray[np.int64]:
        epoch = int(self._epoch) if self.clips.part == "train" else 0
        if self._plan is None or self._plan[0] != epoch:
            train = self.clips.part == "train"
            plan = plan_of_training(self.clips, self.frames, self.seed, epoch, "none") if train else None
            self._plan = epoch, plan or plan_of_test(self.clips, self.frames)
        return self._plan[1].slots

    def _reader(self) -> FrameReader:
        if self._opened is None or self._opened[0] != os.getpid():
            if is_url(self.clips.location) and self._maker != os.getpid():
                raise StoreError(
                    f"store {shown(self.clips.location)!r}: a forked process cannot read from an object store; "
                    'give the DataLoader multiprocessing_context="spawn"'
                )
            self._opened = os.getpid(), FrameReader(self.clips)
        return self._opened[1]
