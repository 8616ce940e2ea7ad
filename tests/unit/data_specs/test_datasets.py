"""Folders of clips and their split lists."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_specs import split_lists, ucf101
from data_specs.datasets import TEST, TRAIN, DatasetError, read_dataset
from data_specs.split_lists import read_class_index


def make(root: Path, *names: str) -> Path:
    """A folder with empty files of these names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def lists(root: Path, **files: str) -> Path:
    """A folder with list files; their ``_`` stands for the dot before txt."""
    root.mkdir(exist_ok=True)
    for name, text in files.items():
        (root / f"{name}.txt").write_text(text)
    return root


def test_ucf101_has_its_published_counts(data: Path) -> None:
    assert read_class_index(data / "ucfTrainTestlist" / "classInd.txt") == ucf101.CLASSES
    assert len(set(ucf101.CLASSES)) == 101
    for split, (train, test) in ucf101.SPLITS.items():
        folder = data / "ucfTrainTestlist"
        listed = [len((folder / f"{part}list0{split}.txt").read_text().split("\n")) for part in ("train", "test")]
        assert train + test == ucf101.CLIPS
        assert [count - 1 for count in listed] == [train, test]


def test_official_lists_give_labels_and_splits(data: Path) -> None:
    dataset = read_dataset(data / "UCF-101", data / "ucfTrainTestlist")
    assert dataset.name == "UCF-101"
    assert [clip.id for clip in dataset.clips] == sorted(clip.id for clip in dataset.clips)
    assert len(dataset.clips) == 15
    one = next(clip for clip in dataset.clips if clip.id == "Basketball/v_Basketball_g01_c01")
    assert (one.label, one.split) == (ucf101.CLASSES.index("Basketball"), (TEST, TRAIN, TRAIN))
    assert dataset.warnings[0].startswith("13305 listed clips are not in the source folder")


def test_only_ucf101s_own_classes_are_called_by_its_name(data: Path, synth_data: Path, tmp_path: Path) -> None:
    assert read_dataset(data / "UCF-101").name == "UCF-101", "14 of the classes"
    assert read_dataset(make(tmp_path / "mine", "Biking/1.avi", "Archery/2.avi")).name == "mine"
    assert read_dataset(synth_data / "UCF-101").name == synth_data.name
    assert read_dataset(synth_data / "UCF-101", synth_data / "ucfTrainTestlist").name == synth_data.name


def test_strict_refuses_lists_that_name_missing_clips(data: Path) -> None:
    with pytest.raises(DatasetError, match="13305 listed clips"):
        read_dataset(data / "UCF-101", data / "ucfTrainTestlist", strict=True)


def test_the_folder_above_ucf101_will_do(data: Path) -> None:
    assert read_dataset(data).clips == read_dataset(data / "UCF-101").clips


def test_without_lists_classes_are_the_folders_in_order(tmp_path: Path) -> None:
    dataset = read_dataset(make(tmp_path, "b/2.avi", "a/1.MP4", "a/notes.txt", "c/3.mkv"))
    assert dataset.class_names == ("a", "b", "c")
    assert [(clip.id, clip.label, clip.split) for clip in dataset.clips] == [
        ("a/1", 0, (0, 0, 0)),
        ("b/2", 1, (0, 0, 0)),
        ("c/3", 2, (0, 0, 0)),
    ]


def test_the_case_of_handstand_pushups_does_not_matter(tmp_path: Path) -> None:
    source = make(tmp_path / "videos", "HandstandPushups/v_HandStandPushups_g01_c01.avi")
    splits = lists(
        tmp_path / "lists",
        classInd="1 HandStandPushups\r\n",
        trainlist01="HandStandPushups/v_HandstandPushups_g01_c01.avi 1\r\n",
    )
    (clip,) = read_dataset(source, splits).clips
    assert (clip.id, clip.label, clip.split[0]) == ("HandstandPushups/v_HandStandPushups_g01_c01", 0, TRAIN)


def test_plain_lists_count_labels_from_0_and_may_be_flat(tmp_path: Path) -> None:
    source = make(tmp_path / "videos", "x.avi", "y.avi", "z.mp4")
    splits = lists(tmp_path / "lists", train="x.avi 1\nz.mp4 0\n", test="y.avi 1\n")
    dataset = read_dataset(source, splits)
    assert [(clip.id, clip.label, clip.split[0]) for clip in dataset.clips] == [("x", 1, 1), ("y", 1, 2), ("z", 0, 1)]
    assert dataset.class_names == ("class_0", "class_1")


def test_lists_with_a_class_name_between_path_and_label_are_read(tmp_path: Path) -> None:
    source = make(tmp_path / "videos", "Archery/a.avi", "Biking/b.avi")
    splits = lists(tmp_path / "lists", ucf101_split2_train="Archery/a.avi Archery 0\nBiking/b.avi Biking 1\n")
    dataset = read_dataset(source, splits)
    assert dataset.class_names == ("Archery", "Biking")
    assert Counter(clip.split for clip in dataset.clips) == {(0, TRAIN, 0): 2}


@pytest.mark.parametrize(
    ("names", "files", "line"),
    [
        (["b/1.avi"], {"classInd": "1 a\n", "trainlist01": "a/1.avi 1\n"}, "class 'b' of 'b/1' is not in"),
        (["a/1.avi"], {"classInd": "1 a\n", "trainlist01": "../x.avi 1\n"}, "leaves the source folder"),
        (["a/1.avi"], {"classInd": "1 a\n", "trainlist01": "/x.avi 1\n"}, "leaves the source folder"),
        (
            ["a/1.avi"],
            {"classInd": "1 a\n3 b\n", "trainlist01": "a/1.avi 1\n"},
            "the labels are not the numbers 1 to 2",
        ),
        (["a/1.avi"], {"classInd": "a 1\n", "trainlist01": "a/1.avi 1\n"}, "expected a unique label of at least 1"),
        (["a/1.avi"], {"classInd": "1 a\n", "trainlist01": "a/1.avi 0\n"}, "labels count from 1"),
        (["a/1.avi"], {"classInd": "1 a\n2 b\n", "trainlist01": "a/1.avi 2\n"}, "listed with label 2, but its folder"),
        (["a/1.avi"], {"classInd": "1 a\n"}, "holds no list"),
        (["a/1.avi"], {"train": "a/1.avi 0\n", "test": "a/1.avi 0\n"}, "in both the train and the test list"),
        (["a/1.avi"], {"train1": "a/1.avi 0\n", "train2": "a/1.avi 1\n"}, "has label 1 here and 0 elsewhere"),
        (["a/1.avi"], {"train4": "a/1.avi 0\n"}, "split 4; a store has"),
        (["1.avi"], {"train": "2.avi 0\n"}, "gives 1 videos a label"),
        (["a/1.avi"], {"train": "a/1.avi 40000\n"}, "line 1: label 40000; labels count from 0 to 32767 here"),
        (["a/1.avi"], {"train": "a/1.avi 20130412\n"}, "label 20130412; labels count from 0 to 32767 here"),
        (["a/1.avi"], {"train": f"a/1.avi {'9' * 5000}\n"}, "label 9{40}; labels count from"),
        (["a/1.avi"], {"train": "a/1.avi --5\n"}, "label --5; labels count from"),
        (["a/1.avi"], {"train": "a/1.avi -5\n"}, "label -5; labels count from"),
        (["a/1.avi"], {"train": "a/1.avi ²\n"}, "label ²; labels count from"),
        (["a/1.avi"], {"train": "a/1.avi 0\n", "val": "a/1.avi 0\n"}, "in both the train and the validation list of"),
        (["a/1.avi"], {"train": "a/1.avi 1\nb/1.avi 2\n"}, r"train\.txt line 1: label 1 is the smallest of all lists"),
        (["a/1.avi"], {"train": "a/1.avi 0\nb/1.avi 3 5\n"}, r"line 2: 'b/1\.avi' has 2 labels, 3 and 5; a clip has"),
        (["a/1.avi"], {"train": "a/1 3 5\n"}, "line 1: 'a/1' has 2 labels, 3 and 5; a clip has one"),
        (["a/1.avi"], {"train": "b/1 3 5\n"}, "line 1: 'b/1' has 2 labels, 3 and 5; a clip has one"),
        (["a/1.avi"], {"train": "a/1.avi a\n"}, r"'a' after 'a/1\.avi' is not a label; a line is a path and a number"),
        (["a/1.avi"], {"train": "a/1.avi a/2.avi 0\n"}, r"'a/2\.avi 0' after 'a/1\.avi' is not a label"),
        (
            ["a/1.avi"],
            {"classInd": "1 a\n", "trainlist01": "b/1.avi 2\n"},
            "label 2; classInd.txt has the labels 1",
        ),
        (["a/x.avi", "a/x 3.avi"], {"train": "a/x 3\n"}, "line 1: 'a/x 3' may mean 'a/x' or 'a/x 3'; write paths with"),
        (["a/X.avi", "a/x.avi"], {"train": "A/x.avi 0\n"}, "line 1: 'A/x.avi' may mean 'a/X' or 'a/x'; use one of"),
        (
            ["a/x.avi"],
            {"train": "a/x.avi 0\nA/x.avi 0\n"},
            r"'A/x\.avi' and 'a/x\.avi' \(train\.txt line 1\) both mean",
        ),
        (["A/x.avi"], {"classInd": "1 Aa\n2 aA\n", "trainlist01": ""}, "class 'A' of 'A/x' is not in"),
        (["AA/x.avi"], {"classInd": "1 Aa\n2 aA\n", "trainlist01": ""}, "class 'AA' of 'AA/x' may be 'Aa' or 'aA'"),
        (["a/1.avi"], {"classInd": "² a\n", "train": "a/1.avi 1\n"}, "expected a unique label of at least 1"),
    ],
)
def test_lists_that_do_not_fit_are_refused_in_one_line(
    tmp_path: Path, names: list[str], files: dict[str, str], line: str
) -> None:
    source, splits = make(tmp_path / "videos", *names), lists(tmp_path / "lists", **files)
    with pytest.raises(DatasetError, match=line) as caught:
        read_dataset(source, splits)
    assert "\n" not in str(caught.value)


def test_labels_up_to_the_largest_that_a_store_holds_are_read(tmp_path: Path) -> None:
    source = make(tmp_path / "videos", "a/1.avi", "a/clip 7.avi")
    splits = lists(tmp_path / "lists", train="a/1.avi 32767\na/clip 7.avi 007\nb/gone.avi 0\n")
    dataset = read_dataset(source, splits)
    assert [clip.label for clip in dataset.clips] == [32767, 7]
    assert "32765 of 32768 classes have no clip in any list (label 1 first)" in dataset.warnings
    assert np.int16(32767) == len(dataset.class_names) - 1


def test_more_classes_than_a_store_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(tmp_path / "videos", "a/1.avi", "b/1.avi", "c/1.avi")
    splits = lists(tmp_path / "lists", classInd="1 a\n2 b\n3 c\n", trainlist01="a/1.avi 1\n")
    assert len(read_dataset(source, splits).class_names) == 3
    monkeypatch.setattr(split_lists, "MAX_CLASSES", 2)
    with pytest.raises(DatasetError, match="videos': 3 classes; a store holds at most 2"):
        read_dataset(source)
    with pytest.raises(DatasetError, match=r"classInd\.txt: 3 classes; a store holds at most 2"):
        read_dataset(source, splits)


def test_folders_that_do_not_fit_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        read_dataset(tmp_path / "gone")
    with pytest.raises(DatasetError, match="holds no video"):
        read_dataset(tmp_path)
    with pytest.raises(DatasetError, match="have the same id 'a/1'"):
        read_dataset(make(tmp_path / "twice", "a/1.avi", "a/1.mp4"))
    with pytest.raises(DatasetError, match=r"1 of 2 videos are not in a class folder .*--clips .mocrop index"):
        read_dataset(make(tmp_path / "loose", "a/1.avi", "2.avi"))
    with pytest.raises(DatasetError, match="no such folder; give the folder that holds trainlist01"):
        read_dataset(make(tmp_path / "fine", "a/1.avi"), tmp_path / "gone")


def test_names_that_are_not_utf8_become_printable_ids(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/a/caf\xe9.avi")).touch()
    (clip,) = read_dataset(tmp_path).clips
    assert clip.id == "a/caf\\xe9"
    assert os.fsencode(clip.path) == b"a/caf\xe9.avi"


def test_folders_may_have_any_name_that_a_file_system_takes(tmp_path: Path) -> None:
    dataset = read_dataset(make(tmp_path, "a /1 .avi", "b\\..\\c/2.avi", "\x07/3.avi"))
    assert dataset.class_names == ("\\x07", "a ", "b\\..\\c")
    assert [clip.path for clip in dataset.clips] == ["\x07/3.avi", "a /1 .avi", "b\\..\\c/2.avi"]


def test_a_limit_takes_clips_from_all_over(tmp_path: Path) -> None:
    dataset = read_dataset(make(tmp_path, *(f"{name}/{i}.avi" for name in "abcd" for i in range(5))))
    assert [clip.id for clip in dataset.limited(4).clips] == ["a/0", "b/0", "c/0", "d/0"]
    assert dataset.limited(None) is dataset
    assert len(dataset.limited(99).clips) == 20
    with pytest.raises(DatasetError, match="limit 0"):
        dataset.limited(0)
