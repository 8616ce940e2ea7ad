"""The store, format 2: its arrays with their dimensions, types, chunks and fill values.

One Zarr v3 group. Row ``i`` of every array with the dimension ``clip`` is the same clip. Three kinds of array:

- *tables* (one chunk for all rows), written by the run's coordinator alone;
- *shard arrays* (one chunk or Zarr shard for ``shard_clips`` rows), each shard written by one task alone;
- *motion* (`data_specs.motion_format`), one array per shard of clips, written by one task alone, because its length is
  not known in advance.

``progress/<stage>[/<view>]/<shard>`` are groups without arrays: their attributes are the completion record of the
shard, with its inputs and results. A shard without a record is not done, even if it has chunks. Of a finished store
with many shards, they are packed (`data_specs.record_packs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from data_specs.windows import MOST_SECONDS

FORMAT = 2
STAGES = ("transcode", "motion", "boxes", "clips")
VIEW_STAGES = ("boxes", "clips")  # stages with one record per view


NOTES = {
    "stream": "one of several video streams was chosen",
    "damage": "packets that could not be decoded",
    "interlaced": "frames that hold two moments in alternate lines",
    "missing": "fewer frames than the container says",
}
"""Kinds of notes: what was passed over, chosen or repaired in a clip that was processed successfully.

The row of a clip in a record of the stage transcode or motion may hold ``notes``: for each kind, one line of text
without folders or addresses.
"""


MAX_CLIPS = 4_000_000
"""Maximum rows of a store: six times those of Kinetics-700. Their ids alone take 0.5 GB of memory."""
MAX_CLASSES = 1 << 15  # labels are int16
MAX_FRAMES = 10_000_000  # of one clip: 46 hours at 60 frames a second
MAX_SEGMENTS = 1000  # parts of a clip, each with its own box
MAX_SIDE = 1 << 16  # of a frame, px
MAX_VECTORS = 1 << 36  # of one shard; 1024 clips of an hour each have 2**35
MAX_ID, MAX_TEXT_BYTES, MAX_TEXTS_BYTES = 1024, 1 << 12, 1 << 28  # characters of an id; bytes of one string, and of all
MAX_DOCUMENT = 1 << 26  # bytes of a zarr.json: a record of 1024 clips with 9000 key frames each takes 55 MB
SEPARATOR = "."  # in the key of a chunk or shard, such as c.3.0: an array has no folders below its own


RANGES: dict[str, tuple[int, int]] = {
    "label": (-1, MAX_CLASSES - 1),
    "split": (0, 3),
    "state": (0, 2),
    "num_frames": (0, MAX_FRAMES),
    "frame_size": (0, MAX_SIDE),
    "window": (0, MOST_SECONDS),
    "first_frame": (0, MAX_FRAMES),
    "box": (0, MAX_SIDE),
    "frame_box": (0, MAX_SIDE),
    "score": (0, 1),
    "source": (0, 3),
    "frame_index": (-1, MAX_FRAMES - 1),
}
"""The lowest and highest valid value of an array, by its name; NaN is not checked."""


class State(IntEnum):
    """The state of a clip: the values of the array ``state``."""

    PENDING = 0
    DONE = 1
    QUARANTINED = 2


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """An array of the store, in the terms of ``zarr.create_array``.

    ``shape`` and ``chunks`` are in elements; ``shards`` is None for an array without sharding; ``dims`` are the
    dimension names; ``fill`` is the value of unwritten rows; ``frames`` marks the arrays of frames, whose codec the
    recipe sets.
    """

    path: str
    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dims: tuple[str, ...]
    fill: int | float | str
    about: str
    shards: tuple[int, ...] | None = None
    frames: bool = False


_Row = tuple[str, str, tuple[tuple[str, int], ...], int | float | str, str]


def tables(clips: int) -> list[ArraySpec]:
    """The arrays with one row per clip that every store has."""
    rows: list[_Row] = [
        ("id", "string", (), "", "path in the source folder, without its suffix"),
        ("label", "int16", (), -1, "0-based index in class_names"),
        ("split", "uint8", (("list", 3),), 0, "in the splits 1, 2, 3: 0 in none, 1 train, 2 test, 3 validation"),
        ("state", "uint8", (), 0, "0 pending, 1 done, 2 quarantined"),
        ("reason", "string", (), "", "why it is quarantined, as '<stage>: <what>'"),
        ("num_frames", "int32", (), 0, "frames decoded from the H.264 file"),
        ("frame_size", "int32", (("hw", 2),), 0, "height and width of a frame, px"),
        ("group", "string", (), "", "recording that the clip is cut from; empty if unknown"),
        (
            "video",
            "string",
            (),
            "",
            "path of the video that the clip is a window of; empty if it is whole",
        ),
        (
            "window",
            "float64",
            (("start_end", 2),),
            float("nan"),
            "start and end in that video, s; NaN if the clip is whole",
        ),
        ("first_frame", "int32", (), 0, "frame of the source video that is frame 0 of the clip"),
    ]
    return [_table(name, dtype, clips, inner, fill, about) for name, dtype, inner, fill, about in rows]


def view_tables(view: str, clips: int, slots: int, moving: bool = False) -> list[ArraySpec]:
    """The arrays of a view with one small row per clip; ``moving``: the view's box moves."""
    rows: list[_Row] = [
        ("box", "int32", (("x0y0x1y1", 4),), 0, "half-open, px of the H.264 frame"),
        ("score", "float32", (), float("nan"), "share of the density inside the box"),
        ("source", "uint8", (), 0, "0 none, 1 motion, 2 fixed rule, 3 fallback: no motion"),
        ("frame_index", "int32", (("frame", slots),), -1, "in the H.264 file; -1 where the slot is empty"),
    ]
    if moving:
        about = "the box of each cached frame, half-open, px of the H.264 frame; 0 where the slot is empty"
        rows.append(("frame_box", "int32", (("frame", slots), ("x0y0x1y1", 4)), 0, about))
    return [
        _table(f"views/{view}/{name}", dtype, clips, inner, fill, about) for name, dtype, inner, fill, about in rows
    ]


def _table(
    path: str, dtype: str, clips: int, inner: tuple[tuple[str, int], ...], fill: int | float | str, about: str
) -> ArraySpec:
    shape = (clips, *(length for _, length in inner))
    return ArraySpec(path, dtype, shape, shape, ("clip", *(dim for dim, _ in inner)), fill, about)


def view_shards(
    view: str, clips: int, slots: int, size: int, shard_clips: int, grid: tuple[int, int] | None
) -> list[ArraySpec]:
    """The arrays of a view that are written by tasks: the frames, and the density of a motion view."""
    base, one = f"views/{view}", (1, 1, size, size, 3)
    rows = min(shard_clips, clips)
    arrays = [
        ArraySpec(
            f"{base}/frames", "uint8", (clips, slots, size, size, 3), one, ("clip", "frame", "y", "x", "channel"), 0,
            "RGB crops, resized to the recipe's size", shards=(rows, slots, size, size, 3), frames=True,
        )
    ]  # fmt: skip
    if grid is not None:
        arrays.append(
            ArraySpec(
                f"{base}/density", "float32", (clips, *grid), (rows, *grid), ("clip", "row", "col"), 0.0,
                "the map that the box was chosen on",
            )
        )  # fmt: skip
    return arrays


def largest_object(slots: int, size: int, shard_clips: int) -> int:
    """The maximum bytes of any object in a store: an uncompressed shard of frames, or a chunk of strings."""
    return max(shard_clips * slots * (size * size * 3 * 2 + 1040), MAX_TEXTS_BYTES) + (1 << 20)


def num_shards(clips: int, shard_clips: int) -> int:
    """The number of shards for ``clips`` rows."""
    return -(-clips // shard_clips)


def shard_rows(shard: int, clips: int, shard_clips: int) -> range:
    """The rows of a shard: ``shard_clips`` of them, fewer in the last one."""
    return range(shard * shard_clips, min((shard + 1) * shard_clips, clips))


def chunk_key(path: str, place: Sequence[int]) -> str:
    """The key of a chunk or shard of an array, by its place in the array's grid."""
    return f"{path}/c{SEPARATOR}{SEPARATOR.join(map(str, place))}"


def motion_path(shard: int) -> str:
    """The array of a shard's motion vectors."""
    return f"motion/{shard:05d}"


def progress_path(stage: str, view: str | None, shard: int) -> str:
    """The group whose attributes are a shard's record."""
    return "/".join(part for part in ("progress", stage, view, f"{shard:05d}") if part)


def all_arrays(
    clips: int, slots: int, size: int, shard_clips: int, views: Sequence[tuple[str, tuple[int, int] | None, bool]]
) -> list[ArraySpec]:
    """Every array that is created with the store; ``views`` holds names, the grid of a motion view or None, and
    whether the box moves."""
    arrays = tables(clips)
    for name, grid, moving in views:
        arrays += view_tables(name, clips, slots, moving)
        arrays += view_shards(name, clips, slots, size, shard_clips, grid)
    return arrays
