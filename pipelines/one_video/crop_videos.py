"""One video in, the cropped video out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mocrop_core.box_path import BoxPath
from mocrop_core.method import BoxSelection
from pipelines.media.containers import MAX_PIXELS
from pipelines.media.crop_encoder import MOST_MOMENTS, MUXERS, sound_notes, write_crop
from pipelines.media.ffmpeg_binary import find_ffmpeg
from pipelines.one_video.boxes import choose, method_of, warn
from pipelines.one_video.methods import DEFAULT, AnyMethod
from pipelines.one_video.motion import TIME_LIMIT, OnProgress, silent, with_vectors
from pipelines.one_video.sources import Source, local_video, name_of


@dataclass(frozen=True, slots=True)
class CropReport:
    """What became of a video: its ``choice``, the ``frame_size`` (height, width, px) that the box is in, its number of
    frames, and a line for whatever was passed over, chosen or repaired."""

    choice: BoxSelection
    frame_size: tuple[int, int]
    num_frames: int
    notes: tuple[str, ...]


def crop_video(
    source: Source,
    target: str | os.PathLike[str],
    method: str | AnyMethod = DEFAULT,
    area: float | None = None,
    *,
    segments: int | None = None,
    size: tuple[int, int] | None = None,
) -> BoxSelection:
    """Find the box of a video and write the video cropped to it.

    source: as `read_motion_vectors` takes it; any codec. target: the file to write, .mp4, .m4v, .mov or .mkv; it
    appears once it is whole, in the place of one that exists. method, area, segments: as `find_box` takes them, at most
    200 segments. size: height and width to resize the box to, px, even; None keeps its own, less the last column or row
    of an odd side. The video is H.264 (x264's preset medium at CRF 18), upright, each frame with its time in the
    source; sound is copied, or encoded as AAC where the container does not take it. Returns what `find_box` finds.
    Raises and warns as `find_box`; ValueError for another suffix, a size that cannot be, or a target that is the
    source; OSError where it cannot be written.

    >>> found = mocrop.crop_video("clip.mp4", "cropped.mp4", area=0.5)
    >>> found.box
    Box(x0=0, y0=0, x1=160, y1=240)
    >>> mocrop.read_motion_vectors("cropped.mp4").frame_size
    (240, 160)
    """
    report = crop_file(source, Path(target), method_of(method, area, segments), size)
    warn(source, report.notes)
    return report.choice


def crop_file(
    source: Source,
    target: Path | None,
    method: AnyMethod,
    size: tuple[int, int] | None = None,
    on_progress: OnProgress = silent,
) -> CropReport:
    """Find the box of a video and, unless ``target`` is None, write the video cropped to it."""
    if target is not None:
        check_target(source, target, size)
    if (segments := getattr(method, "segments", 1)) > MOST_MOMENTS:
        raise ValueError(f"segments must be at most {MOST_MOMENTS}, got {segments}")
    with local_video(source) as path, with_vectors(path, on_progress) as scan:
        choice, notes, total = choose(scan, method), scan.notes("deinterlaced"), scan.decoded.frames
        if target is not None:
            notes = (*notes, *sound_notes(scan.survey, target))
            total = write_crop(
                path, target, choice.path or BoxPath((0.0,), (choice.box,)), size, scan.survey, find_ffmpeg(),
                TIME_LIMIT, deinterlace=scan.decoded.interlaced > 0, on_frames=lambda done: on_progress("crop", done,
                total),
            )  # fmt: skip
    return CropReport(choice, scan.motion.frame_size, total, notes)


def check_target(source: Source, target: Path, size: tuple[int, int] | None) -> None:
    """ValueError for a target or a size that cannot be."""
    if target.suffix.lower() not in MUXERS:
        raise ValueError(f"target {str(target)!r}: give a file that ends in {', '.join(MUXERS)}")
    if not target.parent.is_dir():
        raise ValueError(f"target {str(target)!r}: its folder does not exist")
    if target.is_dir():
        raise ValueError(f"target {str(target)!r} is a folder; name a file in it")
    if isinstance(source, str | os.PathLike) and target.exists() and target.samefile(source):
        raise ValueError(f"target {str(target)!r} is {name_of(source)} itself; give it another name")
    if size is not None and not (isinstance(size, tuple) and len(size) == 2):
        raise TypeError(f"size must be (height, width), got {size!r}")
    if size is not None and not (all(side >= 2 and side % 2 == 0 for side in size) and size[0] * size[1] <= MAX_PIXELS):
        height, width = size
        raise ValueError(f"size {width}x{height}: give even numbers from 2, at most {MAX_PIXELS} px in all")
