"""Indexes of public data sets: lists in their publishers' grammar, written by hand, and the tables they come to."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data_specs.datasets import TEST, TRAIN, VALIDATION, DatasetError, read_dataset
from data_specs.indexing.index import FORMATS, Index, make_index
from data_specs.indexing.published import PUBLISHED
from tests.conftest import Said
from tests.unit.data_specs.test_datasets import make

_APRIL, _RHYTHM = "April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "#20_Rhythm_clap_u_nm_np1_fr_goo_1.avi"
_DATES, _GANGSTER = "50_FIRST_DATES_wave_f_cm_np1_fr_med_0.avi", "AmericanGangster_wave_u_cm_np1_fr_bad_57.avi"
HMDB51 = {  # testTrainMulti_7030_splits of the publisher: a blank ends each line
    "brush_hair_test_split1.txt": f"{_APRIL} 1 \n{_RHYTHM} 2 \n",
    "brush_hair_test_split2.txt": f"{_APRIL} 2 \n{_RHYTHM} 0 \n",
    "wave_test_split1.txt": f"{_DATES} 1 \n{_GANGSTER} 2 \n",
    "wave_test_split3.txt": f"{_DATES} 1 \n",
}
HMDB51_VIDEOS = (f"brush_hair/{_APRIL}", f"brush_hair/{_RHYTHM}", f"wave/{_DATES}")
_EYES, _HANDS = "ApplyEyeMakeup/v_ApplyEyeMakeup", "HandstandPushups/v_HandStandPushups"
UCF101 = {  # ucfTrainTestlist of the publisher
    "classInd.txt": "1 ApplyEyeMakeup\n2 HandstandPushups\n",
    "trainlist01.txt": f"{_EYES}_g08_c01.avi 1\n{_HANDS}_g08_c01.avi 2\n",
    "testlist01.txt": f"{_EYES}_g01_c01.avi\n{_HANDS}_g01_c01.avi\n",
    "trainlist02.txt": f"{_EYES}_g01_c01.avi 1\n",
}
COLUMNS = "label,youtube_id,time_start,time_end,split"
KINETICS = {  # the publisher's files: those of Kinetics-400 have is_cc, and its first test.csv has no labels
    "train.csv": f'{COLUMNS},is_cc\n"air drumming",-3B32lodo2M,59,69,train,0\nzumba,_dbcJuKJQNs,40,50,train,0\n',
    "val.csv": f"{COLUMNS}\nzumba,--nQbRBEz2s,104,114,validate\nair drumming,gone_______,0,10,val\n",
    "test.csv": "youtube_id,time_start,time_end,split\n00yVBd8ckC8,1,11,test\n",
}
_LABELS = ("Holding something", "Putting something into something", "Tearing something")
SSV2 = {  # labels/ of the publisher's archive; at first with something-something-v2- before each name
    "labels.json": json.dumps({name: str(number) for number, name in enumerate(_LABELS)}),
    "train.json": json.dumps([
        {"id": "78687", "label": "holding potato", "template": "Holding [something]", "placeholders": ["potato"]},
        {"id": "42326", "label": "putting a pen into a cup", "template": "Putting [something] into [something]",
         "placeholders": ["a pen", "a cup"]},
    ]),
    "validation.json": json.dumps([
        {"id": "74225", "label": "tearing paper", "template": "Tearing [something]", "placeholders": ["paper"]},
    ]),
    "test.json": json.dumps([{"id": "1420"}, {"id": "3"}]),
    "test-answers.csv": "1420;Holding something\n",
}  # fmt: skip
DIVING48 = {  # the publisher's annotations, version 2
    "Diving48_V2_train.json": '[{"vid_name": "-mmq0PT-u8k_00155", "label": 1, "start_frame": 0, "end_frame": 48}]',
    "Diving48_V2_test.json": '[{"vid_name": "2x00lRzlTVQ_00000", "label": 0, "start_frame": 0, "end_frame": 90}]',
    "Diving48_vocab.json": '[["Back", "15som", "05Twis", "FREE"], ["Back", "15som", "15Twis", "FREE"]]',
}


def write(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def parts(index: Index) -> dict[str, tuple[str, tuple[str, str, str]]]:
    return {row.path: (str(row.label), row.parts) for row in index.rows}


def test_hmdb51s_codes_are_train_test_and_neither_in_three_splits(tmp_path: Path) -> None:
    source = make(tmp_path / "hmdb51_org", *HMDB51_VIDEOS)
    index = make_index(source, "hmdb51", write(tmp_path / "splits", HMDB51))
    assert parts(index) == {
        HMDB51_VIDEOS[0]: ("brush_hair", ("train", "test", "")),
        HMDB51_VIDEOS[1]: ("brush_hair", ("test", "", "")),
        HMDB51_VIDEOS[2]: ("wave", ("train", "", "train")),
    }
    assert index.missing == ("wave/AmericanGangster_wave_u_cm_np1_fr_bad_57.avi",)
    assert list(index.lines()) == [
        "format    hmdb51: 4 files <class>_test_split<N>.txt",
        f"clips     3 of 2 classes in {source}",
        "published HMDB-51: 6,766 clips of 51 classes (the official lists: 70 train and 30 test clips of each class; "
        "Kuehne and others, ICCV 2011)",
        "split 1   2 train (published: 3,570), 1 test of 2 listed (published: 1,530)",
        "split 2   0 train (published: 3,570), 1 test (published: 1,530)",
        "split 3   1 train (published: 3,570), 0 test (published: 1,530)",
        f"warning   1 listed clips are not in the folder: left out ('wave/{_GANGSTER}')",
    ]


def test_jhmdbs_lists_are_of_the_same_form(tmp_path: Path) -> None:
    source = make(tmp_path / "JHMDB" / "ReCompress_Videos", *HMDB51_VIDEOS)
    index = make_index(source.parent, "jhmdb", write(tmp_path / "splits", HMDB51))
    assert parts(index)[f"ReCompress_Videos/{HMDB51_VIDEOS[2]}"] == ("wave", ("train", "", "train"))
    assert index.published == PUBLISHED["jhmdb"][0]


def test_ucf101s_lists_count_labels_from_1_and_spell_a_class_in_two_ways(tmp_path: Path) -> None:
    source = make(
        tmp_path / "UCF-101",
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
        "HandStandPushups/v_HandStandPushups_g01_c01.avi",
        "HandStandPushups/extra.avi",
    )
    index = make_index(source, "ucf101", write(tmp_path / "lists", UCF101))
    assert parts(index) == {
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi": ("ApplyEyeMakeup", ("test", "train", "")),
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi": ("ApplyEyeMakeup", ("train", "", "")),
        "HandStandPushups/v_HandStandPushups_g01_c01.avi": ("HandstandPushups", ("test", "", "")),
    }
    assert index.class_names == ("ApplyEyeMakeup", "HandstandPushups")
    assert index.rows[0].group == "v_ApplyEyeMakeup_g01"
    assert index.unlisted == ("HandStandPushups/extra.avi",)
    assert len(index.missing) == 1


def test_the_real_lists_of_ucf101_have_their_published_counts(data: Path) -> None:
    index = make_index(data / "UCF-101", "auto", data / "ucfTrainTestlist")
    assert (index.format, len(index.rows), index.unlisted) == ("ucf101", 15, ())
    assert len(index.counts) == 6
    assert all(count.listed == count.published for count in index.counts)


@pytest.mark.parametrize("folder", ["train/air drumming", "train/air_drumming", "train", "."])
def test_kinetics_videos_are_named_by_their_id_and_times(tmp_path: Path, folder: str) -> None:
    source = make(tmp_path / "k400", f"{folder}/-3B32lodo2M_000059_000069.mp4", "val/zumba/--nQbRBEz2s.mp4",
                  "train/zumba/_dbcJuKJQNs_000040_000050.mkv", "train/zumba/other.mp4")  # fmt: skip
    index = make_index(source, "kinetics", write(tmp_path / "annotations", KINETICS))
    assert {Path(path).stem: found for path, found in parts(index).items()} == {
        "-3B32lodo2M_000059_000069": ("air drumming", ("train", "", "")),
        "--nQbRBEz2s": ("zumba", ("val", "", "")),
        "_dbcJuKJQNs_000040_000050": ("zumba", ("train", "", "")),
    }
    assert (index.missing, index.unlabelled) == (("gone________000000_000010",), 1)
    assert index.unlisted == ("train/zumba/other.mp4",)
    assert "warning   1 listed clips have no label, as in withheld test sets: left out" in index.lines()


def test_of_two_copies_of_a_kinetics_video_the_one_in_the_folder_of_its_part_is_taken(tmp_path: Path) -> None:
    source = make(tmp_path / "k", "train/-3B32lodo2M_000059_000069.mp4", "val/-3B32lodo2M_000059_000069.mp4")
    index = make_index(source, "kinetics", write(tmp_path / "annotations", KINETICS))
    assert [row.path for row in index.rows] == ["train/-3B32lodo2M_000059_000069.mp4"]


def test_kinetics_folders_will_do_without_the_annotations(tmp_path: Path) -> None:
    source = make(tmp_path / "k", "train/zumba/a_000001_000011.mp4", "val/zumba/b_000001_000011.mp4")
    index = make_index(source, "kinetics")
    assert parts(index)["val/zumba/b_000001_000011.mp4"] == ("zumba", ("val", "", ""))
    with pytest.raises(DatasetError, match=r"no lists of kinetics; expected train\.csv and val\.csv"):
        make_index(make(tmp_path / "flat", "a_000001_000011.mp4"), "kinetics")


@pytest.mark.parametrize("before", ["", "something-something-v2-"])
def test_something_something_takes_classes_from_templates_and_their_order_from_the_label_map(
    tmp_path: Path, before: str
) -> None:
    source = make(tmp_path / "20bn-something-something-v2", "78687.webm", "74225.webm", "1420.webm", "3.webm")
    files = {name if name.endswith("csv") else f"{before}{name}": text for name, text in SSV2.items()}
    index = make_index(source, "ssv2", write(tmp_path / "labels", files))
    assert parts(index) == {
        "1420.webm": ("Holding something", ("test", "", "")),
        "74225.webm": ("Tearing something", ("val", "", "")),
        "78687.webm": ("Holding something", ("train", "", "")),
    }
    assert index.class_names == ("Holding something", "Putting something into something", "Tearing something")
    assert (index.missing, index.unlisted, index.unlabelled) == (("42326",), ("3.webm",), 1)


def test_diving48s_labels_are_indices_into_its_vocabulary(tmp_path: Path) -> None:
    source = make(tmp_path / "rgb", "-mmq0PT-u8k_00155.mp4", "2x00lRzlTVQ_00000.mp4")
    index = make_index(source, "diving48", write(tmp_path / "annotations", DIVING48))
    assert parts(index) == {
        "-mmq0PT-u8k_00155.mp4": ("Back 15som 15Twis FREE", ("train", "", "")),
        "2x00lRzlTVQ_00000.mp4": ("Back 15som 05Twis FREE", ("test", "", "")),
    }
    write(tmp_path / "annotations", {"Diving48_train.json": "[]"})
    with pytest.raises(
        DatasetError, match="the folder has the lists of Diving48 and Diving48_V2; keep those of one edition"
    ):
        make_index(source, "diving48", tmp_path / "annotations")


@pytest.mark.parametrize("form", ["videos", "rawframes"])
def test_mmaction2s_lists_name_videos_or_folders_of_frames(tmp_path: Path, form: str) -> None:
    source = make(tmp_path / "videos", "walk/a b.mp4", "walk/2.mp4", "run/3.mp4")
    end = ".mp4" if form == "videos" else " 163"
    files = {
        f"hmdb51_train_split_2_{form}.txt": f"walk/a b{end} 1\nrun/3{end} 0\n",
        f"hmdb51_val_split_2_{form}.txt": f"walk/2{end} 1\nwalk/gone{end} 1\n",
    }
    index = make_index(source, "auto", write(tmp_path / "lists", files))
    assert (index.format, index.class_names) == ("mmaction2", ("run", "walk"))
    assert parts(index) == {
        "run/3.mp4": ("run", ("", "train", "")),
        "walk/2.mp4": ("walk", ("", "val", "")),
        "walk/a b.mp4": ("walk", ("", "train", "")),
    }
    write(tmp_path / "lists", {"label_map_x.txt": "to run\nto walk\nto swim\n"})
    assert make_index(source, "mmaction2", tmp_path / "lists").class_names == ("to run", "to walk", "to swim")


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ("a/1.mp4 0 1\n", "line 1: 'a/1.mp4 0 1' is not a video's path and one label"),
        ("a/1 163 0 1\n", "line 1: 'a/1 163 0 1' is not a folder, its number of frames, and one label"),
        ("a/1.mp4\n", "line 1: 'a/1.mp4' is not"),
        ("a/1 0\n", "line 1: 'a/1 0' is not a folder, its number of frames, and one label"),
        ("a/1.mp4 0\na/1 20 0\n", "lists videos and train.txt lists folders of frames; give one kind"),
        ("a/1.mp4 7\n", "the labels go up to 7, but the number of clips is 1"),
        ("a/1.mp4 0\na/1.mp4 1\n", "line 2: 'a/1.mp4' has label .* here and .* in train.txt line 1"),
    ],
)
def test_lines_that_are_none_of_mmaction2s_are_refused(tmp_path: Path, lines: str, fault: str) -> None:
    source = make(tmp_path / "videos", "a/1.mp4")
    with pytest.raises(DatasetError, match=fault) as caught:
        make_index(source, "mmaction2", write(tmp_path / "lists", {"train.txt": lines}))
    assert "\n" not in str(caught.value)


def test_folders_are_classes_and_folders_of_parts_are_parts(tmp_path: Path) -> None:
    source = make(tmp_path / "a", "walk/1.avi", "walk/deep/2.avi", "run/3.avi", "x/walk/1.avi")
    index = make_index(source, "auto")
    assert (index.format, index.class_names) == ("folders", ("run", "walk", "x"))
    assert parts(index)["walk/1.avi"] == ("walk", ("", "", ""))
    source = make(tmp_path / "b", "Train/walk/1.avi", "validation/run/deep/2.avi", "test/run/3.avi")
    index = make_index(source, "auto")
    assert (index.format, index.class_names) == ("torchvision", ("run", "walk"))
    assert [row.part for row in index.rows] == ["train", "test", "val"]
    with pytest.raises(
        DatasetError, match="its folders are parts of a data set, not classes; give --format torchvision"
    ):
        make_index(source, "folders")
    with pytest.raises(DatasetError, match=r"1 videos are not in <train, val or test>/<class>/ \(loose.avi first\)"):
        make_index(make(tmp_path / "b", "loose.avi"), "torchvision")


@pytest.mark.parametrize(
    ("format", "files", "videos"),
    [
        ("ucf101", UCF101, ["ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi"]),
        ("kinetics", KINETICS, ["_dbcJuKJQNs_000040_000050.mp4"]),
        ("ssv2", SSV2, ["78687.webm"]),
        ("diving48", DIVING48, ["-mmq0PT-u8k_00155.mp4"]),
    ],
)
def test_the_format_is_recognised_by_the_lists_beside_the_videos(
    tmp_path: Path, format: str, files: dict[str, str], videos: list[str]
) -> None:
    source = make(tmp_path / "set", *(f"videos/{name}" for name in videos))
    write(source / "annotations", files)
    index = make_index(source, "auto")
    assert (index.format, [row.path for row in index.rows]) == (format, [f"videos/{name}" for name in videos])


def test_a_format_that_is_unclear_is_refused(tmp_path: Path) -> None:
    source = make(tmp_path / "set", *HMDB51_VIDEOS)
    lists = write(tmp_path / "lists", HMDB51)
    with pytest.raises(DatasetError, match="are of 2 classes; HMDB-51 has 51 and J-HMDB 21: give --format hmdb51 or"):
        make_index(source, "auto", lists)
    write(lists, {f"class{number}_test_split1.txt": "" for number in range(19)})
    assert make_index(source, "auto", lists).format == "jhmdb"
    write(lists, DIVING48)
    with pytest.raises(DatasetError, match=r"lists of several formats \(.* is of jhmdb; Diving48_V2_test\.json is of"):
        make_index(source, "auto", lists)


def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    source = make(tmp_path / "set", "brush_hair/x.avi")
    lists = write(tmp_path / "lists", HMDB51)
    for format, folder, line in (
        ("hmdb", lists, "format 'hmdb': give one of auto, ucf101"),
        ("hmdb51", tmp_path / "gone", "lists '.*gone': no such folder"),
        ("ssv2", lists, "no lists of ssv2; expected labels.json, train.json and validation.json"),
        ("hmdb51", lists, "none of the 4 listed clips is there .'brush_hair/April"),
    ):
        with pytest.raises(DatasetError, match=line) as caught:
            make_index(source, format, folder)
        assert "\n" not in str(caught.value)
    assert set(PUBLISHED) < set(FORMATS)


def test_entries_that_contradict_each_other_are_refused_with_their_lines(tmp_path: Path) -> None:
    source = make(tmp_path / "set", *HMDB51_VIDEOS, "copy/wave/50_FIRST_DATES_wave_f_cm_np1_fr_med_0.avi")
    twice = HMDB51 | {"wave_test_split1.txt": f"{_DATES} 1\n" * 2}
    assert make_index(source, "hmdb51", write(tmp_path / "twice", twice)).rows, "twice in one part is no contradiction"
    both = HMDB51 | {"wave_test_split1.txt": f"{_DATES} 1\n{_DATES} 2\n"}
    with pytest.raises(DatasetError, match=r"line 2: 'wave/50_FIRST.*' is in test of split 1 here and in train above"):
        make_index(source, "hmdb51", write(tmp_path / "both", both))
    code = HMDB51 | {"wave_test_split1.txt": f"{_DATES} 3\n"}
    with pytest.raises(DatasetError, match=r"wave_test_split1\.txt line 1: .*is not a clip followed by 0 \(neither\)"):
        make_index(source, "hmdb51", write(tmp_path / "code", code))
    source = make(tmp_path / "other", "a/wave/50_FIRST_DATES_wave_f_cm_np1_fr_med_0.avi",
                  "b/wave/50_FIRST_DATES_wave_f_cm_np1_fr_med_0.avi")  # fmt: skip
    with pytest.raises(DatasetError, match=r"'wave/50_FIRST.*' may be 'a/wave/50.*' or 'b/wave/50"):
        make_index(source, "hmdb51", write(tmp_path / "lists", HMDB51))


@pytest.mark.parametrize(
    ("files", "line"),
    [
        (SSV2 | {"train.json": "{}"}, "train.json holds no list of clips"),
        (SSV2 | {"train.json": "["}, "train.json is not JSON"),
        (SSV2 | {"labels.json": '{"Holding something": "1"}'}, "labels.json: its numbers are not 0, 1, 2"),
        (SSV2 | {"train.json": '[{"id": "1", "template": "Eating [something]"}]'}, "item 1: 'Eating .* is not a class"),
        (SSV2 | {"train.json": '[{"template": "Holding [something]"}]'}, "train.json item 1: no id"),
        (DIVING48 | {"Diving48_V2_train.json": '[{"vid_name": "a", "label": 2}]'}, "item 1: .* no label from 0 to 1"),
        (KINETICS | {"train.csv": f"{COLUMNS}\na,b,x,y,train\n"}, "line 2: 'b' has no times"),
        (KINETICS | {"train.csv": f"{COLUMNS}\na,b,0,10,x\n"}, "line 2: split 'x' of 'b'"),
        (UCF101 | {"trainlist01.txt": "ApplyEyeMakeup/a.avi 2\n"}, "line 1: .* has label 2, but its folder is another"),
        (UCF101 | {"trainlist01.txt": "Other/a.avi 1\n"}, "line 1: the folder of 'Other/a.avi' is not a class of"),
    ],
)  # fmt: skip
def test_lists_that_are_not_in_their_grammar_are_refused_with_the_place(
    tmp_path: Path, files: dict[str, str], line: str
) -> None:
    source = make(tmp_path / "set", "78687.webm")
    with pytest.raises(DatasetError, match=line) as caught:
        make_index(source, "auto", write(tmp_path / "lists", files))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["hmdb51.csv", "hmdb51.jsonl"])
def test_the_command_writes_a_table_that_says_what_the_lists_say(
    mocrop_here: Callable[..., Said], tmp_path: Path, name: str
) -> None:
    source = make(tmp_path / "hmdb51", *HMDB51_VIDEOS)
    words = [
        "index",
        source,
        "--format",
        "hmdb51",
        "--lists",
        write(tmp_path / "lists", HMDB51),
        "--out",
        tmp_path / name,
    ]
    said = mocrop_here(*words)
    assert said.status == 0, said.err
    names = tmp_path / "hmdb51.classes.txt"
    assert f"next: mocrop plan --source {source} --clips {tmp_path / name} --class-names {names} --store …" in said.out
    dataset = read_dataset(source, clips=tmp_path / name, class_names=names)
    assert [(clip.id, clip.label, clip.split) for clip in dataset.clips] == [
        ("brush_hair/#20_Rhythm_clap_u_nm_np1_fr_goo_1", 0, (TEST, 0, 0)),
        ("brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0", 0, (TRAIN, TEST, 0)),
        ("wave/50_FIRST_DATES_wave_f_cm_np1_fr_med_0", 1, (TRAIN, 0, TRAIN)),
    ]
    assert dataset.notices == ()
    again = mocrop_here(*words)
    assert (again.status, again.err.count("\n")) == (1, 1)
    assert "already exists; give another name, or --overwrite" in again.err
    said = mocrop_here(*words, "--overwrite", "--json")
    assert json.loads(said.out)["missing"] == {
        "count": 1,
        "first": ["wave/AmericanGangster_wave_u_cm_np1_fr_bad_57.avi"],
    }


def test_names_with_commas_quotes_and_bytes_survive_a_table(mocrop_here: Callable[..., Said], tmp_path: Path) -> None:
    names = ['a, b/x "1".avi', "a, b/ y.avi", "a, b/\udce9.avi", "7/z.avi"]
    source = make(tmp_path / "set", *names)
    for out in (tmp_path / "t.csv", tmp_path / "u.jsonl"):
        said = mocrop_here("index", source, "--out", out)
        assert said.status == 0, said.err
        dataset = read_dataset(source, clips=out, class_names=out.with_suffix(".classes.txt"))
        assert sorted(clip.path for clip in dataset.clips) == sorted(names)
        assert {clip.path: dataset.class_names[clip.label] for clip in dataset.clips} == {
            name: name.split("/")[0] for name in names
        }


def test_the_validation_part_may_be_tested_on(mocrop_here: Callable[..., Said], tmp_path: Path) -> None:
    source = make(tmp_path / "k", "train/zumba/a.mp4", "val/zumba/b.mp4")
    said = mocrop_here("index", source, "--val-as-test", "--out", tmp_path / "k.csv")
    assert said.status == 0, said.err
    with (tmp_path / "k.csv").open() as file:
        assert [row["part"] for row in csv.DictReader(file)] == ["train", "test"]
    make(source, "test/zumba/c.mp4")
    said = mocrop_here("index", source, "--val-as-test", "--out", tmp_path / "l.csv")
    assert (said.status, said.err) == (
        1, "mocrop: --val-as-test: the lists have a labelled test part; omit --val-as-test\n"
    )  # fmt: skip
    assert not list(tmp_path.glob("l*"))
    assert VALIDATION == 3
