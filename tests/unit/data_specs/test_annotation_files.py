"""Reading actor boxes: our JSON, MOTChallenge's CSV, UCF101-24's pickle, folders of each form.

The files are written here by the published grammars, byte for byte where a library would hide what is tested.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_specs.annotation_files import read_annotations
from data_specs.annotations import Annotation, AnnotationError, actor_boxes
from data_specs.ucf101_24 import _check_instructions
from tests.places import ROOT


def entries(annotation: Annotation) -> list[tuple[int, list[float]]]:
    """Frame and x, y, width, height of each box."""
    return list(zip(annotation.frame.tolist(), annotation.xywh.tolist(), strict=True))


def save(path: Path, pixels: Any, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(pixels, np.uint8))
    (image.convert(mode) if mode else image).save(path)


def refused(path: Path) -> str:
    with pytest.raises(AnnotationError) as caught:
        read_annotations(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


# --- JSON


def test_the_real_annotations_are_read_and_fit_their_clips(data: Path) -> None:
    found = read_annotations(data / "annotations" / "ucf101_24.json")
    assert len(found) == 5
    for one in found.values():
        assert one.num_frames is not None
        boxes = actor_boxes(one, one.num_frames, (240, 320))
        assert len(boxes.frame) == len(one.frame)
        assert boxes.problems == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[]", "the file: Input should be a valid dictionary"),
        ('{"A/a": {"num_frames": 3}}', "A/a → tubes: Field required"),
        ('{"A/a": {"num_frames": -3, "tubes": []}}', "A/a → num_frames"),
        ('{"A/a": {"frame_size": [0, 3], "tubes": []}}', "A/a → frame_size → 0"),
        ('{"frame_size": [240], "A/a": {"tubes": []}}', "1: Field required"),
        (
            '{"A/a": {"num_frames": 3, "tubes": [{"start_frame": 0, "end_frame": 3, "boxes_xywh": [[1, 2, 3, 4]]}]}}',
            "A/a → tubes → 0: 1 boxes for frames 0 to 3 (exclusive)",
        ),
        ('{"A/a": {"num_frames": 3, "tubes": [{"start_frame": 0, "end_frame": 1, "boxes_xywh": [["x", 2, 3, 4]]}]}}',
         "boxes_xywh → 0 → 0"),
    ],
)  # fmt: skip
def test_json_of_another_form_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "actors.json").write_text(text, encoding="utf-8")
    assert says in refused(tmp_path / "actors.json")


def test_a_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    for name in ("none.json", "none", "none.pkl"):
        assert "No such file" in refused(tmp_path / name)


def test_another_kind_of_file_is_refused_with_those_that_are_read(tmp_path: Path) -> None:
    (tmp_path / "actors.xml").write_text("<a/>")
    assert "give a JSON file, a MOTChallenge CSV" in refused(tmp_path / "actors.xml")


def test_json_says_the_frame_size_of_a_clip_or_of_all(tmp_path: Path) -> None:
    tube = {"start_frame": 2, "end_frame": 3, "boxes_xywh": [[1, 2, 3, 4]]}
    clips = {"a": {"num_frames": 5, "tubes": [tube]}, "b": {"frame_size": [480, 640], "tubes": [tube]}}
    (tmp_path / "a.json").write_text(json.dumps({"frame_size": [240, 320], **clips}))
    found = read_annotations(tmp_path / "a.json")
    assert {id: (one.frame_size, one.num_frames) for id, one in found.items()} == {
        "a": ((240, 320), 5), "b": ((480, 640), None)
    }  # fmt: skip
    assert entries(found["a"]) == [(2, [1, 2, 3, 4])]
    (tmp_path / "a.json").write_text(json.dumps({"frame_size": clips["b"]}))  # a clip may have that name
    assert read_annotations(tmp_path / "a.json")["frame_size"].frame_size == (480, 640)


def test_the_example_of_the_documentation_is_read(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "howto" / "evaluate.md").read_text(encoding="utf-8")
    (tmp_path / "a.json").write_text(page.partition("```json\n")[2].partition("```")[0])
    (found,) = read_annotations(tmp_path / "a.json").values()
    assert entries(found) == [(0, [10, 20, 64, 128]), (1, [11, 20, 64, 128])]
    assert (found.num_frames, found.frame_size) == (141, (240, 320))


# --- MOTChallenge's CSV

MOT = "1, 3, 794.27, 247.59, 71.245, 174.88, -1, -1, -1, -1\n1,6,1,1,66.5,163.24,1,1,0.8\n\n3,6,5,5,2,2,0,2,0.1\n"


def test_mot_frames_and_pixels_count_from_one_and_flagged_rows_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "seq.txt").write_text(MOT)
    found = read_annotations(tmp_path / "seq.txt")["seq"]
    assert [frame for frame, _ in entries(found)] == [0, 0]
    assert found.xywh[0] == pytest.approx([793.27, 246.59, 71.245, 174.88])
    assert found.xywh[1].tolist() == [0, 0, 66.5, 163.24]
    assert found.notes == ("1 of 3 boxes marked as ignored (conf 0) left out",)
    assert (found.num_frames, found.frame_size) == (None, None)


def test_a_folder_of_mot_sequences_has_the_frame_size_of_seqinfo(tmp_path: Path) -> None:
    for name in ("train/one", "train/two"):
        (tmp_path / name / "gt").mkdir(parents=True)
        (tmp_path / name / "gt" / "gt.txt").write_text(MOT)
        (tmp_path / name / "gt" / "labels.txt").write_text("person\n")
        save(tmp_path / name / "img1" / "000001.png", np.zeros((6, 8)))
    (tmp_path / "train/one/seqinfo.ini").write_text(
        "[Sequence]\nname=one\nframeRate=30\nseqLength=600\nimWidth=1920\nimHeight=1080\nimExt=.jpg\n"
    )
    told: list[tuple[int, int]] = []
    found = read_annotations(tmp_path, lambda done, total: told.append((done, total)))
    assert list(found) == ["train/one", "train/two"]
    assert told[-1] == (2, 2)
    assert (found["train/one"].num_frames, found["train/one"].frame_size) == (600, (1080, 1920))
    assert found["train/two"].frame_size is None
    assert list(read_annotations(tmp_path / "train" / "one")) == ["one"]
    assert list(read_annotations(tmp_path / "train" / "one" / "gt" / "gt.txt")) == ["one"]
    (tmp_path / "train/two/seqinfo.ini").write_text("[Sequence]\nseqLength=many\n")
    with pytest.raises(AnnotationError, match=r"two/seqinfo\.ini': no seqLength, imHeight and imWidth"):
        read_annotations(tmp_path)


def test_one_csv_names_its_clips_in_a_column(tmp_path: Path) -> None:
    (tmp_path / "all.csv").write_text(
        "\ufeffclip,frame,bb_left,bb_top,bb_width,bb_height\nA/a,1,2,3,4,5\nB/b,7,1,1,1,1\nA/a,2,2,3,4,5\n", "utf-8"
    )
    found = read_annotations(tmp_path / "all.csv")
    assert entries(found["A/a"]) == [(0, [1, 2, 4, 5]), (1, [1, 2, 4, 5])]
    assert entries(found["B/b"]) == [(6, [0, 0, 1, 1])]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1,2,3,4,5\n", "line 1: '1,2,3,4,5' is not frame, id, bb_left, bb_top, bb_width, bb_height as numbers"),
        ("1,1,1,1,1,1\n1,1,x,1,1,1\n", "line 2: '1,1,x,1,1,1' is not"),
        ("0,1,1,1,1,1\n", "line 1: frame 0; frames count from 1"),
        ("1.5,1,1,1,1,1\n", "frame 1.5"),
        ("nan,1,1,1,1,1\n", "frame nan"),
        ("clip,frame,x,y\n", "line 1: no column bb_left, bb_top, bb_width, bb_height"),
    ],
)
def test_csv_of_another_form_is_refused_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    assert says in refused(tmp_path / "a.csv")


def test_a_clip_in_two_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(MOT)
    (tmp_path / "a.csv").write_text(MOT)
    with pytest.raises(AnnotationError, match="a second file of the clip 'a'"):
        read_annotations(tmp_path)


# --- UCF101-24's pickle

BOXES = np.array([[10, 20, 30, 40], [11, 20, 30, 40]], np.uint16)
CLIP = {"annotations": [{"label": 0, "sf": 3, "ef": 5, "boxes": BOXES}], "label": 0, "numf": 140}
PYTHON_2 = (
    b"(dp0\nS'Basketball/v_Basketball_g01_c01'\np1\n(dp2\nS'annotations'\np3\n(lp4\n(dp5\nS'boxes'\np6\n"
    b"cnumpy.core.multiarray\n_reconstruct\np7\n(cnumpy\nndarray\np8\n(I0\ntp9\nS'b'\np10\ntp11\nRp12\n"
    b"(I1\n(I2\nI4\ntp13\ncnumpy\ndtype\np14\n(S'u2'\np15\nI0\nI1\ntp16\nRp17\n"
    b"(I3\nS'<'\np18\nNNNI-1\nI-1\nI0\ntp19\nbI00\n"
    b"S'\\n\\x00\\x14\\x00\\x1e\\x00(\\x00\\x0b\\x00\\x14\\x00\\x1e\\x00(\\x00'\np20\ntp21\nbsS'ef'\np22\nI5\nsS'sf'\n"
    b"p23\nI3\nsS'label'\np24\nI0\nsasS'numf'\np25\nI140\nsg24\nI0\nss."
)
"""The same as ``CLIP`` as cPickle of Python 2 writes it at protocol 0; `test_the_python_2_file_is_that_pickle`."""


def test_the_python_2_file_is_that_pickle() -> None:
    (clip,) = pickle.loads(PYTHON_2, encoding="latin-1").values()
    assert (clip["numf"], clip["annotations"][0]["sf"], clip["annotations"][0]["ef"]) == (140, 3, 5)
    assert clip["annotations"][0]["boxes"].tolist() == BOXES.tolist()


@pytest.mark.parametrize("protocol", ["Python 2", *range(pickle.HIGHEST_PROTOCOL + 1)])
def test_ucf101_24_is_read_whatever_protocol_wrote_it(tmp_path: Path, protocol: Any) -> None:
    clips = {"Basketball/v_Basketball_g01_c01": CLIP}
    content = PYTHON_2 if protocol == "Python 2" else pickle.dumps(clips, protocol)
    (tmp_path / "pyannot.pkl").write_bytes(content)
    (found,) = read_annotations(tmp_path / "pyannot.pkl").values()
    assert entries(found) == [(3, [10, 20, 30, 40]), (4, [11, 20, 30, 40])]
    assert (found.num_frames, found.frame_size) == (140, (240, 320))
    assert found.notes == ()


def test_numpy_numbers_and_other_orders_are_read_too(tmp_path: Path) -> None:
    tube = {"label": 0, "sf": np.int64(3), "ef": np.uint8(5), "boxes": np.asfortranarray(BOXES.astype(">f8"))}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": {"annotations": [tube], "label": 0, "numf": np.int16(9)}}, 2))
    found = read_annotations(tmp_path / "a.pkl")["a"]
    assert entries(found) == [(3, [10, 20, 30, 40]), (4, [11, 20, 30, 40])]
    assert found.num_frames == 9


def test_a_tube_whose_boxes_do_not_match_its_frames_is_left_out_and_told(tmp_path: Path) -> None:
    short = {**CLIP["annotations"][0], "ef": 9}  # type: ignore[index]
    clips = {"a": {"annotations": [short, *CLIP["annotations"]], "numf": 140}}  # type: ignore[misc]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(clips))
    found = read_annotations(tmp_path / "a.pkl")["a"]
    assert found.notes == ("actor 0: 2 boxes for frames 3 to 9 (exclusive) left out",)
    assert len(found.frame) == 2


class _Runs:
    def __init__(self, call: Any, *args: Any) -> None:
        self.made = call, args

    def __reduce__(self) -> Any:
        return self.made


def test_nothing_in_a_pickle_is_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    calls = [
        _Runs(marker.touch), _Runs(eval, f"open({str(marker)!r}, 'w')"), _Runs(np.save, str(marker), 1),
        _Runs(getattr, "a", "upper"), _Runs(np.memmap, str(marker), "u1", "w+", 0, (1,)),
    ]  # fmt: skip
    for number, call in enumerate(calls):
        for value in (call, {"a": {**CLIP, "numf": call}}, {"a": {"annotations": [call], "numf": 1}}):
            path = tmp_path / f"{number}.pkl"
            path.write_bytes(pickle.dumps(value, 2))
            assert "which is not allowed" in refused(path)
    assert len(calls) == 5
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not UCF101-24's pyannot.pkl"),
        (b"nonsense", "not UCF101-24's pyannot.pkl"),
        (pickle.dumps([1, 2]), "not a dictionary of clips"),
        (pickle.dumps({1: CLIP}), "not a dictionary of clips"),
        (pickle.dumps({"a": {"numf": 3}}), "no 'annotations'"),
        (pickle.dumps({"a": {**CLIP, "numf": "many"}}), "'many' is not a whole number"),
        (pickle.dumps({"a": {**CLIP, "numf": 1e400}}), "cannot convert"),
        (pickle.dumps({"a": {"annotations": [{"sf": 0, "ef": 2, "boxes": BOXES[:, :3]}], "numf": 3}}), "shape (2, 3)"),
        (
            pickle.dumps({"a": {"annotations": [{"sf": 0, "ef": 1, "boxes": np.array([None])}], "numf": 3}}, 2),
            "not the bytes of an array, but list",
        ),
        (b"(i os\nsystem\n.", "which is not allowed"),
        (b"Pos.system\n.", "which is not allowed"),
        (b"\x80\x02]r\xff\xff\xff\x7f.", "at memo position"),
        (pickle.dumps({"a": CLIP})[:-20], "not UCF101-24's pyannot.pkl"),
    ],
)
def test_another_pickle_is_refused_in_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "a.pkl").write_bytes(content)
    assert says in refused(tmp_path / "a.pkl")


@pytest.mark.parametrize("made", [b"cnumpy\ndtype\n)\x81.", b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93)}\x92."])
def test_instructions_that_make_objects_are_refused_before_any_is_made(made: bytes) -> None:
    with pytest.raises(ValueError, match=r"NEWOBJ(_EX)?, which is not allowed"):
        _check_instructions(made)


# --- folders


def test_a_folder_of_no_known_form_or_of_two_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "give a JSON file" in refused(tmp_path / "empty")
    save(tmp_path / "two" / "a" / "00000.png", np.zeros((6, 8)))
    (tmp_path / "two" / "b.txt").write_text(MOT)
    assert "it has CSV files and PNG files, such as 'b.txt'; give one kind" in refused(tmp_path / "two")
