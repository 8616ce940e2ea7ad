"""Split lists: what their names say, and which clip and label a line means; what is unclear is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from data_specs.datasets import TEST, TRAIN, VALIDATION, DatasetError, read_dataset
from data_specs.split_lists import split_and_part
from tests.unit.data_specs.test_datasets import lists, make


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("trainlist01.txt", (1, TRAIN)),
        ("testlist03.txt", (3, TEST)),
        ("train.txt", (1, TRAIN)),
        ("TRAIN_LIST.txt", (1, TRAIN)),
        ("val.txt", (1, VALIDATION)),
        ("validation2.txt", (2, VALIDATION)),
        ("myTrainList2.txt", (2, TRAIN)),
        ("sthv2_train_list.txt", (1, TRAIN)),
        ("something-something-v2-validation.txt", (1, VALIDATION)),
        ("kinetics400_train.txt", (1, TRAIN)),
        ("kinetics_400_val.txt", (1, VALIDATION)),
        ("ucf101_split2_train.txt", (2, TRAIN)),
        ("hmdb51_test_split_3_videos.txt", (3, TEST)),
        ("ucf101_s2_train.txt", (2, TRAIN)),
        ("retrieval_notes.txt", None),
        ("latest.txt", None),
        ("constraints.txt", None),
        ("readme.txt", None),
    ],
)
def test_a_lists_name_says_its_part_and_split_and_no_digit_of_the_data_set_does(
    name: str, place: tuple[int, int] | None
) -> None:
    assert split_and_part(name) == place


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("train_test.txt", "its name says train and test; give one"),
        ("train1_split2.txt", "its name gives the splits 1, 2; give one"),
        ("train_2019.txt", "split 2019; a store has the splits 1, 2 and 3"),
        ("fold0_train.txt", "split 0; a store has"),
        ("2_train.txt", "it is not clear what 2 stands for"),
        ("train01 (2).txt", "it is not clear what 2 stands for"),
    ],
)
def test_a_name_that_leaves_the_part_or_the_split_open_is_refused(name: str, line: str) -> None:
    with pytest.raises(DatasetError, match=f"^{re.escape(f'{name}: {line}')}"):
        split_and_part(name)


def test_two_lists_of_one_part_are_refused_and_not_merged(tmp_path: Path) -> None:
    source = make(tmp_path / "videos", "a/1.avi", "a/2.avi")
    splits = lists(tmp_path / "lists", train_v1="a/1.avi 0\n", train_v2="a/2.avi 0\n")
    with pytest.raises(DatasetError, match=r"'train_v1\.txt' and 'train_v2\.txt' are both the train list of split 1"):
        read_dataset(source, splits)


def test_train_test_and_validation_are_three_parts(tmp_path: Path) -> None:
    source = make(tmp_path / "videos", "a/1.avi", "a/2.avi", "b/3.avi", "b/4.avi")
    splits = lists(tmp_path / "lists", train="a/1.avi 0\n", val="a/2.avi 0\n", test="b/3.avi 1\n")
    assert [clip.split[0] for clip in read_dataset(source, splits).clips] == [TRAIN, VALIDATION, TEST, 0]


def test_files_beside_the_lists_are_counted(tmp_path: Path) -> None:
    source = make(tmp_path / "videos", "a/1.avi")
    splits = lists(tmp_path / "lists", train="a/1.avi 0\n", retrieval_notes="x", latest="y")
    make(splits, "train.csv", "._train.txt")
    assert list(map(str, read_dataset(source, splits).passed_over)) == [
        "1 passed over, hidden: '._train.txt'",
        "3 passed over, not a list, judging by its name: 'latest.txt', 'retrieval_notes.txt', 'train.csv'",
    ]
    for name in ("train.txt", "._train.txt"):
        (splits / name).unlink()
    with pytest.raises(DatasetError, match="3 passed over, not a list, judging by its name: 'latest"):
        read_dataset(source, splits)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("a/x.avi", "a/x 1"),
        ("a/x.avi", "./a/x 1"),
        ("a/x.avi", "a\\x.mp4 1"),
        ("a/x y.avi", "a/x y 1"),
        ("a/x 7.avi", "a/x 7 1"),
        ("a b/x.mp4", "a b/x.mp4 1"),
        ("a b/x (2) z.mp4", "a b/x (2) z.avi 1"),
        ("a b/x.mp4", "a b/x 1"),
        ("a/x.mp4", "a/x.mp4 Apply Make-up 1"),
        ("a/x.mp4", "a/x Apply Make-up 1"),
        ("a/x.avi.mp4", "a/x.avi 1"),
        ("a.avi b/x.avi", "a.avi b/x.avi 1"),
        ("001/002.avi", "001/002 1"),
        ("caf\u00e9/\u00c9.avi", "cafe\u0301/E\u0301.avi 1"),
        ("cafe\u0301/e\u0301.avi", "caf\u00e9/\u00c9 1"),
    ],
)
def test_a_line_of_a_list_finds_its_file(tmp_path: Path, file: str, line: str) -> None:
    source = make(tmp_path / "videos", file, "zero/0.avi")
    dataset = read_dataset(source, lists(tmp_path / "lists", train=f"zero/0 0\n{line}\n"))
    clip = next(clip for clip in dataset.clips if clip.path == file)
    assert (clip.label, clip.split[0]) == (1, TRAIN)
    assert dataset.warnings == ()


def test_a_number_at_the_end_of_a_name_is_no_label(tmp_path: Path) -> None:
    source = make(tmp_path / "videos", "a/clip 7.avi", "a/clip 8.avi", "b/x.avi")
    splits = lists(tmp_path / "lists", train="a/clip 7.avi 0\nb/x.avi 1\n", test="a/clip 8\n")
    assert [(clip.label, clip.split[0]) for clip in read_dataset(source, splits).clips] == [(0, 1), (0, 2), (1, 1)]


def test_ids_that_differ_in_case_alone_are_matched_exactly(tmp_path: Path) -> None:
    source = make(tmp_path / "videos", "a/X.avi", "a/x.avi", "A/x.avi")
    splits = lists(tmp_path / "lists", train="a/x.avi 0\nA/x.avi 1\n", test="a/X 0\n")
    dataset = read_dataset(source, splits)
    assert [(clip.id, clip.label, clip.split[0]) for clip in dataset.clips] == [
        ("A/x", 1, TRAIN),
        ("a/X", 0, TEST),
        ("a/x", 0, TRAIN),
    ]
    assert dataset.class_names == ("a", "A")


def test_a_class_folder_matches_its_name_in_another_unicode_form(tmp_path: Path) -> None:
    source = make(tmp_path / "videos", "Cafe\u0301/x.avi", "cafe/x.avi")
    splits = lists(tmp_path / "lists", classInd="1 Caf\u00e9\n2 Cafe\n", trainlist01="cafe/x.avi 2\n")
    assert [clip.label for clip in read_dataset(source, splits).clips] == [0, 1]


def test_labels_below_folders_of_parts_get_the_names_of_the_class_folders(tmp_path: Path) -> None:
    source = make(tmp_path / "videos", "train/a/1.mp4", "train/b/2.mp4", "val/a/3.mp4", "val/b/4.mp4")
    splits = lists(tmp_path / "lists", train="train/a/1.mp4 0\ntrain/b/2.mp4 1\n", val="val/a/3.mp4 0\nval/b/4.mp4\n")
    dataset = read_dataset(source, splits)
    assert dataset.class_names == ("a", "b")
    assert [clip.label for clip in dataset.clips] == [0, 1, 0, 1]
    with pytest.raises(DatasetError, match=r"its folders \(train, val\) are parts of a data set, not classes"):
        read_dataset(source)


def test_labels_that_share_a_folder_do_not_share_its_name(tmp_path: Path) -> None:
    source = make(tmp_path / "data", "videos/1.mp4", "videos/2.mp4")
    splits = lists(tmp_path / "lists", train="videos/1.mp4 0\nvideos/2.mp4 1\n")
    assert read_dataset(source, splits).class_names == ("class_0", "class_1")
