"""Actor boxes of clips, and matching them to the clips of a store.

Frames count from 0. If an annotation gives its own frame size, its boxes are in px of that frame and are scaled to the
clip's; otherwise they are in px of the clip's frame. `data_specs.annotation_files` reads them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Boxes = npt.NDArray[np.float64]
SAME_SHAPE = 0.02  # relative difference of the horizontal and vertical scales that is not reported


class AnnotationError(ValueError):
    """Annotations that cannot be read; the message is one line with the place and the cause."""


@dataclass(frozen=True, slots=True, eq=False)
class Annotation:
    """The actors of one clip: one entry per actor and frame.

    ``frame`` (n,) int64, from 0; ``xywh`` (n, 4) float64: left, top, width, height, px. ``num_frames`` of the clip and
    ``frame_size`` (height, width) of the frame that the boxes refer to, px; None if the annotation does not give them.
    ``notes``: what was left out when the file was read, one line each.
    """

    frame: npt.NDArray[np.int64]
    xywh: Boxes
    num_frames: int | None = None
    frame_size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ActorBoxes:
    """The actor boxes of a clip, clipped to its frame.

    ``frame`` (n,) int64, from 0; ``box`` (n, 4) float64, x0, y0, x1, y1 in px, clipped at the frame's edges, each with
    an area above 0. ``problems``: what did not fit, one line each.
    """

    frame: npt.NDArray[np.int64]
    box: Boxes
    problems: tuple[str, ...]

    def at(self, frame: int) -> Boxes:
        """The boxes in one frame: (k, 4)."""
        found: Boxes = self.box[self.frame == frame]
        return found


def actor_boxes(annotation: Annotation, num_frames: int, frame_size: tuple[int, int]) -> ActorBoxes:
    """The boxes that fit a clip of ``num_frames`` frames of ``frame_size`` (height, width), px.

    Boxes are scaled first if the annotation's frame has a different size. A box that crosses the frame's edge is
    clipped; one that is outside, empty, not finite or of a frame that the clip does not have is left out. Both are
    counted in ``problems``. A different number of frames or aspect ratio is reported there too, but drops no box.
    """
    height, width = frame_size
    frame, problems = annotation.frame, list(annotation.notes)
    if annotation.num_frames not in (None, num_frames):
        problems.append(f"annotated as {annotation.num_frames} frames, the clip has {num_frames}")
    down, across = _scales(annotation, frame_size)
    if abs(down / across - 1) > SAME_SHAPE:
        problems.append(
            f"scaled by {across:.3g} across and {down:.3g} down: the annotated frame has a different aspect ratio"
        )
    with np.errstate(over="ignore"):  # such a box is not finite
        xywh = annotation.xywh * [across, down, across, down]
        whole = np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]])
    finite = np.asarray(np.isfinite(whole).all(axis=1))[:, None]
    cut = np.clip(np.where(finite, whole, 0), 0, [width, height, width, height])
    inside = finite[:, 0] & (cut[:, 2] > cut[:, 0]) & (cut[:, 3] > cut[:, 1])
    timely = (frame >= 0) & (frame < num_frames)
    good = inside & timely
    over = good & (np.abs(cut - whole) > 1e-6).any(axis=1)  # tolerate rounding by the scaling
    for count, what in (
        (int((~timely).sum()), f"left out: their frames are beyond the clip's {num_frames}"),
        (int((timely & ~inside).sum()), f"left out: empty, or outside the frame of {width}×{height} px"),
        (int(over.sum()), f"clipped at the edge of the frame of {width}×{height} px"),
    ):
        if count:
            problems.append(f"{count} of {len(frame)} boxes {what}")
    if not good.any():
        problems.append("no actor box is left")
    return ActorBoxes(frame[good], cut[good], tuple(problems))


def _scales(annotation: Annotation, frame_size: tuple[int, int]) -> tuple[float, float]:
    """The factors that convert the annotation's px to the clip's, vertical and horizontal."""
    own = annotation.frame_size or frame_size
    return frame_size[0] / own[0], frame_size[1] / own[1]


def of_windows(
    annotations: Mapping[str, Annotation],
    ids: Sequence[str],
    videos: Sequence[str],
    first_frames: npt.NDArray[Any],
    num_frames: npt.NDArray[Any],
) -> dict[str, Annotation]:
    """The annotations with those of whole videos as annotations of the windows of them that a store has.

    ``videos`` (n,) are the paths of the videos of clips that are windows, "" for whole videos; their annotations have
    the path without its suffix as id. ``first_frames`` (n,) and ``num_frames`` (n,) are where the window is in it. The
    boxes outside a window are none of it; a window without any, or with an annotation of its own, gets none from its
    video.
    """
    names = [os.path.splitext(video)[0] for video in videos]
    windows = [row for row, name in enumerate(names) if name in annotations and ids[row] not in annotations]
    taken = {names[row] for row in windows} - set(ids)
    found = {id: annotation for id, annotation in annotations.items() if id not in taken}
    for row in windows:
        whole = annotations[names[row]]
        frame = whole.frame - int(first_frames[row])
        inside = (frame >= 0) & (frame < int(num_frames[row]))
        if inside.any():
            found[ids[row]] = replace(whole, frame=frame[inside], xywh=whole.xywh[inside], num_frames=None)
    return found


@dataclass(frozen=True, slots=True)
class Matched:
    """Annotations matched to the clips of a store: boxes by row, and problems by clip id.

    ``scaled`` counts the clips whose boxes were scaled from a different frame size.
    """

    boxes: Mapping[int, ActorBoxes]
    problems: Mapping[str, tuple[str, ...]]
    scaled: int = 0


def match(
    annotations: Mapping[str, Annotation],
    ids: list[str],
    num_frames: npt.NDArray[Any],
    frame_size: npt.NDArray[Any],
) -> Matched:
    """The actor boxes of the annotated rows of a store, and a problem by id for everything that does not match.

    ``ids``, ``num_frames`` (n,) and ``frame_size`` (n, 2) are the store's tables. Ids are case-sensitive.
    """
    rows = {id: row for row, id in enumerate(ids)}
    ends = _by_last_name(ids)
    boxes: dict[int, ActorBoxes] = {}
    problems: dict[str, tuple[str, ...]] = {}
    scaled = 0
    for id, annotation in annotations.items():
        row = rows.get(id)
        if row is None:
            near = ends.get(id.rpartition("/")[2])
            problems[id] = (f"not in the store, which has {near!r}" if near else "not in the store",)
        elif not (num_frames[row] and frame_size[row].all()):
            problems[id] = ("annotated, but the clip is not done",)
        else:
            size = int(frame_size[row][0]), int(frame_size[row][1])
            found = actor_boxes(annotation, int(num_frames[row]), size)
            if found.problems:
                problems[id] = found.problems
            if len(found.frame):
                boxes[row] = found
                scaled += annotation.frame_size not in (None, size)
    return Matched(boxes, problems, scaled)


def _by_last_name(ids: list[str]) -> dict[str, str]:
    """Ids by their last path component; "" for a component that several ids share."""
    found: dict[str, str] = {}
    for id in ids:
        name = id.rpartition("/")[2]
        found[name] = "" if name in found else id
    return found
