"""The motion vectors and the box of one video."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from mocrop_core.actor import ActorMethod, choose_actor_box
from mocrop_core.actor_map import KeyFrames
from mocrop_core.method import BoxSelection, Method, choose_box_from, denoise
from mocrop_core.motion_vectors import MotionVectors
from mocrop_core.ranges import check_share
from mocrop_core.vectors import VECTOR, Vectors, clip_rng
from pipelines.one_video.methods import DEFAULT, AnyMethod, create_method
from pipelines.one_video.motion import Scan, scanned, with_vectors
from pipelines.one_video.sources import Source, local_video, name_of


def read_motion_vectors(source: Source) -> MotionVectors:
    """Read the motion vectors of a video.

    source: the path of a file, the URL of an object (``s3://bucket/clip.mp4``, with the extra ``s3``), the bytes of a
    file, or a file object opened in binary mode. H.264, MPEG-1, MPEG-2, MPEG-4, H.263, WMV and FLV carry vectors.
    Memory grows with the number of vectors, 18 bytes each. Whatever had to be passed over or chosen, such as packets
    that cannot be decoded, is a Python warning. Raises ``mocrop.VideoError`` for what is not a video or has no vectors
    that fit its picture (HEVC, VP9 and AV1 give none; nor does a picture that players turn or mirror); `find_box` and
    `crop_video` take those as well. Raises ``mocrop.StoreError`` where an object store refuses, TypeError for anything
    else.

    >>> mocrop.read_motion_vectors("clip.mp4")
    MotionVectors(13608 vectors, 50 frames of 320x240 px, 5 key frames with texture)
    >>> with open("clip.mp4", "rb") as file:
    ...     len(mocrop.read_motion_vectors(file))
    13608
    """
    with local_video(source) as path, scanned(path) as scan:
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


def find_box(
    source: Source | MotionVectors,
    method: str | AnyMethod = DEFAULT,
    area: float | None = None,
    *,
    segments: int | None = None,
    clip_id: str = "",
    seed: int = 0,
) -> BoxSelection:
    """Find the box of a video: the part of the frame that holds what its motion vectors show moving.

    source: as `read_motion_vectors` takes it, or what that returns. A video without vectors of its own is transcoded to
    H.264 in a temporary file. method: a name of `list_methods`, or what `create_method` returns. area: of the box, as a
    share of the frame's, in (0, 1]; None leaves it to the method. segments: equal parts of the video with a box each,
    of one size, for a box that moves; only ``actor`` takes more than 1; None leaves it to the method. clip_id, seed:
    the random draws of ``paper-v1`` and ``paper-v2`` depend on these; with the clip's id in a store and the seed of its
    recipe, the box is the store's. By ``actor``, which draws nothing, it always is, bit for bit, given the same H.264
    file.

    Returns ``box`` (x0, y0, x1, y1: px of the frame as it is shown, half-open), ``score`` (share of the density inside
    the box, 0 to 1; NaN where nothing moves), ``source`` (``mocrop.SOURCE_MOTION``, or ``mocrop.SOURCE_FALLBACK`` where
    nothing moves and the box is the middle of the frame), ``density`` (float32, rows and columns: the map the box was
    chosen on) and ``path`` (the box in each frame of a box that moves, else None). Vectors wait in a temporary file:
    ``actor`` needs no more memory for a longer video, the paper's methods that of the vectors they keep. Raises and
    warns as `read_motion_vectors`, and ValueError for a method, an area or segments that cannot be, or ``actor`` on
    motion vectors without texture.

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
    """The method of a name, or the given one, with that area and those segments in the place of its own.

    ValueError for what cannot be.
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
    """The box that a method chooses on what a scan found; as in a store for the clip of that id."""
    motion = scan.motion
    return _choose(
        scan.blocks(), motion.num_vectors, motion.num_frames, scan.keys, motion.frame_size, method, clip_id, seed
    )


def warn(source: Source, notes: Iterable[str]) -> None:
    """Warn the caller of the library's function of each note."""
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
