"""The motion vectors and the box of one video."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from mocrop_core.actor import ActorMethod, choose_actor_box
from mocrop_core.actor_map import KeyFrames
from mocrop_core.method import BoxSelection, Method, choose_box_from, denoise
from mocrop_core.motion_vectors import MotionVectors
from mocrop_core.ranges import check_share
from mocrop_core.vectors import VECTOR, Vectors, clip_rng
from pipelines.media.containers import NoVectors
from pipelines.one_video.methods import DEFAULT, AnyMethod, create_method
from pipelines.one_video.motion import Scan, scanned, with_vectors
from pipelines.one_video.sources import Source, local_video, name_of


def read_motion_vectors(source: Source) -> MotionVectors:
    """Read the motion vectors of a video.

    source: the path of a file, the URL of an object (``s3://bucket/clip.mp4``, with the extra ``s3``), the bytes of a
    file, or a file object opened in binary mode. H.264, MPEG-1, MPEG-2, MPEG-4, H.263, WMV and FLV have vectors.
    Memory grows with the number of vectors, 18 bytes each. Anything that was skipped or chosen, such as packets that
    cannot be decoded, is reported as a Python warning. Raises ``mocrop.VideoError`` for a file that is not a video or
    has no vectors that match its displayed picture (HEVC, VP9, AV1, and videos that players rotate or mirror);
    `find_box` and `crop_video` also accept those. Raises ``mocrop.StoreError`` if an object store refuses, TypeError
    for another type of source.

    >>> mocrop.read_motion_vectors("clip.mp4")
    MotionVectors(13608 vectors, 50 frames of 320x240 px, 5 key frames with texture)
    >>> with open("clip.mp4", "rb") as file:
    ...     len(mocrop.read_motion_vectors(file))
    13608
    """
    with local_video(source) as path, _with_advice(), scanned(path) as scan:
        warn(source, scan.notes())
        vectors = np.concatenate([np.empty(0, VECTOR), *scan.blocks()])
        return MotionVectors(
            vectors,
            scan.motion.frame_size,
            scan.motion.num_frames,
            scan.keys.frames,
            scan.keys.textures,
            scan.keys.picture,
        )


@contextmanager
def _with_advice() -> Iterator[None]:
    """Add to `NoVectors` in the block what accepts the video."""
    try:
        yield
    except NoVectors as error:
        raise NoVectors(f"{error}, or use find_box, crop_video or mocrop crop, which transcode it themselves") from None


def find_box(
    source: Source | MotionVectors,
    method: str | AnyMethod = DEFAULT,
    area: float | None = None,
    *,
    segments: int | None = None,
    clip_id: str = "",
    seed: int = 0,
) -> BoxSelection:
    """Find the box of a video: the part of the frame that contains its motion.

    source: as in `read_motion_vectors`, or its result. A video without motion vectors is transcoded to H.264 in a
    temporary file. method: a name from `list_methods`, or the result of `create_method`. area: the area of the box as a
    share of the frame's, in (0, 1]; None for the method's default. segments: number of equal parts of the video, each
    with a box of the same size, for a moving box; only ``actor`` supports more than 1; None for the method's default.
    clip_id, seed: determine the random samples of ``paper-v1`` and ``paper-v2``; with a clip's id in a store and the
    seed of its recipe, the box equals the store's. ``actor`` uses no random numbers and always gives the store's box,
    bit for bit, for the same H.264 file.

    Returns ``box`` (x0, y0, x1, y1: px of the displayed frame, half-open), ``score`` (share of the density inside the
    box, 0 to 1; NaN if nothing moves), ``source`` (``mocrop.SOURCE_MOTION``, or ``mocrop.SOURCE_FALLBACK`` if nothing
    moves and the box is the middle of the frame), ``density`` (float32, rows and columns: the map on which the box was
    chosen) and ``path`` (the box in each frame if it moves, else None). Vectors are kept in a temporary file: the
    memory of ``actor`` does not depend on the length of the video, that of the paper's methods grows with the vectors
    they keep. Raises and warns like `read_motion_vectors`; ValueError for an invalid method, area or segments, or for
    ``actor`` on motion vectors without texture.

    >>> found = mocrop.find_box("clip.mp4", method="actor", area=0.5)
    >>> found.box
    Box(x0=0, y0=0, x1=160, y1=240)
    >>> found.source == mocrop.SOURCE_MOTION, found.density.shape
    (True, (30, 40))
    """
    chosen = method_of(method, area, segments)
    if isinstance(source, MotionVectors):
        keys = None
        if source.texture is not None:
            keys = KeyFrames(source.key_frames, source.texture, source.picture)
        return _choose([source.vectors], len(source), source.num_frames, keys, source.frame_size, chosen, clip_id, seed)
    with local_video(source) as path, with_vectors(path) as scan:
        warn(source, scan.notes())
        return choose(scan, chosen, clip_id, seed)


def method_of(method: str | AnyMethod, area: float | None, segments: int | None = None) -> AnyMethod:
    """The method with the given name, or the given one, with another area and number of segments if given.

    Raises ValueError for invalid values.
    """
    chosen = create_method(method) if isinstance(method, str) else method
    if not isinstance(chosen, (Method, ActorMethod)):
        hint = f"; did you mean area={method!r}?" if isinstance(method, float) else ""
        raise TypeError(f"method must be a name or the result of create_method, got {method!r}{hint}")
    numbers: dict[str, Any] = {}
    if area is not None:
        check_share("area", area)
        numbers["crop_ratio"] = area
    if segments is not None and segments != getattr(chosen, "segments", 1):
        if not isinstance(chosen, ActorMethod):
            raise ValueError(f"segments {segments}: only the method actor has a box that moves; give 1")
        numbers["segments"] = segments
    return replace(chosen, **numbers)


def choose(scan: Scan, method: AnyMethod, clip_id: str = "", seed: int = 0) -> BoxSelection:
    """The box that a method chooses from a scan; equals a store's box for the clip with this id."""
    motion = scan.motion
    return _choose(
        scan.blocks(), motion.num_vectors, motion.num_frames, scan.keys, motion.frame_size, method, clip_id, seed
    )


def warn(source: Source, notes: Iterable[str]) -> None:
    """Issue a warning for each note, attributed to the caller of the public function."""
    for note in notes:
        warnings.warn(f"{name_of(source)}: {note}", stacklevel=3)


def _choose(
    blocks: Iterable[Vectors],
    total: int,
    num_frames: int,
    keys: KeyFrames | None,
    frame_size: tuple[int, int],
    method: AnyMethod,
    clip_id: str,
    seed: int,
) -> BoxSelection:
    if isinstance(method, ActorMethod):
        if keys is None:
            raise ValueError("the method actor needs the texture of key frames, and these motion vectors have none")
        return choose_actor_box(blocks, num_frames, keys, frame_size, method)
    return choose_box_from(denoise(blocks, method, total), frame_size, method, clip_rng(seed, clip_id, "motion"))
