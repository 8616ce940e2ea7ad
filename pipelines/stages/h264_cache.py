"""The H.264 files in the work folder. Their names contain a fingerprint of their inputs, so that none is ever stale."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from data_specs.chain import REVISION
from data_specs.datasets import Clip
from data_specs.documents import parse_json
from data_specs.fingerprints import file_fingerprint, fingerprint
from data_specs.local_files import read_part, refuse_links
from data_specs.locations import Linked
from data_specs.recipes import Encode, Recipe
from data_specs.records import MotionRow, TranscodeRow, decode_row, encode_row
from pipelines.atomic_files import atomic_write
from pipelines.errors import ClipError, RunStopped
from pipelines.media import encoder, ffmpeg_binary
from pipelines.media.window_encoder import Cut, WindowTranscoded, transcode_windows

_MOST_NOTE = 1 << 16  # largest size in bytes of the note beside an H.264 file
H264 = "h264"  # subfolder of the work folder
_SETTLED_NS = 2 * 10**9  # a file modified less than this ago could change again without a change of its times
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class Folders:
    """The folders of a run's video files: the data set's folder and the work folder."""

    source: str
    work_dir: str


def default_work_dir(store: str) -> str:
    """The default work folder of a local store; ``Linked`` if it is a symbolic link, which the user must name."""
    folder = f"{store.rstrip('/')}.work"
    if os.path.islink(folder):
        raise Linked(f"{folder!r} is a symbolic link; name the folder it leads to with --work-dir, if it is yours")
    return folder


def check_source(folders: Folders) -> None:
    """Raise ``RunStopped`` if the source folder is missing or empty, for example because its disk was unmounted."""
    try:
        with os.scandir(folders.source) as entries:
            problem = "" if any(entries) else "the folder is empty now"
    except OSError as error:
        problem = error.strerror or str(error)
    if problem:
        raise RunStopped(f"source {folders.source!r}: {problem}; fix this and run the same command again")


def source_path(clip: Clip, folders: Folders) -> Path:
    """The clip's file; ``ClipError`` if it is missing, empty or a symbolic link out of the source folder."""
    root = Path(os.path.realpath(folders.source))
    path = root / clip.path
    if not Path(os.path.realpath(path)).is_relative_to(root):
        raise ClipError("a symbolic link leads out of the source folder")
    if not path.is_file():
        raise ClipError("it is neither a file nor a link to one" if os.path.lexists(path) else "no such source file")
    if path.stat().st_size == 0:
        raise ClipError("the source file is empty (0 bytes)")
    return path


def video_of(clip: Clip, recipe: Recipe, build: str, folders: Folders) -> tuple[Path, TranscodeRow]:
    """The file to read a clip's vectors and frames from, and its row; transcode the source file if necessary.

    With ``transcode = "keep"``, the file is the source file itself, also of a window of it.
    """
    source = source_path(clip, folders)
    kept = _kept(source, clip)
    if not isinstance(recipe.transcode, Encode):
        return source, kept
    target = target_path(clip, kept.source, recipe.transcode, build, folders)
    if row := _finished(target, kept):
        return target, row
    _make_folder(target, folders)
    tool = _tool(build)
    settings = encoder.EncodeSettings(**recipe.transcode.model_dump())
    done: encoder.Transcoded | WindowTranscoded | ffmpeg_binary.FfmpegError
    with _tool_missing(tool):
        if clip.window is None:
            done = encoder.transcode(str(source), str(target), settings, tool, recipe.time_limit)
        else:
            cut = Cut(clip.window, target)
            (done,) = transcode_windows(str(source), [cut], settings, tool, recipe.time_limit)
    if isinstance(done, ffmpeg_binary.FfmpegError):
        raise done
    return target, _noted(target, kept, done, recipe.transcode)


def encode_together(
    clips: Sequence[Clip], recipe: Recipe, build: str, folders: Folders
) -> dict[str, ffmpeg_binary.FfmpegError]:
    """Make the missing H.264 files of windows of one video from one decoding; return the errors by clip id.

    Takes at most half of a clip's time limit. If the decoding fails as a whole, no file is made and no error returned:
    `video_of` then makes each file by itself, so that each window fails or succeeds for its own sake.
    """
    encode = recipe.transcode
    if not isinstance(encode, Encode):
        return {}
    source = source_path(clips[0], folders)
    kept = _kept(source, clips[0])
    targets = {clip.id: target_path(clip, kept.source, encode, build, folders) for clip in clips}
    missing = [clip for clip in clips if not _finished(targets[clip.id], kept)]
    if len(missing) < 2:
        return {}
    cuts = [Cut(clip.window, targets[clip.id]) for clip in missing if clip.window is not None]
    for cut in cuts:
        _make_folder(cut.target, folders)
    tool = _tool(build)
    try:
        with _tool_missing(tool):
            settings = encoder.EncodeSettings(**encode.model_dump())
            results = transcode_windows(str(source), cuts, settings, tool, recipe.time_limit / 2)
    except ffmpeg_binary.FfmpegError:  # each window by itself says why
        return {}
    errors = {}
    for clip, done in zip(missing, results, strict=True):
        if isinstance(done, ffmpeg_binary.FfmpegError):
            errors[clip.id] = done
        else:
            _noted(targets[clip.id], kept, done, encode)
    return errors


def _kept(source: Path, clip: Clip) -> TranscodeRow:
    """The row of a source file that is kept as it is."""
    try:
        hashed = file_fingerprint(source) if clip.window is None else _shared_fingerprint(source)
        return TranscodeRow(hashed, source.stat().st_size)
    except OSError as error:  # errors of reading do not name the file
        raise OSError(error.errno, error.strerror, str(source)) from error


def _shared_fingerprint(source: Path) -> str:
    """The fingerprint of a video that many windows share: read again only if the file has changed, or just now."""
    status = source.stat()
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < _SETTLED_NS:
        return file_fingerprint(source)
    return _remembered(str(source), (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))


@lru_cache(maxsize=64)
def _remembered(source: str, stamp: tuple[int, ...]) -> str:
    return file_fingerprint(source)


def target_path(clip: Clip, source: str, encode: Encode, build: str, folders: Folders) -> Path:
    """Path of a clip's H.264 file: a readable name with the fingerprint of source file, window, settings and build."""
    window = [] if clip.window is None else [clip.start, clip.end]
    key = fingerprint("h264", REVISION, source, window, encode.model_dump(), build)
    *folder, stem = (_UNSAFE.sub("_", part)[:80] for part in clip.id.split("/"))
    return Path(folders.work_dir, H264, *folder, f"{stem}-{key[:16]}.mp4")


def check_missing(row: TranscodeRow | MotionRow, recipe: Recipe) -> None:
    """Raise ``ClipError`` if a larger fraction of a clip's frames is missing than the recipe allows."""
    if row.missing > recipe.max_missing * ((row.frames or 0) + row.missing):
        what = row.notes.get("missing", f"{row.missing} frames are missing")
        raise ClipError(f"{what}: more are missing than max_missing {recipe.max_missing:g} allows")


def _finished(target: Path, kept: TranscodeRow) -> TranscodeRow | None:
    """The row of a clip by the note beside its H.264 file; None if the file is missing, incomplete or modified."""
    try:
        note = parse_json(read_part(target.with_suffix(".json"), None, _MOST_NOTE) or b"", _MOST_NOTE)
        row = decode_row(TranscodeRow, {**note, **encode_row(kept)})
        whole = target.is_file() and target.stat().st_size == row.h264_bytes and file_fingerprint(target) == row.h264
    except (OSError, ValueError, TypeError):
        return None
    return row if whole and row.frames else None


def _make_folder(target: Path, folders: Folders) -> None:
    refuse_links(Path(folders.work_dir), target.parent)
    target.parent.mkdir(parents=True, exist_ok=True)


def _tool(build: str) -> ffmpeg_binary.Ffmpeg:
    """The ffmpeg of this machine, which must be the one that the store was created with, else ``RunStopped``."""
    try:
        tool = ffmpeg_binary.find_ffmpeg()
    except ffmpeg_binary.FfmpegError as error:
        raise RunStopped(str(error)) from error
    if tool.build != build:
        raise RunStopped(
            f"the store was created with ffmpeg build {build!r}, this machine has {tool.build!r}; "
            "set MOCROP_FFMPEG to the former, or create a new store"
        )
    return tool


@contextmanager
def _tool_missing(tool: ffmpeg_binary.Ffmpeg) -> Iterator[None]:
    """Raise ``RunStopped`` if the ffmpeg program disappears."""
    try:
        yield
    except FileNotFoundError as error:
        if error.filename != tool.path:
            raise
        raise RunStopped(f"{tool.path} no longer exists; fix this and run the same command again") from error


def _noted(
    target: Path, kept: TranscodeRow, done: encoder.Transcoded | WindowTranscoded, encode: Encode
) -> TranscodeRow:
    """The row of an H.264 file that was just made; write the note beside it."""
    combs = "deinterlaced" if encode.deinterlace else "their combs kept: deinterlace = false"
    row = replace(
        kept,
        h264=file_fingerprint(target),
        h264_bytes=target.stat().st_size,
        frames=done.frames,
        missing=done.survey.missing(done.decoded),
        notes=done.survey.notes(done.decoded, combs),
        first_frame=done.first_frame if isinstance(done, WindowTranscoded) else 0,
    )
    made = {name: value for name, value in encode_row(row).items() if name not in encode_row(kept)}
    with atomic_write(target.with_suffix(".json")) as note:
        note.write_text(json.dumps(made))
    return row
