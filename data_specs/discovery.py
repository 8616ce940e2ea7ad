"""The videos in a folder; all other files are counted by kind, with examples, so that none is ignored silently."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from data_specs.names import DatasetError, printable

VIDEO_SUFFIXES = frozenset(
    [
        ".avi", ".divx", ".mp4", ".m4v", ".mov", ".qt", ".f4v", ".3gp", ".3g2", ".mkv", ".webm", ".flv", ".wmv", ".asf",
        ".mpg", ".mpeg", ".mpe", ".vob", ".mod", ".m1v", ".m2v", ".ts", ".mts", ".m2ts", ".m2t", ".tod", ".mxf", ".dv",
        ".ogv", ".ogm", ".gif", ".ivf", ".h264", ".264", ".h265", ".265", ".hevc",
    ]
)  # fmt: skip
_SYSTEM = frozenset(
    [
        "$recycle.bin", "recycler", "system volume information", "lost+found", "__macosx", "@eadir", "#recycle",
        "@recycle", "@recently-snapshot", "network trash folder", "temporary items", "thumbs.db", "desktop.ini",
    ]
)  # fmt: skip
PASSED_OVER = {
    "suffix": "no known video suffix",
    "hidden": "hidden",
    "system": "made by an operating system",
    "unreadable": "cannot be read",
    "link": "link to a folder, not followed",
    "own": "store or work folder of mocrop",
    "empty": "class folder without a video",
    "beside": "beside the folder UCF-101",
    "list": "not a list, judging by its name",
    "unlisted": "videos that the clip table does not list",
}
"""Kinds of files and folders that are passed over, and how messages describe them. A folder counts once."""

EXAMPLES = 3
UCF101 = "UCF-101"
_WORK_FOLDERS = {"h264", "stores"}  # a work folder contains these


@dataclass(frozen=True, slots=True)
class PassedOver:
    """Unused files and folders of one kind (`PASSED_OVER`): their number and the first few names, printable."""

    kind: str
    count: int
    examples: tuple[str, ...]

    @property
    def detail(self) -> str:
        """A description of the kind, with the examples."""
        more = ", …" if self.count > len(self.examples) else ""
        return f"{PASSED_OVER[self.kind]}: {', '.join(map(repr, self.examples))}{more}"

    def __str__(self) -> str:
        return f"{self.count} passed over, {self.detail}"


@dataclass(slots=True)
class Tally:
    """Counts what is passed over and keeps the first examples."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, kind: str, name: str) -> None:
        self.counts[kind] += 1
        if len(self.examples[kind]) < EXAMPLES:
            self.examples[kind].append(printable(name))

    def summary(self) -> tuple[PassedOver, ...]:
        """One entry for each kind that occurred, in the order of `PASSED_OVER`."""
        return tuple(
            PassedOver(kind, self.counts[kind], tuple(self.examples[kind])) for kind in PASSED_OVER if self.counts[kind]
        )


@dataclass(frozen=True, slots=True)
class Found:
    """The folder of the class folders, the videos in it (paths relative to it, sorted), and what was passed over."""

    root: Path
    videos: tuple[str, ...]
    passed_over: tuple[PassedOver, ...]


def find_videos(source: Path) -> Found:
    """The videos of the folder ``source``, at any depth, or those of its subfolder UCF-101 if that is the data set.

    It is if ``source`` and its other subfolders hold no video directly. Hidden files, folders made by operating
    systems, mocrop's stores and work folders, and files without a suffix of `VIDEO_SUFFIXES` are passed over. A link
    to a file counts as a video; whether it leads out of the folder is checked when it is read. A link to a folder is
    followed in the place of a class folder, if it stays inside. Raises ``DatasetError`` if ``source`` is unreadable.
    """
    videos, tally = _all_videos(source)
    inner = source / UCF101
    if inner.is_dir() and all(path.startswith(f"{UCF101}/") or path.count("/") > 1 for path in videos):
        found, beside = find_videos(inner), Tally()
        for name in sorted({path.partition("/")[0] for path in videos} - {UCF101}):
            beside.add("beside", name)
        return Found(found.root, found.videos, found.passed_over + beside.summary())
    return Found(source, tuple(videos), tally.summary())


def every_video(source: Path) -> frozenset[str]:
    """The paths of all videos below ``source``, relative to it, by the rules of `find_videos` but for any layout."""
    return frozenset(_all_videos(source)[0])


def _all_videos(source: Path) -> tuple[list[str], Tally]:
    tally = Tally()
    try:
        return sorted(_videos(source, tally)), tally
    except OSError as error:
        raise DatasetError(f"source {str(source)!r}: {error.strerror}; give a folder that can be read") from None


def hidden_kind(path: PurePosixPath) -> str:
    """ "hidden" or "system" if a component of the path is; else ""."""
    return next(filter(None, map(_hidden_kind, path.parts)), "")


def _hidden_kind(name: str) -> str:
    if name.startswith("."):
        return "hidden"
    return "system" if name.casefold() in _SYSTEM else ""


def _videos(source: Path, tally: Tally) -> Iterator[str]:
    """The videos at any depth; ``OSError`` if ``source`` itself cannot be read."""
    real = os.path.realpath(source)
    for entry, path in _entries(source, "", tally):
        if not _is_folder(entry):
            yield from _video(path, tally)
        elif entry.is_symlink() and not _leads_inside(entry.path, real):
            tally.add("link", path)
        else:
            before = tally.counts["unreadable"] + tally.counts["own"]
            inside = list(_below(entry.path, path, tally))
            yield from inside
            if not inside and tally.counts["unreadable"] + tally.counts["own"] == before:
                tally.add("empty", path)


def _below(folder: str, path: str, tally: Tally) -> Iterator[str]:
    """The videos in and below a class folder, without following links to folders."""
    left = [(folder, path)]
    while left:
        folder, path = left.pop()
        try:
            entries = _entries(folder, path, tally)
        except OSError:
            tally.add("unreadable", path)
            continue
        for entry, inner in entries:
            if not _is_folder(entry):
                yield from _video(inner, tally)
            elif entry.is_symlink():
                tally.add("link", inner)
            else:
                left.append((entry.path, inner))


def _entries(folder: str | Path, path: str, tally: Tally) -> list[tuple[os.DirEntry[str], str]]:
    """The entries of a folder by name, with their paths from the source folder, without those that are passed over.

    ``path`` is that of the folder, "" for the source folder itself.
    """
    with os.scandir(folder) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    names = {entry.name for entry in entries}
    is_work_folder = names >= _WORK_FOLDERS
    if path and (is_work_folder or "zarr.json" in names):
        tally.add("own", path)
        return []
    kept = []
    for entry in entries:
        inner = f"{path}/{entry.name}" if path else entry.name
        own = "own" if is_work_folder and entry.name in _WORK_FOLDERS else ""
        if kind := own or _hidden_kind(entry.name):
            tally.add(kind, inner)
        else:
            kept.append((entry, inner))
    return kept


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # for example a link to itself
        return False


def _leads_inside(link: str, real_source: str) -> bool:
    return os.path.realpath(link).startswith(f"{real_source.rstrip('/')}/")


def _video(path: str, tally: Tally) -> Iterator[str]:
    if os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES:
        yield path
    else:
        tally.add("suffix", path)
