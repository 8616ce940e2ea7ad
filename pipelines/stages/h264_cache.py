"""The H.264 files in the work folder: named by what they were made from, so that none is ever stale."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from data_specs.chain import REVISION
from data_specs.datasets import Clip
from data_specs.documents import parse_json
from data_specs.fingerprints import file_fingerprint, fingerprint
from data_specs.local_files import read_part, refuse_links
from data_specs.locations import Linked
from data_specs.recipes import Encode, Recipe
from data_specs.stored import Attributes
from pipelines.atomic_files import atomic_write
from pipelines.errors import ClipError, RunStopped
from pipelines.media import encoder, ffmpeg_binary
from pipelines.media.streams import Decoded, Survey

_MOST_NOTE = 1 << 16  # bytes of the note beside an H.264 file
H264 = "h264"  # folder in the work folder
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a run reads and keeps video files: the data set's folder and the work folder."""

    source: str
    work_dir: str


def default_work_dir(store: str) -> str:
    """The work folder beside a local store; ``Linked`` for a symbolic link, which only its user may name."""
    folder = f"{store.rstrip('/')}.work"
    if os.path.islink(folder):
        raise Linked(f"{folder!r} is a symbolic link; name the folder it leads to with --work-dir, if it is yours")
    return folder


def check_source(folders: Folders) -> None:
    """``RunStopped`` if the source folder is gone or empty, as where its disk is no longer mounted."""
    try:
        with os.scandir(folders.source) as entries:
            problem = "" if any(entries) else "the folder is empty now"
    except OSError as error:
        problem = error.strerror or str(error)
    if problem:
        raise RunStopped(f"source {folders.source!r}: {problem}; mend it and start the same command again")


def source_path(clip: Clip, folders: Folders) -> Path:
    """The clip's file; ``ClipError`` if it is gone or a symbolic link leads out of the source folder."""
    root = Path(os.path.realpath(folders.source))
    path = root / clip.path
    if not Path(os.path.realpath(path)).is_relative_to(root):
        raise ClipError("a symbolic link leads out of the source folder")
    if not path.is_file():
        raise ClipError("it is not a file, nor a link to one" if os.path.lexists(path) else "the source file is gone")
    if path.stat().st_size == 0:
        raise ClipError("the source file is empty (0 bytes)")
    return path


def video_of(clip: Clip, recipe: Recipe, build: str, folders: Folders) -> tuple[Path, Attributes]:
    """The file to read a clip's vectors and frames from, made if it is not there whole, and what is known of it.

    The second value has ``source`` (fingerprint of the source file), ``bytes`` (its size) and, where it was transcoded,
    ``h264``, ``h264_bytes``, ``frames`` (decoded from the source) and what `losses` gives. Under
    ``transcode = "keep"`` the file is the source.
    """
    source = source_path(clip, folders)
    try:
        known: Attributes = {"source": file_fingerprint(source), "bytes": source.stat().st_size}
    except OSError as error:  # one of reading names no file
        raise OSError(error.errno, error.strerror, str(source)) from error
    if not isinstance(recipe.transcode, Encode):
        return source, known
    target = target_path(clip, known["source"], recipe.transcode, build, folders)
    made = _finished(target) or _transcode(source, target, recipe, recipe.transcode, build, Path(folders.work_dir))
    return target, known | made


def target_path(clip: Clip, source: str, encode: Encode, build: str, folders: Folders) -> Path:
    """Where the H.264 file of a clip lies: a readable name and the fingerprint of source, settings and ffmpeg build."""
    key = fingerprint("h264", REVISION, source, encode.model_dump(), build)
    *folder, stem = (_UNSAFE.sub("_", part)[:80] for part in clip.id.split("/"))
    return Path(folders.work_dir, H264, *folder, f"{stem}-{key[:16]}.mp4")


def losses(survey: Survey, decoded: Decoded, combs: str) -> Attributes:
    """What a clip's row says of a decoded file: how many frames are ``missing``, and ``notes``; each only if any.

    ``combs`` is what becomes of interlaced frames.
    """
    found: Attributes = {"missing": survey.missing(decoded), "notes": survey.notes(decoded, combs)}
    return {name: value for name, value in found.items() if value}


def check_missing(row: Attributes, recipe: Recipe) -> None:
    """``ClipError`` if a larger share of a clip's frames is missing than the recipe allows."""
    missing = row.get("missing", 0)
    if missing > recipe.max_missing * (row["frames"] + missing):
        raise ClipError(f"{row['notes']['missing']}: more are missing than max_missing {recipe.max_missing:g} allows")


def _finished(target: Path) -> Attributes | None:
    """What the note beside a whole H.264 file says; None if the file is missing, cut short or altered."""
    try:
        made: Attributes = parse_json(read_part(target.with_suffix(".json"), None, _MOST_NOTE) or b"", _MOST_NOTE)
        if not (target.is_file() and type(made["frames"]) is int and made["frames"] > 0):
            return None
        whole = target.stat().st_size == made["h264_bytes"] and file_fingerprint(target) == made["h264"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return made if whole else None


def _transcode(source: Path, target: Path, recipe: Recipe, encode: Encode, build: str, work_dir: Path) -> Attributes:
    refuse_links(work_dir, target.parent)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        tool = ffmpeg_binary.find_ffmpeg()
    except ffmpeg_binary.FfmpegError as error:
        raise RunStopped(str(error)) from error
    if tool.build != build:
        raise RunStopped(
            f"the store was begun with ffmpeg build {build!r}, here is {tool.build!r}; "
            "set MOCROP_FFMPEG to the former, or make a new store"
        )
    settings = encoder.EncodeSettings(**encode.model_dump())
    try:
        done = encoder.transcode(str(source), str(target), settings, tool, recipe.time_limit)
    except FileNotFoundError as error:
        if error.filename != tool.path:
            raise
        raise RunStopped(f"{tool.path} is gone; mend it and start the same command again") from error
    combs = "deinterlaced" if encode.deinterlace else "their combs kept: deinterlace = false"
    made = {
        "h264": file_fingerprint(target),
        "h264_bytes": target.stat().st_size,
        "frames": done.frames,
        **losses(done.survey, done.decoded, combs),
    }
    with atomic_write(target.with_suffix(".json")) as note:
        note.write_text(json.dumps(made))
    return made
