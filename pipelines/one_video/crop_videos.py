"""Cropping one video to its box."""

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
    """The result of one video.

    ``choice`` was made by ``method``, in a frame of ``frame_size`` (height, width), px; ``notes`` has one line for each
    thing that was passed over, chosen or repaired.
    """

    method: AnyMethod
    choice: BoxSelection
    frame_size: tuple[int, int]
    num_frames: int
    notes: tuple[str, ...]

    @property
    def even_size(self) -> tuple[int, int]:
        """Height and width of the cropped video if it is not resized, px: the box without odd rows and columns."""
        return self.choice.box.height // 2 * 2, self.choice.box.width // 2 * 2


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

    source: as in `read_motion_vectors`, with any codec. target: the file to write, .mp4, .m4v, .mov or .mkv; an
    existing file is replaced once the new one is complete. method, area, segments: as in `find_box`, with at most 200
    segments. size: (height, width) of the output, px, both even (``mocrop crop --size`` takes width x height); None
    keeps the size of the box, less the last column or row of an odd side. The video is H.264 (x264's preset medium at
    CRF 18), upright, with the timestamps of the source; sound is copied, or encoded as AAC if the container does not
    support its codec. Returns the same as `find_box`. Raises and warns like `find_box`; ValueError for another suffix,
    an invalid size, or a target that is the source; OSError if the target cannot be written.

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
        check_target(source, target)
    check_size(size)
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
    return CropReport(method, choice, scan.motion.frame_size, total, notes)


def check_target(source: Source, target: Path) -> None:
    """Raise ValueError for a target that cannot be written."""
    if target.suffix.lower() not in MUXERS:
        raise ValueError(f"target {str(target)!r}: the name must end in {', '.join(MUXERS)}")
    if not target.parent.is_dir():
        raise ValueError(f"target {str(target)!r}: its folder does not exist")
    if target.is_dir():
        raise ValueError(f"target {str(target)!r} is a folder; name a file in it")
    if isinstance(source, str | os.PathLike) and target.exists() and target.samefile(source):
        raise ValueError(f"target {str(target)!r} is {name_of(source)} itself; choose another name")


def check_size(size: tuple[int, int] | None) -> None:
    """Raise ValueError for a size (height, width) that H.264 does not support or that is too large."""
    if size is None:
        return
    if not (isinstance(size, tuple) and len(size) == 2):
        raise TypeError(f"size must be (height, width), got {size!r}")
    if not (all(side >= 2 and side % 2 == 0 for side in size) and size[0] * size[1] <= MAX_PIXELS):
        height, width = size
        raise ValueError(
            f"size {width}x{height} (width x height): give even numbers of at least 2, at most {MAX_PIXELS} px in all"
        )
