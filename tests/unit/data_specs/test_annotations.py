"""Actor boxes: what of them fits a clip and a store."""

from __future__ import annotations

import numpy as np
import pytest

from data_specs.annotations import Annotation, actor_boxes, match

SIZE = (240, 320)


def annotation(
    num_frames: int | None, *tubes: tuple[int, list[list[float]]], frame_size: tuple[int, int] | None = None
) -> Annotation:
    frames = [np.arange(start, start + len(boxes)) for start, boxes in tubes]
    xywh = np.array([box for _, boxes in tubes for box in boxes], float).reshape(-1, 4)
    return Annotation(np.concatenate([np.empty(0, np.int64), *frames]), xywh, num_frames, frame_size)


def test_boxes_are_cut_at_the_edge_and_left_out_beyond_it() -> None:
    found = actor_boxes(
        annotation(5, (0, [[-10, 20, 30, 40], [400, 0, 10, 10], [10, 10, 0, 10]]), (3, [[1, 2, 3, 4]] * 3)), 5, SIZE
    )
    assert found.frame.tolist() == [0, 3, 4]
    assert found.box[0].tolist() == [0, 20, 20, 60]
    assert found.problems == (
        "1 of 6 boxes left out: their frames are beyond the clip's 5",
        "2 of 6 boxes left out: empty, or outside the frame of 320×240 px",
        "1 of 6 boxes clipped at the edge of the frame of 320×240 px",
    )
    assert found.at(4).tolist() == [[1, 2, 4, 6]]


def test_another_number_of_frames_is_told_and_the_boxes_are_used() -> None:
    found = actor_boxes(annotation(7, (0, [[1, 2, 3, 4]] * 7)), 6, SIZE)
    assert len(found.frame) == 6
    assert found.problems[0] == "annotated as 7 frames, the clip has 6"


def test_what_does_not_match_the_store_is_listed_by_id() -> None:
    annotated = {
        "A/good": annotation(2, (0, [[0, 0, 10, 10]])),
        "A/none": annotation(2, (0, [[0, 0, 10, 10]])),
        "A/pending": annotation(2, (0, [[0, 0, 10, 10]])),
        "A/away": annotation(2, (0, [[900, 0, 10, 10]])),
        "A/empty": annotation(2),
    }
    ids = ["A/away", "A/empty", "A/good", "A/pending"]
    sizes = np.array([SIZE] * 3 + [(0, 0)])
    found = match(annotated, ids, np.array([2, 2, 2, 0]), sizes)
    assert list(found.boxes) == [2]
    assert found.problems == {
        "A/none": ("not in the store",),
        "A/pending": ("annotated, but the clip is not done",),
        "A/away": ("1 of 1 boxes left out: empty, or outside the frame of 320×240 px", "no actor box is left"),
        "A/empty": ("no actor box is left",),
    }


def test_boxes_in_another_frame_size_are_scaled_to_the_clips() -> None:
    found = actor_boxes(annotation(1, (0, [[32, 24, 64, 48]]), frame_size=(240, 320)), 1, (476, 640))
    assert found.box[0] == pytest.approx([64, 47.6, 192, 142.8])
    assert found.problems == ()
    whole = actor_boxes(annotation(1, (0, [[0, 0, 320, 240]]), frame_size=(240, 320)), 1, (257, 341))
    assert whole.box.tolist() == [[0, 0, 341, 257]]
    assert whole.problems == ()  # rounding does not count as over the edge


def test_a_frame_of_another_shape_is_told_and_the_boxes_are_used() -> None:
    found = actor_boxes(annotation(1, (0, [[32, 24, 64, 48]]), frame_size=(240, 320)), 1, (240, 640))
    assert found.box.tolist() == [[64, 24, 192, 72]]
    assert found.problems == ("scaled by 2 across and 1 down: the annotated frame has a different aspect ratio",)


def test_scaled_clips_are_counted() -> None:
    sized = annotation(1, (0, [[1, 2, 3, 4]]), frame_size=(240, 320))
    annotated = {"same": sized, "twice": sized, "unsized": annotation(1, (0, [[1, 2, 3, 4]]))}
    sizes = np.array([(240, 320), (480, 640), (480, 640)])
    found = match(annotated, list(annotated), np.array([1, 1, 1]), sizes)
    assert found.scaled == 1
    assert {row: boxes.box[0].tolist() for row, boxes in found.boxes.items()} == {
        0: [1, 2, 4, 6], 1: [2, 4, 8, 12], 2: [1, 2, 4, 6]
    }  # fmt: skip


def test_a_frame_before_the_first_is_left_out_like_one_after_the_last() -> None:
    found = actor_boxes(annotation(None, (-1, [[1, 2, 3, 4]] * 3)), 1, SIZE)
    assert found.frame.tolist() == [0]
    assert found.problems == ("2 of 3 boxes left out: their frames are beyond the clip's 1",)


def test_an_id_in_another_folder_is_not_guessed_but_the_right_one_is_named() -> None:
    annotated = {id: annotation(1, (0, [[1, 2, 3, 4]])) for id in ("bear", "480p/bear", "cow")}
    ids = ["animal/bear", "animal/cow", "farm/cow"]
    found = match(annotated, ids, np.array([1, 1, 1]), np.array([SIZE] * 3))
    assert not found.boxes
    near = ("not in the store, which has 'animal/bear'",)
    assert found.problems == {"bear": near, "480p/bear": near, "cow": ("not in the store",)}
