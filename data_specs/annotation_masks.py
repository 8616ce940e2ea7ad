"""Actor boxes from masks and joints: in each frame, the smallest box around the marked pixels or joints."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from data_specs.annotations import Annotation, AnnotationError
from data_specs.matlab import read_arrays
from data_specs.schema import MAX_FRAMES

PUPPETS, JOINTS = "puppet_mask.mat", "joint_positions.mat"

OnClip = Callable[[int, int], None]
Mask = npt.NDArray[Any]


def mask_box(mask: Mask) -> tuple[int, int, int, int] | None:
    """Left, top, width and height of the smallest box around the nonzero pixels of a mask; None if all are 0."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return None
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top


def read_masks(folder: Path, files: list[Path], on_clip: OnClip) -> dict[str, Annotation]:
    """Each clip's boxes from masks ``CLIP/00000.png``; the file name is the frame number, from 0.

    The layout is that of DAVIS (Perazzi et al. 2016; https://davischallenge.org). Every nonzero pixel belongs to the
    actor: all objects of a palette together; transparency is ignored. A frame without actor has no box. If the masks
    lie in the folder itself, it is one clip with the folder's name. Raises ``AnnotationError`` if a file name is not a
    number or the masks of a clip differ in size.
    """
    clips: dict[str, list[Path]] = {}
    for path in files:
        place = path.parent.relative_to(folder).as_posix()
        clips.setdefault(folder.resolve().name if place == "." else place, []).append(path)
    found = {}
    for number, (id, masks) in enumerate(clips.items()):
        on_clip(number, len(clips))
        found[id] = _of_masks(masks)
    on_clip(len(clips), len(clips))
    return found


def _of_masks(paths: list[Path]) -> Annotation:
    size: tuple[int, int] | None = None
    boxes = []
    for path in paths:
        if not (path.stem.isascii() and path.stem.isdecimal() and int(path.stem) <= MAX_FRAMES):
            raise AnnotationError(f"annotations {str(path)!r}: a mask's name is the number of its frame, as 00000.png")
        mask = _read_mask(path)
        size = size or mask.shape
        if mask.shape != size:
            one, other = (f"{width}×{height}" for height, width in (mask.shape, size))
            raise AnnotationError(f"annotations {str(path)!r}: {one} px, but {paths[0].name} has {other}")
        boxes.append((int(path.stem), mask_box(mask)))
    return _annotation(boxes, None, size)


def _read_mask(path: Path) -> Mask:
    """The mask, (height, width), 0 outside the actor."""
    try:
        with Image.open(path) as image:
            opaque = {"LA": "L", "PA": "P", "RGBA": "RGB"}.get(image.mode)
            mask = np.asarray(image.convert(opaque) if opaque else image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise AnnotationError(f"annotations {str(path)!r}: not a picture ({' '.join(str(error).split())})") from None
    return mask if mask.ndim == 2 else np.asarray(mask.any(axis=2))


def read_jhmdb(folder: Path, files: list[Path], on_clip: OnClip) -> dict[str, Annotation]:
    """Each clip's boxes from J-HMDB's files ``CLASS/CLIP/puppet_mask.mat`` or ``…/joint_positions.mat``.

    As published (Jhuang et al. 2013; http://jhmdb.is.tue.mpg.de): ``part_mask`` (height, width, frames), nonzero on
    the person; ``pos_img`` (2, joints, frames), x and y in px from 1. The box around the joints omits what extends
    beyond them (hands, hair, feet): prefer the masks if you have both. Raises ``AnnotationError`` for other contents.
    """
    wanted = PUPPETS if any(path.name == PUPPETS for path in files) else JOINTS
    chosen = [path for path in files if path.name == wanted]
    found = {}
    for number, path in enumerate(chosen):
        on_clip(number, len(chosen))
        try:
            arrays = read_arrays(path)
            made = _of_puppets(arrays) if wanted == PUPPETS else _of_joints(arrays)
        except ValueError as error:
            raise AnnotationError(f"annotations {str(path)!r}: {error}") from None
        found[path.parent.relative_to(folder).as_posix()] = made
    on_clip(len(chosen), len(chosen))
    return found


def _of_puppets(arrays: dict[str, Mask]) -> Annotation:
    masks = arrays.get("part_mask")
    if masks is None or masks.ndim not in (2, 3) or not masks.size:
        raise ValueError("no array part_mask of height × width × frames")
    masks = masks.reshape(*masks.shape[:2], -1)  # MATLAB drops a last dimension of 1
    boxes = [(frame, mask_box(masks[:, :, frame])) for frame in range(masks.shape[2])]
    return _annotation(boxes, masks.shape[2], (masks.shape[0], masks.shape[1]))


def _of_joints(arrays: dict[str, Mask]) -> Annotation:
    joints = arrays.get("pos_img")
    if joints is None or joints.ndim not in (2, 3) or joints.shape[0] != 2 or not joints.size:
        raise ValueError("no array pos_img of 2 × joints × frames")
    places = joints.reshape(2, joints.shape[1], -1).astype(np.float64) - 1
    low, high = places.min(axis=1), places.max(axis=1)
    xywh = np.concatenate([low, high - low]).T
    return Annotation(np.arange(len(xywh)), xywh, len(xywh))


def _annotation(
    boxes: Iterable[tuple[int, tuple[int, int, int, int] | None]],
    num_frames: int | None,
    frame_size: tuple[int, int] | None,
) -> Annotation:
    known = [(frame, box) for frame, box in boxes if box is not None]
    frames = np.array([frame for frame, _ in known], np.int64)
    return Annotation(frames, np.array([box for _, box in known], np.float64).reshape(-1, 4), num_frames, frame_size)
