"""The clips of a split in a view: their rows in the store, labels, and numbers of cached frames."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from data_specs.datasets import TEST, TRAIN, VALIDATION
from data_specs.fingerprints import fingerprint
from data_specs.records import CropRow
from data_specs.schema import State, shard_rows
from data_specs.stored import Store, StoreError, View, open_store, shown

Part = Literal["train", "val", "test", "all"]
CODES: Mapping[str, int] = {"train": TRAIN, "val": VALIDATION, "test": TEST}
"""The value of each part in the store's table of splits."""
UCF_GROUP = re.compile(r"(.+_g\d+)_c\d+$")
"""Matches the id of a UCF-101 clip; its group is the video that the clip was cut from."""


@dataclass(frozen=True, slots=True, eq=False)
class Clips:
    """The n clips of one list of a split, in the order of the store's rows; small enough to send between processes.

    ``rows``, ``labels`` and ``frames`` are int64 (n,): the row in the store, the 0-based label, and the number of
    cached frames, >= 1, which fill the first slots. ``box_sizes`` is int64 (n, 2): width and height of the box, px.
    ``groups`` has the recording that each clip is cut from, "" if unknown.
    ``size`` is the side of a cached frame, px. ``part`` "all" (with split 0) means all finished clips.
    """

    location: str
    view: str
    split: int
    part: Part
    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    ids: tuple[str, ...]
    frames: npt.NDArray[np.int64]
    box_sizes: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    size: int
    groups: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of ids, labels and numbers of cached frames."""
        return fingerprint("clips", self.ids, self.labels.tolist(), self.frames.tolist(), self.class_names)


def read_clips(location: str, view: str, split: int, part: Part) -> Clips:
    """Read the finished clips of one part of split 1, 2 or 3.

    ``StoreError`` for a store that is missing, of another format, unfinished, or without the view or the list, whose
    train list shares a group with the test list (with the validation list for the part ``val``), or whose labels do not
    match its class names.
    """
    store = open_store(location)
    where = f"store {shown(location)!r}"
    cached = store.view(view)
    done = _done(store, where)
    lists = store.table("split")[:, split - 1]
    rows = np.flatnonzero(done & (lists == CODES[part]))
    if not len(rows):
        raise StoreError(f"{where}: no clip in the {part} list of split {split}{_other_splits(store, part)}")
    _check_groups(store, lists, split, "val" if part == "val" else "test", where)
    return _clips_of(store, where, cached, split, part, rows)


def read_all_clips(location: str, view: str) -> Clips:
    """Read all finished clips, in any list or none. ``StoreError`` as in `read_clips`, except for lists."""
    store = open_store(location)
    where = f"store {shown(location)!r}"
    cached = store.view(view)
    rows = np.flatnonzero(_done(store, where))
    if not len(rows):
        raise StoreError(f"{where}: all of its clips are quarantined; mocrop status says why")
    return _clips_of(store, where, cached, 0, "all", rows)


def _done(store: Store, where: str) -> npt.NDArray[np.bool_]:
    state = store.table("state")
    if (state == State.PENDING).any():
        raise _unfinished(store, where)
    return np.asarray(state == State.DONE)


def _clips_of(store: Store, where: str, cached: View, split: int, part: Part, rows: npt.NDArray[np.int64]) -> Clips:
    labels = store.table("label").astype(np.int64)
    _check_labels(store, labels, where)
    filled = cached.table("frame_index") >= 0
    frames = filled.sum(axis=1)
    if not frames[rows].all():
        raise _unfinished(store, where)
    x0, y0, x1, y1 = cached.table("box")[rows].T.astype(np.int64)
    _check_rows(store, where, rows[(x0 >= x1) | (y0 >= y1)], "the box of clip {} is empty")
    gaps = np.asarray(filled[rows, 1:] & ~filled[rows, :-1]).any(axis=1)
    _check_rows(store, where, rows[np.asarray(gaps)], "the frames of clip {} have a gap")
    return Clips(
        location=store.location,
        view=cached.name,
        split=split,
        part=part,
        rows=rows,
        labels=labels[rows],
        ids=tuple(store.ids[row] for row in rows),
        frames=frames[rows],
        box_sizes=np.stack([x1 - x0, y1 - y0], axis=1),
        class_names=tuple(store.class_names),
        size=store.recipe.frames.size,
        groups=tuple(map(str, store.table("group")[rows])),
    )


def _check_rows(store: Store, where: str, wrong: npt.NDArray[np.int64], what: str) -> None:
    if len(wrong):
        clip = repr(store.ids[wrong[0]])
        raise StoreError(f"{where}: {what.format(clip)}; mocrop verify says what else is damaged")


def _unfinished(store: Store, where: str) -> StoreError:
    """Return the error for an unfinished store, from its records: a killed run has not written its tables."""
    done = set.intersection(*(set(store.records(CropRow, view)) for view in store.views))
    sizes = [len(shard_rows(shard, len(store.ids), store.recipe.clips_per_shard)) for shard in range(store.num_shards)]
    pending = sum(size for shard, size in enumerate(sizes) if shard not in done)
    what = f"{pending} of {len(store.ids)} clips are pending" if pending else "its tables are not written"
    return StoreError(
        f"{where}: unfinished, {what}; finish it with the mocrop preprocess --source … "
        f"--store {shown(store.location)} that began it"
    )


def _other_splits(store: Store, part: Part) -> str:
    lists = store.table("split") == CODES[part]
    if there := [str(split) for split in (1, 2, 3) if lists[:, split - 1].any()]:
        return f"; split {', '.join(there)} has one"
    if part == "test" and (store.table("split") == VALIDATION).any():
        return "; it has a validation list: to test on its clips, put them into the test part of a new store"
    return "; give mocrop preprocess a clip table with --clips, or lists with --splits"


def _check_groups(store: Store, lists: npt.NDArray[np.uint8], split: int, other: Part, where: str) -> None:
    """Check that no group, the store's or ``v_Class_gNN`` of UCF-101, is in both train and the other list."""
    sides: dict[int, set[str]] = {TRAIN: set(), CODES[other]: set()}
    for id, group, side in zip(store.ids, store.table("group").tolist(), lists.tolist(), strict=True):
        match = UCF_GROUP.match(id)
        if side in sides and (name := group or (match[1] if match else "")):
            sides[side].add(name)
    if shared := sorted(sides[TRAIN] & sides[CODES[other]]):
        raise StoreError(
            f"{where}: train and {other} of split {split} share {len(shared)} groups of clips ({shared[0]!r} first); "
            "use lists that keep groups together"
        )


def _check_labels(store: Store, labels: npt.NDArray[np.int64], where: str) -> None:
    """Labels are indices into the class names; a clip table may give a clip another class than its folder's."""
    wrong = np.flatnonzero((labels < 0) | (labels >= len(store.class_names)))
    if len(wrong):
        row, classes = wrong[0], len(store.class_names)
        raise StoreError(
            f"{where}: the label {labels[row]} of clip {store.ids[row]!r} is none of its {classes} classes; "
            "create the store again"
        )
