"""Actor boxes: ``{id: {"num_frames": n, "tubes": [{"start_frame", "end_frame", "boxes_xywh"}]}}`` in a JSON file.

Boxes are x, y, width, height in px of the clip's frame, one a frame from ``start_frame`` to ``end_frame``, which is
exclusive; frames count from 0. The form of ``ucf101_24.json``, the corrected actor boxes of 24 classes of UCF-101.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from data_specs.schema import MAX_FRAMES

Boxes = npt.NDArray[np.float64]


class AnnotationError(ValueError):
    """A file of actor boxes that cannot be read: one line that says where and what."""


class Tube(BaseModel):
    """One actor's boxes, a frame each."""

    model_config = ConfigDict(frozen=True)

    start_frame: int = Field(ge=0, le=MAX_FRAMES)
    end_frame: int = Field(ge=0, le=MAX_FRAMES)
    boxes_xywh: list[tuple[float, float, float, float]]

    @model_validator(mode="after")
    def _a_box_for_each_frame(self) -> Tube:
        if len(self.boxes_xywh) != self.end_frame - self.start_frame:
            frames = f"frames {self.start_frame} to {self.end_frame}"
            raise ValueError(f"{len(self.boxes_xywh)} boxes for {frames} (exclusive)")
        return self


class Annotation(BaseModel):
    """The actors of one clip."""

    model_config = ConfigDict(frozen=True)

    num_frames: int = Field(ge=0, le=MAX_FRAMES)
    tubes: list[Tube]


@dataclass(frozen=True, slots=True)
class ActorBoxes:
    """The actor boxes of a clip that lie in its frame.

    ``frame`` (n,) int64, from 0; ``box`` (n, 4) float64, x0, y0, x1, y1 in px, cut at the frame's edges, each with an
    area above 0. ``problems`` says what did not fit: one line each.
    """

    frame: npt.NDArray[np.int64]
    box: Boxes
    problems: tuple[str, ...]

    def at(self, frame: int) -> Boxes:
        """The boxes in one frame: (k, 4)."""
        found: Boxes = self.box[self.frame == frame]
        return found


def read_annotations(path: str | Path) -> dict[str, Annotation]:
    """The annotations of each clip id; ``AnnotationError`` in one line for a file that is not of the form."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        return TypeAdapter(dict[str, Annotation]).validate_python(values)
    except OSError as error:
        raise AnnotationError(f"annotations {str(path)!r}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = " → ".join(str(part) for part in first["loc"]) or "the file"
        message = first["msg"].removeprefix("Value error, ")
        raise AnnotationError(f"annotations {str(path)!r}: {where}: {message}") from None
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"annotations {str(path)!r}: not JSON in UTF-8 ({error})") from None


def actor_boxes(annotation: Annotation, num_frames: int, frame_size: tuple[int, int]) -> ActorBoxes:
    """The boxes that fit a clip of ``num_frames`` frames of ``frame_size`` (height, width), px.

    A box over the edge is cut there; one that is outside, empty, not finite or of a frame that the clip has not is
    left out. All are counted in ``problems``, as is another number of frames, which alone leaves nothing out.
    """
    height, width = frame_size
    frame = np.concatenate([np.empty(0, np.int64), *(np.arange(t.start_frame, t.end_frame) for t in annotation.tubes)])
    xywh = np.array([box for tube in annotation.tubes for box in tube.boxes_xywh], np.float64).reshape(-1, 4)
    with np.errstate(over="ignore"):  # then it is not finite
        whole = np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]])
    finite = np.asarray(np.isfinite(whole).all(axis=1))[:, None]
    cut = np.clip(np.where(finite, whole, 0), 0, [width, height, width, height])
    inside = finite[:, 0] & (cut[:, 2] > cut[:, 0]) & (cut[:, 3] > cut[:, 1])
    timely = frame < num_frames
    good = inside & timely
    problems = []
    if annotation.num_frames != num_frames:
        problems.append(f"annotated as {annotation.num_frames} frames, the clip has {num_frames}")
    for count, what in (
        (int((~timely).sum()), "of frames after the last one left out"),
        (int((timely & ~inside).sum()), f"outside the frame of {width}×{height} px or empty left out"),
        (
            int((good & (cut != whole).any(axis=1)).sum()),
            f"over the edge of the frame of {width}×{height} px cut there",
        ),
    ):
        if count:
            problems.append(f"{count} of {len(frame)} boxes {what}")
    if not good.any():
        problems.append("no actor box is left")
    return ActorBoxes(frame[good], cut[good], tuple(problems))


@dataclass(frozen=True, slots=True)
class Matched:
    """Annotations beside the clips of a store: boxes by row, and what did not match, by clip id."""

    boxes: Mapping[int, ActorBoxes]
    problems: Mapping[str, tuple[str, ...]]


def match(
    annotations: Mapping[str, Annotation],
    ids: list[str],
    num_frames: npt.NDArray[Any],
    frame_size: npt.NDArray[Any],
) -> Matched:
    """The actor boxes of the rows of a store that are annotated and known; everything else is a problem, by id.

    ``ids``, ``num_frames`` (n,) and ``frame_size`` (n, 2) are the store's tables. Letter case in ids counts.
    """
    rows = {id: row for row, id in enumerate(ids)}
    boxes: dict[int, ActorBoxes] = {}
    problems: dict[str, tuple[str, ...]] = {}
    for id, annotation in annotations.items():
        row = rows.get(id)
        if row is None:
            problems[id] = ("not in the store",)
        elif not num_frames[row]:
            problems[id] = ("annotated, but the clip is not done",)
        else:
            found = actor_boxes(annotation, int(num_frames[row]), (int(frame_size[row][0]), int(frame_size[row][1])))
            if found.problems:
                problems[id] = found.problems
            if len(found.frame):
                boxes[row] = found
    return Matched(boxes, problems)
