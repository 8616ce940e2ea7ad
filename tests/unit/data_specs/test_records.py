"""Rows and records on disk: the literal JSON of each stage's row, what is refused, and the fingerprint."""

from __future__ import annotations

from typing import Any

import pytest

from data_specs.fingerprints import fingerprint
from data_specs.records import BoxRow, CropRow, MotionRow, Record, TranscodeRow, decode_record, decode_row, encode_row
from mocrop_core import Box, BoxPath

KEPT = {"source": "ab", "bytes": 9}
MOTION = {"frames": 25, "size": [240, 320], "key_frames": [0, 12, 24], "vectors": 7}
BOXED = {"box": [0, 0, 160, 240], "score": 0.5, "source": 1}
PATH = {"moments": [3.5, 11.0], "boxes": [[0, 0, 160, 240], [160, 0, 320, 240]]}
NOTES = {"missing": "20 of 25 frames decoded"}
WAY = BoxPath((3.5, 11.0), (Box(0, 0, 160, 240), Box(160, 0, 320, 240)))

ROWS: list[tuple[Any, dict[str, Any]]] = [
    (TranscodeRow("ab", 9), KEPT),
    (
        TranscodeRow("ab", 9, "cd", 5, 20, 5, NOTES),
        {**KEPT, "h264": "cd", "h264_bytes": 5, "frames": 20, "missing": 5, "notes": NOTES},
    ),
    (MotionRow(25, (240, 320), (0, 12, 24), 7), MOTION),
    (
        MotionRow(25, (240, 320), (), 7, Box(0, 30, 320, 210)),
        {**MOTION, "key_frames": [], "picture": [0, 30, 320, 210]},
    ),
    (BoxRow(Box(0, 0, 160, 240), 0.5, 1), BOXED),
    (BoxRow(Box(0, 0, 160, 240), None, 2, WAY), {**BOXED, "score": None, "source": 2, "path": PATH}),
    (CropRow((0, 5)), {"frame_index": [0, 5]}),
]


def plain(value: Any) -> Any:
    """The value with lists for tuples, as JSON has it."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize(("row", "values"), ROWS)
def test_a_row_is_stored_as_these_values_and_read_back(row: Any, values: dict[str, Any]) -> None:
    assert plain(encode_row(row)) == values
    assert decode_row(type(row), values) == row


WRONG = [
    (TranscodeRow, {**KEPT, "colour": "red"}),
    (TranscodeRow, {**KEPT, "bytes": 9.0}),
    (TranscodeRow, {**KEPT, "bytes": True}),
    (TranscodeRow, {"source": "ab"}),
    (TranscodeRow, {**KEPT, "notes": {"missing": 3}}),
    (MotionRow, {**MOTION, "key_frames": [0, 12, 12]}),
    (MotionRow, {**MOTION, "size": [240, 320, 3]}),
    (MotionRow, {**MOTION, "size": [240, 0]}),
    (MotionRow, {**MOTION, "picture": [0, 0, 0, 240]}),
    (MotionRow, {**MOTION, "frames": "25"}),
    (BoxRow, {**BOXED, "box": [0, 0, 160]}),
    (BoxRow, {**BOXED, "score": float("nan")}),
    (BoxRow, {**BOXED, "source": 4}),
    (BoxRow, {"box": [0, 0, 160, 240], "source": 1}),
    (BoxRow, {**BOXED, "path": {**PATH, "moments": [11.0, 3.5]}}),
    (BoxRow, {**BOXED, "path": {**PATH, "boxes": PATH["boxes"][:1]}}),
    (BoxRow, {**BOXED, "path": {**PATH, "boxes": [[0, 0, 160, 240], [160, 0, 319, 240]]}}),
    (CropRow, {"frame_index": []}),
    (CropRow, {"frame_index": [-1, 5]}),
    (CropRow, [0, 5]),
]


@pytest.mark.parametrize(("row_type", "values"), WRONG)
def test_a_row_with_an_unknown_key_or_a_value_out_of_range_is_refused(row_type: Any, values: Any) -> None:
    with pytest.raises(ValueError, match="validation error"):
        decode_row(row_type, values)


def test_a_record_keeps_done_and_quarantined_clips_apart_and_has_the_fingerprint_of_its_stored_values() -> None:
    clips = {"a/1": MOTION, "a/2": {"reason": "motion: no key frame"}}
    objects = {"motion/00000/c.0.0.0": "0" * 32}
    output = fingerprint("motion", None, "x", clips, objects)
    values = {
        "inputs": "x",
        "output": output,
        "clips": clips,
        "objects": objects,
        "sizes": {},
        "software": {"av": "18"},
    }
    record = decode_record(MotionRow, None, 0, values)
    assert (set(record.clips), record.reasons) == ({"a/1"}, {"a/2": "motion: no key frame"})
    assert plain(record.as_attributes()) == values
    again = Record("motion", None, 0, "x", record.clips, record.reasons, objects, {}, {"av": "18"})
    assert (again, again.output) == (record, output)
    for changed in ({"output": "0" * 32}, {"inputs": "y"}, {"clips": {**clips, "a/1": {**MOTION, "vectors": 8}}}):
        with pytest.raises(ValueError, match="does not follow from its content"):
            decode_record(MotionRow, None, 0, {**values, **changed})
    with pytest.raises(ValueError, match="validation error"):
        decode_record(MotionRow, None, 0, {**values, "colour": "red"})
