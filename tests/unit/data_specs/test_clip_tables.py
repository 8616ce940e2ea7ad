"""Clip tables: what a row means, and that whatever does not fit is counted and named with its line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_specs.clip_rows import Row
from data_specs.clip_tables import table_lines
from data_specs.datasets import TEST, TRAIN, VALIDATION, Dataset, DatasetError, read_dataset
from data_specs.stored import open_store
from data_specs.windows import Window
from pipelines.runs.options import Options
from pipelines.store.summary import Summary
from tests.conftest import Said
from tests.unit.data_specs.test_datasets import make

VIDEOS = ("walk/1.avi", "walk/2.avi", "run/deep/3.mp4", "run/4.mkv")


def table(folder: Path, text: str | bytes, name: str = "clips.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(folder: Path, text: str | bytes, *videos: str, names: str | None = None, strict: bool = False) -> Dataset:
    """The data set of a table whose videos lie beside it, with the class names in a file if they are given."""
    source = make(folder / "videos", *(videos or VIDEOS))
    class_names = None if names is None else table(folder, names, "names.txt")
    return read_dataset(source, None, table(folder, text), class_names, strict=strict)


def test_a_table_gives_ids_labels_and_the_parts_of_three_splits(tmp_path: Path) -> None:
    dataset = read(
        tmp_path,
        "label,path,part,part2,part3,group,id\n"
        "walking,walk/1.avi,train,test,,g1,\n"
        'walking,"walk/2.avi",val, train ,,g2,second\n'
        "running,run/deep/3.mp4,test,val,train,g3,\n"
        "\n"
        "running,run/4.mkv,,,,,\n",
    )
    assert dataset.class_names == ("running", "walking")
    assert [(clip.id, clip.path, clip.label, clip.split) for clip in dataset.clips] == [
        ("run/4", "run/4.mkv", 0, (0, 0, 0)),
        ("run/deep/3", "run/deep/3.mp4", 0, (TEST, VALIDATION, TRAIN)),
        ("second", "walk/2.avi", 1, (VALIDATION, TRAIN, 0)),
        ("walk/1", "walk/1.avi", 1, (TRAIN, TEST, 0)),
    ]
    assert dataset.notices == ()


def test_json_lines_and_csv_say_the_same(tmp_path: Path) -> None:
    csv = read(tmp_path, "path,label,part,group\r\nwalk/1.avi,a,train,g\r\nrun/4.mkv,b,,\r\n")
    lines = (
        '{"path": "walk/1.avi", "label": "a", "part": "train", "group": "g"}\n\n'
        '{"label": "b", "path": "./run//4.mkv", "id": null}'
    )
    assert read(tmp_path, lines) == csv


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path, start: bytes) -> None:
    for text in ("path,label\nwalk/1.avi,caf\u00e9\n", '{"path": "walk/1.avi", "label": "caf\u00e9"}'):
        assert read(tmp_path, start + text.encode()).class_names == ("caf\u00e9",)


def test_labels_may_be_indices_into_the_class_names(tmp_path: Path) -> None:
    rows = "path,label\nwalk/1.avi,2\nwalk/2.avi,0\nrun/4.mkv,swim\n"
    dataset = read(tmp_path, rows, names="walk\nrun\nswim\n")
    assert dataset.class_names == ("walk", "run", "swim")
    assert {clip.id: clip.label for clip in dataset.clips} == {"walk/1": 2, "walk/2": 0, "run/4": 2}
    lines = '{"path": "walk/1.avi", "label": 1}\n{"path": "walk/2.avi", "label": "WALK"}'
    assert [clip.label for clip in read(tmp_path, lines, names="walk\nrun\n").clips] == [1, 0]


def test_numbers_that_are_names_of_classes_are_names(tmp_path: Path) -> None:
    rows = "path,label\nwalk/1.avi,10\nwalk/2.avi,2\n"
    assert [clip.label for clip in read(tmp_path, rows, names="1\n2\n10\n").clips] == [2, 1]
    with pytest.raises(DatasetError, match="label '10' may be a class name or an index, as other labels are"):
        read(tmp_path, f"{rows}run/4.mkv,0\n", names="1\n2\n10\n")


def test_class_names_are_kept_where_no_clip_has_them(tmp_path: Path) -> None:
    (clip,) = read(tmp_path, "path,label\nwalk/1.avi,walk\n", names="run\nwalk\n").clips
    assert clip.label == 1
    index = table(tmp_path, "1 run\n2 walk\n", "classInd.txt")
    (clip,) = read_dataset(tmp_path / "videos", None, tmp_path / "clips.csv", index).clips
    assert clip.label == 1


def test_rows_without_a_file_are_counted_and_keep_their_class(tmp_path: Path) -> None:
    rows = "path,label\ngone/1.avi,a\nwalk/1.avi,b\ngone/2.avi,c\ngone/3.avi,c\ngone/4.avi,c\n"
    dataset = read(tmp_path, rows)
    assert dataset.class_names == ("a", "b", "c")
    assert [clip.label for clip in dataset.clips] == [1]
    text = (
        "4 listed clips are not in the source folder ('gone/1.avi' of line 2, 'gone/2.avi' of line 4, "
        "'gone/3.avi' of line 5, …)"
    )
    assert dataset.warnings == (text,)
    with pytest.raises(DatasetError, match=r"4 listed clips are not in the source folder.*; add them, or run without"):
        read(tmp_path, rows, strict=True)
    with pytest.raises(DatasetError, match=r"none of its 1 clips is in '.*videos' \('x\.avi' of line 2 first\); paths"):
        read(tmp_path, "path,label\nx.avi,a\n")


def test_videos_that_no_row_lists_are_counted(tmp_path: Path) -> None:
    dataset = read(tmp_path, "path,label\nwalk/1.avi,a\n")
    text = "3 passed over, videos that the clip table does not list: 'run/4.mkv', 'run/deep/3.mp4', 'walk/2.avi'"
    assert dataset.notices == (text,)


@pytest.mark.parametrize(
    ("file", "path"),
    [
        ("a/x.avi", "a\\x.avi"),
        ("a/x.avi", "A/X.avi"),
        ("caf\u00e9/x.avi", "cafe\u0301/x.avi"),
        ("a/.x.avi", "a/.x.avi"),
        ("a/x.dat", "a/x.dat"),
        ("a/x 1, 2.avi", '"a/x 1, 2.avi"'),
        ("UCF-101/a/x.avi", "UCF-101/a/x.avi"),
    ],
)
def test_a_path_finds_its_file(tmp_path: Path, file: str, path: str) -> None:
    (clip,) = read(tmp_path, f"path,label\n{path},a\n", file).clips
    assert clip.path == file


def test_names_of_files_that_are_not_utf8_are_found(tmp_path: Path) -> None:
    source = make(tmp_path / "videos", os.fsdecode(b"a/caf\xe9.avi"))
    for text in (b"path,label\na/caf\xe9.avi,x\n", b'{"path": "a/caf\\udce9.avi", "label": "x"}'):
        (clip,) = read_dataset(source, None, table(tmp_path, text)).clips
        assert (clip.id, os.fsencode(clip.path)) == ("a/caf\\xe9", b"a/caf\xe9.avi")


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ("walk/1.avi,a,x", "line 2: part 'x': give train, val, test or nothing"),
        ("walk/1.avi,,train", "line 2: label '': give a class name"),
        (",a,train", "line 2: path '': give a path"),
        (".,a,train", r"line 2: path '\.': give a path"),
        ("../1.avi,a,", r"line 2: path '\.\./1\.avi': leaves the source folder; give a path inside it"),
        ("a\\..\\..\\1.avi,a,", "line 2: path .*: leaves the source folder"),
        ("/walk/1.avi,a,", "line 2: path '/walk/1.avi': leaves the source folder"),
        ("walk/1.avi,3,", "line 2: label '3': a number needs class names; give a file of them with --class-names"),
        ("walk/1.avi,3.0,", r"line 2: label '3\.0': a number needs class names"),
        ("walk/1.avi,a", "line 2: 2 cells, where the first line has 3"),
        ("walk/1.avi,a,train,x", "line 2: 4 cells, where the first line has 3"),
        ('walk/1.avi,"a,train\nrun/4.mkv,b,', "line 2: not CSV: unexpected end of data"),
        ("walk/1.avi,a,\nrun/4.mkv,b,\nwalk/1.avi,a,", r"line 2 and line 4 have the same path 'walk/1\.avi'; rename"),
        ("walk/1.avi,a\x07,", r"line 2: label 'a\\\\x07': give text without characters that cannot"),
    ],
)
def test_a_fault_is_named_with_its_line(tmp_path: Path, rows: str, fault: str) -> None:
    with pytest.raises(DatasetError, match=rf"clips '.*clips\.csv': .*{fault}") as caught:
        read(tmp_path, f"path,label,part\n{rows}\n")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"path": "walk/1.avi"}', "line 1: no label"),
        ('{"path": "walk/1.avi", "label": 2}', "line 1: label 2: a number needs class names"),
        ('{"path": "walk/1.avi", "label": true}', "line 1: label 'True': give"),
        ('{"path": 1, "label": "a"}', "line 1: path '1': give a path"),
        ('{"path": "walk/1.avi", "label": "a", "id": 7}', "line 1: id '7': give text"),
        ('{"path": "walk/1.avi", "label": "a", "id": "../x"}', r"line 1: id '\.\./x': give an id without empty parts"),
        ('{"path": "walk/1.avi", "label": " a"}', "line 1: label ' a': remove the leading or trailing spaces"),
        ('{"path": "walk/1.avi", "label": "\\udce9"}', r"line 1: label '\\\\xe9': it is not UTF-8"),
        ('{"path": "walk/1.avi", "label": "a", "group": "\\udce9"}', r"line 1: group '\\\\xe9': it is not UTF-8"),
        ('{"path": "walk/1.avi", "label": "a"', "line 1: not JSON: Expecting"),
        ('{"path": "walk/1.avi", "label": "a", "start": 0.5}', "line 1: no end: a window has a start and an end"),
        ('{"path": "walk/1.avi", "label": "a", "start": true, "end": 1}', "line 1: start 'True': give seconds"),
        ('{"path": "walk/1.avi", "label": "a"}\n[1]', r"line 2: '\[1\]' is not a JSON object"),
        ('{"path": "walk/1.avi", "label": "a"}\n{"path": "walk/2.avi", "label": "a", "id": "walk/1"}',
         "line 1 and line 2 have the same id 'walk/1'"),
    ],
)  # fmt: skip
def test_a_fault_of_json_lines_is_named_with_its_line(tmp_path: Path, line: str, fault: str) -> None:
    with pytest.raises(DatasetError, match=fault) as caught:
        read(tmp_path, line)
    assert "\n" not in str(caught.value)


def test_all_faults_are_counted_and_the_first_are_listed(tmp_path: Path) -> None:
    rows = [f"walk/{number}.avi,a,sometimes" for number in range(700)]
    with pytest.raises(DatasetError) as caught:
        read(tmp_path, "\n".join(["path,label,part", *rows, "walk/1.avi,,"]))
    text = str(caught.value)
    assert "701 faults: line 2: part 'sometimes': give train, val, test or nothing; line 3: " in text
    assert text.endswith("line 6: part 'sometimes': give train, val, test or nothing; and 696 more")
    with pytest.raises(DatasetError, match=r"2 faults: line 2: path .*; line 3: label '3': "):
        read(tmp_path, "path,label,start\n../x,a,\nwalk/1.avi,3,\n")


def test_windows_of_one_video_are_clips_of_their_own(tmp_path: Path) -> None:
    rows = "path,label,start,end,id\nwalk/1.avi,a,0,10,\nwalk/1.avi,b,5.25,15,\nwalk/1.avi,a,,,\nwalk/1.avi,a,20,30,x\n"
    clips = {clip.id: clip for clip in read(tmp_path, rows, *VIDEOS[:1]).clips}
    assert list(clips) == ["walk/1", "walk/1_000000-000010", "walk/1_000005.25-000015", "x"]
    assert [clip.window for clip in clips.values()] == [None, Window(0, 10), Window(5.25, 15), Window(20, 30)]
    assert [clip.video for clip in clips.values()] == ["", "walk/1.avi", "walk/1.avi", "walk/1.avi"]
    assert [clip.group for clip in clips.values()] == ["", "walk/1", "walk/1", "walk/1"]
    lines = [
        {"path": "walk/1.avi", "label": "a", "start": 0, "end": 10},
        {"path": "walk/1.avi", "label": "b", "end": None},
    ]
    assert len(read(tmp_path, "\n".join(map(json.dumps, lines)), *VIDEOS[:1]).clips) == 2


@pytest.mark.parametrize(
    ("start", "end", "fault"),
    [
        ("10", "5", "line 2: end '5': the window starts at 10 s; give a later end"),
        ("10", "10.0000001", "line 2: end '10.0000001': the window starts at 10 s; give a later end"),
        ("10", "", "line 2: end '': a window has a start and an end; give end, too"),
        ("", "10", "line 2: end '10': a window has a start and an end; give start, too"),
        ("-1", "10", "line 2: start '-1': give seconds from 0 to 10000000"),
        ("0:10", "10", "line 2: start '0:10': give seconds, such as 12.5"),
        ("0", "nan", "line 2: end 'nan': give seconds, such as 12.5"),
        ("0", "1e3", "line 2: end '1e3': give seconds, such as 12.5"),
    ],
)
def test_a_window_that_is_none_is_refused_with_its_line(tmp_path: Path, start: str, end: str, fault: str) -> None:
    with pytest.raises(DatasetError) as caught:
        read(tmp_path, f"path,label,start,end\nwalk/1.avi,a,{start},{end}\n", *VIDEOS[:1])
    assert fault in str(caught.value)


def test_the_same_window_twice_is_refused_and_so_are_windows_of_one_video_in_two_parts(tmp_path: Path) -> None:
    rows = "path,label,start,end,id,part,group\nwalk/1.avi,a,0,10,x,train,{}\nwalk/1.avi,a,{},20,y,{},{}\n"
    with pytest.raises(DatasetError, match=r"line 3: .* the same path 'walk/1.avi from 0 s to 20 s'"):
        read(tmp_path, rows.replace("0,10", "0,20").format("", 0, "train", ""), *VIDEOS[:1])
    with pytest.raises(DatasetError, match=r"line 3: group 'walk/1' is in test of split 1 here and in train in line 2"):
        read(tmp_path, rows.format("", 10, "test", ""), *VIDEOS[:1])
    assert len(read(tmp_path, rows.format("g", 10, "test", "h"), *VIDEOS[:1]).clips) == 2  # if the table says so


def test_windows_are_written_as_they_are_read(tmp_path: Path) -> None:
    rows = [Row(path="a.mp4", label="x", start=0.0, end=12.5), Row(path="b.mp4", label="y")]
    assert list(table_lines(rows, json_lines=False)) == ["path,label,start,end", "a.mp4,x,0,12.5", "b.mp4,y,,"]
    assert json.loads(next(iter(table_lines(rows, json_lines=True)))) == {
        "path": "a.mp4", "label": "x", "start": 0.0, "end": 12.5
    }  # fmt: skip


def test_a_group_on_two_sides_of_a_split_is_refused_with_both_lines(tmp_path: Path) -> None:
    rows = "path,label,part,part2,group\nwalk/1.avi,a,train,{},g\nwalk/2.avi,a,train,test,h\nrun/4.mkv,b,train,test,g\n"
    fault = (
        "line 4: group 'g' is in test of split 2 here and in {} in line 2; clips of one recording belong on one side"
    )
    for part in ("train", "val"):
        with pytest.raises(DatasetError, match=fault.format(part)):
            read(tmp_path, rows.format(part))
    for part in ("test", ""):
        assert len(read(tmp_path, rows.format(part)).clips) == 3


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "line 1: no column 'path'|has no rows"),
        ("path,label\n", "has no rows; list one clip per line"),
        ("path;label\na;b\n", "line 1: no column 'path' in 'path;label'; name the columns there, separated by commas"),
        ("path,class\na,b\n", "line 1: no column 'label'"),
        ("path,label,label\na,b,c\n", "line 1: the column 'label' occurs twice"),
        ("path,label\na,b\n".encode("utf-16"), "is not text in UTF-8; save it as CSV in UTF-8"),
        ("[]", "line 1: no column 'path'"),
    ],
)
def test_files_that_are_no_clip_tables_are_refused(tmp_path: Path, text: str | bytes, line: str) -> None:
    with pytest.raises(DatasetError, match=line) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "line"),
    [
        ("", "is empty; give one class name per line"),
        ("a\nb\na\n", "line 3: 'a' is also in line 1"),
        ("a\n\x07\n", r"line 2: '\\\\x07' cannot be printed"),
        ("b\n", "line 2: label 'a' is none of the 1 classes"),
        ("A\n", None),
        ("A\n\u0041\u030a\n", None),
    ],
)
def test_class_names_that_do_not_fit_are_refused(tmp_path: Path, names: str, line: str | None) -> None:
    if line is None:
        assert read(tmp_path, "path,label\nwalk/1.avi,a\n", names=names).clips[0].label == 0
        return
    with pytest.raises(DatasetError, match=line):
        read(tmp_path, "path,label\nwalk/1.avi,a\n", names=names)


def test_what_is_not_used_or_looks_like_a_slip_is_shown(tmp_path: Path) -> None:
    dataset = read(tmp_path, "path,label,prat,fps\nwalk/1.avi,Walk,train,25\nwalk/2.avi,walk,,\n", *VIDEOS[:2])
    unused, alike = dataset.warnings
    columns = "path, label, id, part, part2, part3, group, start, end"
    assert f"unused columns: 'fps', 'prat' (known: {columns})" in unused
    assert alike.endswith("'Walk' and 'walk' count as different classes")


def test_a_table_is_given_without_lists_and_names_with_a_table_alone(tmp_path: Path) -> None:
    source, clips = make(tmp_path / "videos", *VIDEOS), table(tmp_path, "path,label\nwalk/1.avi,a\n")
    with pytest.raises(DatasetError, match="a clip table has its own splits"):
        read_dataset(source, tmp_path, clips)
    with pytest.raises(DatasetError, match="only a clip table takes class names; give --clips too"):
        read_dataset(source, class_names=clips)
    with pytest.raises(DatasetError, match=r"clips '.*gone\.csv': no such file"):
        read_dataset(source, clips=tmp_path / "gone.csv")
    with pytest.raises(DatasetError, match=r"class_names '.*gone\.txt': no such file"):
        read_dataset(source, clips=clips, class_names=tmp_path / "gone.txt")


def test_a_store_is_made_from_a_table(
    data: Path, tmp_path: Path, ucf_options: Options, do_run: Callable[[Options], tuple[Summary, list[str]]]
) -> None:
    source = data / "UCF-101"
    clips = sorted(source.glob("*/*.avi"))[:3]
    labels, parts, ids = ("b", "a", "b"), ("train", "val", "test"), ("z", "deep/y", "x")
    rows = [
        f"{clip.relative_to(source)},{label},{part},{id}"
        for clip, label, part, id in zip(clips, labels, parts, ids, strict=True)
    ]
    text = "\n".join(["path,label,part,id", *rows])
    options = replace(ucf_options, splits=None, store=str(tmp_path / "s.zarr"), clips=str(table(tmp_path, text)))
    summary, _ = do_run(options)
    assert summary.done == 3
    store = open_store(options.store)
    assert store.ids == ["deep/y", "x", "z"]
    assert store.class_names == ["a", "b"]
    assert store.table("label").tolist() == [0, 1, 1]
    np.testing.assert_array_equal(store.table("split")[:, 0], [VALIDATION, TEST, TRAIN])
    assert do_run(options)[1] == []


def test_plan_takes_a_table(mocrop_here: Callable[..., Said], data: Path, tmp_path: Path) -> None:
    clips = sorted((data / "UCF-101").glob("*/*.avi"))[:2]
    rows = "".join(f"{clip.relative_to(data)},{number},val\n" for number, clip in enumerate(clips))
    names = table(tmp_path, "first\nsecond\n", "names.txt")
    flags = ["--source", data, "--clips", table(tmp_path, f"path,label,part\n{rows}"), "--recipe", "smoke"]
    said = mocrop_here("plan", *flags, "--class-names", names, "--store", tmp_path / "s.zarr")
    assert said.status == 0, said.err
    assert "split 1      0 train, 0 test, 2 validation" in said.out
    said = mocrop_here("plan", *flags, "--store", tmp_path / "s.zarr")
    assert (said.status, said.err.count("\n")) == (1, 1)
    assert "2 faults: line 2: label '0': a number needs class names" in said.err
