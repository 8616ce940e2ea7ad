"""Reading actor boxes from J-HMDB's .mat files and from masks as PNG.

The .mat files are written here by the published grammar, byte for byte.
"""

from __future__ import annotations

import pickle
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_specs.annotation_files import read_annotations
from data_specs.annotations import AnnotationError
from tests.unit.data_specs.test_annotation_files import CLIP, PYTHON_2, entries, save

# --- J-HMDB's MATLAB files


def element(kind: int, body: bytes, order: str = "<") -> bytes:
    """A data element of MAT-File Level 5: its tag and its bytes, padded to 8; 4 bytes or fewer stand in the tag."""
    if len(body) <= 4:
        return struct.pack(order + "I", len(body) << 16 | kind) + body.ljust(4, b"\0")
    return struct.pack(order + "II", kind, len(body)) + body + bytes(-len(body) % 8)


def matrix(name: str, array: np.ndarray, kind: int, of: int, order: str = "<") -> bytes:
    """A numeric array of a class, its values stored as type ``kind``."""
    parts = [
        element(6, struct.pack(order + "II", of, 0), order),
        element(5, np.array(array.shape, order + "i4").tobytes(), order),
        element(1, name.encode(), order),
        element(kind, array.tobytes(order="F"), order),
    ]
    return element(14, b"".join(parts), order)


def mat_file(*variables: bytes, compressed: bool = True, order: str = "<") -> bytes:
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(order + "H", 0x0100) + (b"IM" if order == "<" else b"MI")
    if compressed:
        packed = [zlib.compress(one) for one in variables]
        variables = tuple(struct.pack(order + "II", 15, len(one)) + one for one in packed)
    return header + b"".join(variables)


def write_clip(folder: Path, name: str, content: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


@pytest.mark.parametrize(("compressed", "order"), [(True, "<"), (False, "<"), (False, ">")])
def test_jhmdb_masks_give_the_box_around_the_person(tmp_path: Path, compressed: bool, order: str) -> None:
    masks = np.zeros((24, 32, 3), np.uint8)
    masks[4:10, 5:7, 0] = 1
    masks[0, 0, 2], masks[23, 31, 2] = 1, 1
    text = element(14, element(6, struct.pack(order + "II", 4, 0), order) + element(5, bytes(8), order), order)
    content = mat_file(text, matrix("part_mask", masks, 2, 9, order), compressed=compressed, order=order)
    write_clip(tmp_path / "walk" / "clip_1", "puppet_mask.mat", content)
    write_clip(tmp_path / "walk" / "clip_1", "joint_positions.mat", b"masks are preferred")
    found = read_annotations(tmp_path)
    assert list(found) == ["walk/clip_1"]
    assert entries(found["walk/clip_1"]) == [(0, [5, 4, 2, 6]), (2, [0, 0, 32, 24])]
    assert (found["walk/clip_1"].num_frames, found["walk/clip_1"].frame_size) == (3, (24, 32))


def test_jhmdb_joints_give_the_box_around_them_from_pixel_one(tmp_path: Path) -> None:
    places = np.array([[[11.0, 12.0], [31.0, 2.5], [15.0, 9.0]], [[1.0, 5.0], [6.0, 9.0], [41.0, 5.5]]])  # 2 × 3 × 2
    write_clip(tmp_path / "run" / "b", "joint_positions.mat", mat_file(matrix("pos_img", places, 9, 6)))
    found = read_annotations(tmp_path)["run/b"]
    assert entries(found) == [(0, [10, 0, 20, 40]), (1, [1.5, 4, 9.5, 4])]
    assert (found.num_frames, found.frame_size) == (2, None)


def test_values_of_a_mat_file_may_be_kept_narrower_than_they_are(tmp_path: Path) -> None:
    masks = np.zeros((5, 4), np.int16)  # one frame: MATLAB drops the last dimension
    masks[1:3, 2] = 1
    write_clip(tmp_path / "a", "puppet_mask.mat", mat_file(matrix("part_mask", masks, 3, 6)))
    assert entries(read_annotations(tmp_path)["a"]) == [(0, [2, 1, 1, 2])]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a MATLAB file of level 5"),
        (b"\x89HDF\r\n\x1a\n".ljust(200, b"\0"), "not a MATLAB file of level 5 (save it with -v7)"),
        (mat_file(), "no array part_mask"),
        (mat_file(matrix("part_mask", np.zeros((2, 2), np.uint8), 2, 9))[:-9], "ends in the middle"),
        (mat_file(matrix("part_mask", np.ones((2, 2), np.uint8), 2, 9), compressed=False)[:-8], "ends in the middle"),
        (mat_file(matrix("part_mask", np.ones((3, 2), np.uint8), 2, 9), compressed=False)
         .replace(struct.pack("<ii", 3, 2), struct.pack("<ii", 3, 9)), "6 values for an array of 3×9"),
        (mat_file()[:128] + struct.pack("<II", 15, 4) + b"abcd", "does not unpack"),
    ],
)  # fmt: skip
def test_another_mat_file_is_refused_in_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    write_clip(tmp_path / "a", "puppet_mask.mat", content)
    with pytest.raises(AnnotationError) as caught:
        read_annotations(tmp_path)
    assert says in str(caught.value)
    assert "puppet_mask.mat" in str(caught.value)


# --- masks as PNG


def test_masks_give_a_box_in_each_frame_with_an_actor(tmp_path: Path) -> None:
    mask = np.zeros((6, 8))
    save(tmp_path / "480p" / "bear" / "00001.png", mask)
    mask[2:4, 5] = 255
    save(tmp_path / "480p" / "bear" / "00000.png", mask)
    mask[0, 0] = 1
    save(tmp_path / "480p" / "cow" / "00012.png", mask)
    (tmp_path / "480p" / "bear" / "notes.html").write_text("not a mask")
    (tmp_path / "480p" / "bear" / "._00000.png").write_text("what another system keeps of a file")
    found = read_annotations(tmp_path)
    assert {id: entries(one) for id, one in found.items()} == {
        "480p/bear": [(0, [5, 2, 1, 2])], "480p/cow": [(12, [0, 0, 6, 4])]
    }  # fmt: skip
    assert {(one.num_frames, one.frame_size) for one in found.values()} == {(None, (6, 8))}
    assert list(read_annotations(tmp_path / "480p" / "cow")) == ["cow"]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "RGBA", "I;16"])
def test_masks_of_every_kind_of_png_are_read(tmp_path: Path, mode: str) -> None:
    if mode == "P":  # DAVIS 2017: the number of the object, in a palette whose first colour need not be black
        image = Image.new("P", (8, 6))
        image.putpalette([9, 9, 9, 200, 0, 0, 0, 0, 0])
        for place, number in (((5, 2), 1), ((5, 3), 2)):
            image.putpixel(place, number)
        (tmp_path / "a").mkdir()
        image.save(tmp_path / "a" / "00000.png")
    else:
        mask = np.zeros((6, 8), np.uint8)
        mask[2:4, 5] = 200
        image = Image.fromarray(mask.astype(np.uint16)) if mode == "I;16" else Image.fromarray(mask).convert(mode)
        (tmp_path / "a").mkdir()
        image.save(tmp_path / "a" / "00000.png")
    assert Image.open(tmp_path / "a" / "00000.png").mode == mode
    assert entries(read_annotations(tmp_path)["a"]) == [(0, [5, 2, 1, 2])]


def test_masks_that_do_not_fit_are_refused_with_their_name(tmp_path: Path) -> None:
    save(tmp_path / "a" / "00000.png", np.zeros((6, 8)))
    save(tmp_path / "a" / "00001.png", np.zeros((8, 6)))
    with pytest.raises(AnnotationError, match=r"00001\.png': 6×8 px, but 00000\.png has 8×6"):
        read_annotations(tmp_path)
    (tmp_path / "a" / "00001.png").write_bytes(b"no picture")
    with pytest.raises(AnnotationError, match=r"00001\.png': not a picture"):
        read_annotations(tmp_path)
    (tmp_path / "a" / "00001.png").rename(tmp_path / "a" / "frame_1.png")
    with pytest.raises(AnnotationError, match=r"frame_1\.png': a mask's name is the number of its frame"):
        read_annotations(tmp_path)


def test_a_damaged_pickle_or_mat_file_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    masks = np.zeros((24, 32, 3), np.uint8)
    masks[3:9, 4:8] = 1
    whole = [(tmp_path / "a.pkl", content) for content in (PYTHON_2, *(pickle.dumps({"a": CLIP}, n) for n in (2, 5)))]
    for packed in (True, False):
        content = mat_file(matrix("part_mask", masks, 2, 9), compressed=packed)
        whole.append((tmp_path / f"packed_{packed}" / "a" / "puppet_mask.mat", content))
    rng, refused = random.Random(0), []
    for number in range(300):
        path, content = whole[number % len(whole)]
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(damaged))
            damaged[place : place + rng.choice((0, 1, 1, 4))] = rng.randbytes(rng.choice((0, 1, 1, 4)))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(damaged)
        try:
            read_annotations(path if path.suffix == ".pkl" else path.parents[1])
        except AnnotationError as error:
            refused.append(str(error))
    assert 100 < len(refused) < 300
    assert not [line for line in refused if "\n" in line]
