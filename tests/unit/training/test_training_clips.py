"""Which clips a training or a test gets, and which stores it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import zarr

from data_specs.stored import StoreError, open_store
from training.clips import read_clips


def rewrite(store: Path, name: str, values: Any) -> None:
    """Put other values into a table of a store."""
    cast("zarr.Array[Any]", zarr.open_group(store, mode="r+")[name])[:] = values


def test_the_lists_of_a_split_are_those_of_the_store(ucf_store: Path) -> None:
    store = open_store(ucf_store)
    lists, labels = store.table("split"), store.table("label")
    seen = 0
    for split in (1, 2, 3):
        train, test = (read_clips(str(ucf_store), "mocrop", split, part) for part in ("train", "test"))
        assert sorted([*train.rows, *test.rows]) == list(range(15))
        assert (lists[train.rows, split - 1] == 1).all()
        assert (lists[test.rows, split - 1] == 2).all()
        for clips in (train, test):
            assert clips.labels.tolist() == labels[clips.rows].tolist()
            assert [store.ids[row] for row in clips.rows] == list(clips.ids)
            assert clips.class_names[clips.labels[0]] == clips.ids[0].split("/")[0]
            seen += len(clips)
    assert seen == 45


def test_a_clip_counts_only_frames_that_are_cached(ucf_store: Path) -> None:
    clips = read_clips(str(ucf_store), "full", 1, "test")
    index = open_store(ucf_store).view("full").table("frame_index")[clips.rows]
    assert ((index >= 0).sum(axis=1) == clips.frames).all()
    assert clips.box_sizes.tolist() == [[320, 240]] * len(clips)


def test_quarantined_clips_are_left_out(own_ucf_store: Path) -> None:
    state = open_store(own_ucf_store).table("state")
    before = read_clips(str(own_ucf_store), "full", 1, "test")
    state[before.rows[0]] = 2
    rewrite(own_ucf_store, "state", state)
    assert read_clips(str(own_ucf_store), "full", 1, "test").ids == before.ids[1:]


def test_an_unfinished_store_is_refused_with_the_number_and_the_command(own_ucf_store: Path) -> None:
    """As SIGKILL leaves it: no table is written yet, the records say what is done."""
    rewrite(own_ucf_store, "state", 0)
    command = r"; finish it with the mocrop preprocess --source … --store .*ucf\.zarr that began it"
    with pytest.raises(StoreError, match=f"unfinished, its tables are not written{command}"):
        read_clips(str(own_ucf_store), "full", 1, "train")
    shutil.rmtree(own_ucf_store / "progress" / "clips" / "mocrop" / "00001")
    shutil.rmtree(own_ucf_store / "progress" / "clips" / "full" / "00003")
    for view in ("full", "mocrop"):
        with pytest.raises(StoreError, match=f"unfinished, 7 of 15 clips are pending{command}"):
            read_clips(str(own_ucf_store), view, 1, "train")


def test_a_view_that_was_being_added_is_unfinished_not_damaged(own_ucf_store: Path) -> None:
    """As SIGKILL leaves it: the clips are done in the views of before."""
    rewrite(own_ucf_store, "views/mocrop/frame_index", -1)
    for shard in (0, 2):
        shutil.rmtree(own_ucf_store / "progress" / "clips" / "mocrop" / f"{shard:05d}")
    with pytest.raises(StoreError, match=r"unfinished, 8 of 15 clips are pending; finish it with the mocrop preproc"):
        read_clips(str(own_ucf_store), "mocrop", 1, "train")
    assert len(read_clips(str(own_ucf_store), "full", 1, "train")) == 5


def test_a_store_that_is_not_there_or_of_another_format_is_refused(own_ucf_store: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such store; create it with mocrop preprocess"):
        read_clips(str(tmp_path / "nothing.zarr"), "full", 1, "train")
    zarr.open_group(own_ucf_store, mode="r+").attrs["mocrop_format"] = 7
    with pytest.raises(StoreError, match="format 7; this version reads format 2"):
        read_clips(str(own_ucf_store), "full", 1, "train")


def test_a_view_that_is_not_there_is_refused_with_those_that_are(ucf_store: Path) -> None:
    with pytest.raises(StoreError, match=r"'speed' is not in .*full, centre, random, mocrop"):
        read_clips(str(ucf_store), "speed", 1, "train")


def test_a_split_without_a_list_is_refused_with_those_that_have_one(own_ucf_store: Path) -> None:
    lists = open_store(own_ucf_store).table("split")
    lists[lists[:, 1] == 2, 1] = 0
    rewrite(own_ucf_store, "split", lists)
    with pytest.raises(StoreError, match="no clip in the test list of split 2; split 1, 3 has one"):
        read_clips(str(own_ucf_store), "full", 2, "test")
    rewrite(own_ucf_store, "split", np.zeros_like(lists))
    with pytest.raises(StoreError, match="give mocrop preprocess a clip table with --clips, or lists"):
        read_clips(str(own_ucf_store), "full", 1, "train")


def test_validation_clips_are_neither_trained_nor_tested_on(own_ucf_store: Path) -> None:
    lists = open_store(own_ucf_store).table("split")
    before = {part: read_clips(str(own_ucf_store), "full", 1, part).rows for part in ("train", "test")}
    lists[before["train"][0], 0] = lists[before["test"][0], 0] = 3
    rewrite(own_ucf_store, "split", lists)
    for part, rows in before.items():
        assert read_clips(str(own_ucf_store), "full", 1, part).rows.tolist() == rows[1:].tolist()
    rewrite(own_ucf_store, "split", np.where(lists == 2, 3, lists))
    with pytest.raises(
        StoreError, match=r"the test list of split 1; it has a validation list: .* into the test part of a new store"
    ):
        read_clips(str(own_ucf_store), "full", 1, "test")


def test_a_clip_may_have_another_class_than_its_folder_by_a_clip_table(own_ucf_store: Path) -> None:
    store = open_store(own_ucf_store)
    labels = store.table("label")
    labels[4] = store.class_names.index("Archery")
    rewrite(own_ucf_store, "label", labels)
    assert store.ids[4].startswith("BabyCrawling/")
    clips = read_clips(str(own_ucf_store), "full", 1, "train")
    assert clips.labels[clips.rows.tolist().index(4)] == labels[4]


def test_train_and_test_must_not_share_a_group(own_ucf_store: Path) -> None:
    ids = open_store(own_ucf_store).table("id")
    ids[:2] = ["Archery/v_Archery_g07_c01", "Archery/v_Archery_g07_c02"]
    rewrite(own_ucf_store, "id", ids)
    assert open_store(own_ucf_store).table("split")[:2, 0].tolist() == [2, 1]
    with pytest.raises(StoreError, match=r"split 1 share 1 groups.*'Archery/v_Archery_g07' first"):
        read_clips(str(own_ucf_store), "full", 1, "train")


def test_train_and_validation_must_not_share_a_group_where_it_chooses_the_epoch(own_ucf_store: Path) -> None:
    store = open_store(own_ucf_store)
    ids, lists = store.table("id"), store.table("split")
    ids[:2] = ["Archery/v_Archery_g07_c01", "Archery/v_Archery_g07_c02"]
    lists[:2, 0] = 3, 1
    rewrite(own_ucf_store, "id", ids)
    rewrite(own_ucf_store, "split", lists)
    assert read_clips(str(own_ucf_store), "full", 1, "test").part == "test"
    with pytest.raises(StoreError, match="train and val of split 1 share 1 groups of clips"):
        read_clips(str(own_ucf_store), "full", 1, "val")


@pytest.mark.parametrize("label", [101, -1])
def test_labels_must_fit_the_class_names(own_ucf_store: Path, label: int) -> None:
    labels = open_store(own_ucf_store).table("label")
    labels[4] = label
    rewrite(own_ucf_store, "label", labels)
    with pytest.raises(StoreError, match=rf"label {label} of clip 'BabyCrawling/v_BabyCrawling_g11_c01'"):
        read_clips(str(own_ucf_store), "full", 1, "train")
