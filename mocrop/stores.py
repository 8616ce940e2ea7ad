"""A store, open for reading."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from data_specs import schema, stored
from data_specs.clip_motion import MotionReader
from data_specs.locations import StoreError, shown
from mocrop_core.motion_vectors import MotionVectors


class Store:
    """The boxes, frames and motion vectors of many clips; the result of `open_store`.

    Row i is the same clip in every table; tables are read once, on first use. Methods raise a one-line
    ``mocrop.StoreError`` for a view or row that does not exist and for damaged objects.
    """

    def __init__(self, location: str) -> None:
        self._store = stored.open_store(location)
        self._tables: dict[str, npt.NDArray[Any]] = {}

    def __repr__(self) -> str:
        done, views = int(self.done.sum()), ", ".join(self.views)
        return f"Store({shown(self._store.location)!r}: {done} of {len(self)} clips done, views {views})"

    def __len__(self) -> int:
        return len(self._store.ids)

    @property
    def views(self) -> list[str]:
        """The names of the views; each is one way to choose the box.

        >>> mocrop.open_store("videos.zarr").views
        ['full', 'centre', 'random', 'mocrop']
        """
        return self._store.views

    @property
    def ids(self) -> list[str]:
        """The ids of the clips: the paths of the videos in the source folder, without suffix."""
        return self._store.ids

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, indexed by labels."""
        return self._store.class_names

    @property
    def labels(self) -> npt.NDArray[np.int16]:
        """The 0-based label of each clip: int16 (clips,)."""
        return self._table("label")

    @property
    def done(self) -> npt.NDArray[np.bool_]:
        """Which clips are done: bool (clips,); the others are pending or quarantined, and have no boxes or frames.

        >>> store = mocrop.open_store("videos.zarr")
        >>> int(store.done.sum()), len(store)
        (12, 12)
        """
        return np.asarray(self._table("state") == schema.State.DONE)

    @property
    def groups(self) -> list[str]:
        """The group of each clip in the clip table: the recording that it is cut from; "" if unknown.

        >>> set(mocrop.open_store("videos.zarr").groups)
        {''}
        """
        return [str(group) for group in self._table("group")]

    @property
    def videos(self) -> list[str]:
        """For each clip that is a window of a video, the video's path in the source folder; else ""."""
        return [str(video) for video in self._table("video")]

    @property
    def windows(self) -> npt.NDArray[np.float64]:
        """The start and the end of each clip in its video: float64 (clips, 2), seconds; NaN for whole videos.

        >>> mocrop.open_store("videos.zarr").windows[0]
        array([nan, nan])
        """
        return self._table("window")

    @property
    def first_frames(self) -> npt.NDArray[np.int32]:
        """The frame of the source video that is frame 0 of each clip: int32 (clips,); 0 for whole videos.

        Frame numbers in the store, as in ``frame_index``, count from the first frame of the clip.
        """
        return self._table("first_frame")

    def row(self, id: str) -> int:
        """The row of the clip with the given id.

        >>> mocrop.open_store("videos.zarr").row("MovingDisc/v_MovingDisc_g01_c02")
        5
        """
        return self._store.row(id)

    def boxes(self, view: str) -> npt.NDArray[np.int32]:
        """The box of each clip in a view.

        Returns int32 (clips, 4): x0, y0, x1, y1, px of the clip's H.264 frame, half-open; zeros for clips that are not
        done.

        >>> mocrop.open_store("videos.zarr").boxes("full")[0].tolist()
        [0, 0, 320, 240]
        """
        return self._view_table(view, "box")

    def frames(self, view: str, row: int) -> npt.NDArray[np.uint8]:
        """The cached frames of a clip in a view.

        Returns uint8 (frames, y, x, 3), RGB, in the order of the video; no frames for a clip that is not done. The
        view's array ``frame_index`` has their numbers in the video.

        >>> mocrop.open_store("videos.zarr").frames("mocrop", 0).shape
        (2, 96, 96, 3)
        """
        row = self._checked(row)
        count = int((self._view_table(view, "frame_index")[row] >= 0).sum())
        with stored.reading(f"views/{view}/frames in the store {shown(self._store.location)!r}"):
            return np.asarray(self._store.array(f"views/{view}/frames")[row, :count])

    def motion_vectors(self, row: int) -> MotionVectors:
        """The motion vectors of a clip, as read from its H.264 file.

        Raises ``mocrop.StoreError`` for a clip without them: pending, or quarantined before they were read.

        >>> mocrop.open_store("videos.zarr").motion_vectors(0).num_frames
        24
        """
        return MotionReader(self._store).read(self._checked(row))

    def _view_table(self, view: str, name: str) -> npt.NDArray[Any]:
        return self._table(f"views/{self._store.view(view).name}/{name}")

    def _table(self, path: str) -> npt.NDArray[Any]:
        if path not in self._tables:
            self._tables[path] = self._store.table(path)
            self._tables[path].flags.writeable = False
        return self._tables[path]

    def _checked(self, row: int) -> int:
        if not 0 <= row < len(self):
            raise StoreError(f"row {row}: the store has rows 0 to {len(self) - 1}")
        return int(row)


def open_store(location: str | os.PathLike[str]) -> Store:
    """Open a store for reading.

    location: a folder, or the URL of an object store (``s3://bucket/name.zarr``, ``gs://``, ``az://``; needs the extra
    ``s3``; credentials come from the environment). Data are read on demand. Raises ``mocrop.StoreError`` if there is
    no store, or it has another format.

    >>> store = mocrop.open_store("videos.zarr")
    >>> store
    Store('videos.zarr': 12 of 12 clips done, views full, centre, random, mocrop)
    >>> store.boxes("mocrop").shape
    (12, 4)
    """
    return Store(os.fspath(location))
