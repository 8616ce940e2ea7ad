"""Entries of split files and annotations, matched to the videos of a folder."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from data_specs.clip_rows import Faults, Part, Row
from data_specs.discovery import EXAMPLES, VIDEO_SUFFIXES, every_video
from data_specs.names import NameIndex, printable


@dataclass(frozen=True, slots=True)
class Entry:
    """One line about one clip: ``names`` are the paths or ends of paths that the clip may have, the likeliest first.

    A name may or may not have a video suffix; ``label`` is a class name, or "" if the line has none; ``part`` is the
    clip's part in ``split`` (1, 2 or 3); ``where`` is the file and line.
    """

    names: tuple[str, ...]
    label: str
    part: Part
    where: str
    split: int = 1
    group: str = ""


@dataclass(frozen=True, slots=True)
class Listed:
    """All entries of the lists of one format.

    ``class_names`` are in the order of their labels; ``files`` describes the files; ``unlabelled`` counts lines without
    a label, which are not among the entries.
    """

    entries: Sequence[Entry]
    class_names: tuple[str, ...]
    files: str
    unlabelled: int = 0


@dataclass(slots=True)
class Matched:
    """The rows of the matched clips, sorted by path, the names of missing videos, and the videos that are not listed.

    ``missing`` and ``unlisted`` are printable and in order of occurrence.
    """

    rows: list[Row] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)


class Videos:
    """The videos of a folder, to look up by the end of their path, with or without suffix, in any spelling."""

    def __init__(self, source: Path) -> None:
        self.paths = sorted(every_video(source))
        self._by_depth: dict[int, tuple[dict[str, list[str]], NameIndex]] = {}

    def find(self, name: str) -> tuple[str, ...]:
        """The paths that equal ``name``, else those that end in it, with any video suffix; may be empty."""
        name = name.replace("\\", "/").strip("/").removeprefix("./")
        depth = name.count("/") + 1
        stem, suffix = os.path.splitext(name)
        ends, index = self._ends(depth)
        known = index.find(stem) if suffix.lower() in VIDEO_SUFFIXES else ()
        found = [path for end in known or index.find(name) for path in ends[end]]
        if name in found:
            return (name,)
        return tuple([path for path in found if path.count("/") + 1 == depth] or found)

    def _ends(self, depth: int) -> tuple[dict[str, list[str]], NameIndex]:
        """The videos by the last ``depth`` components of their paths, without suffix."""
        if depth not in self._by_depth:
            ends: defaultdict[str, list[str]] = defaultdict(list)
            for path in self.paths:
                end = os.path.splitext(path)[0].split("/")[-depth:]
                if len(end) == depth:
                    ends["/".join(end)].append(path)
            self._by_depth[depth] = (dict(ends), NameIndex(ends))
        return self._by_depth[depth]


@dataclass(slots=True)
class _Clip:
    """The combined entries of one video."""

    label: str
    where: str
    group: str
    parts: list[Part]


def match(
    listed: Listed, videos: Videos, faults: Faults, prefer: Callable[[str, Entry], bool] | None = None
) -> Matched:
    """The videos that the entries refer to, with their labels and parts.

    If several videos match a name, those for which ``prefer`` is true are taken. Adds a fault for an ambiguous entry,
    and for two entries that disagree about a video.
    """
    clips: dict[str, _Clip] = {}
    missing: dict[str, None] = {}
    for entry in listed.entries:
        found = next((paths for name in entry.names if (paths := videos.find(name))), ())
        if len(found) > 1 and prefer is not None:
            found = tuple(path for path in found if prefer(path, entry)) or found
        if not found:
            missing.setdefault(printable(entry.names[0]))
        elif len(found) > 1:
            names = " or ".join(repr(printable(path)) for path in found[:EXAMPLES])
            faults.add(f"{entry.where}: {printable(entry.names[0])!r} may be {names}")
        else:
            _add(clips, found[0], entry, faults)
    rows = []
    for path, clip in sorted(clips.items()):
        part, part2, part3 = clip.parts
        try:
            rows.append(Row(path=path, label=clip.label, part=part, part2=part2, part3=part3, group=clip.group))
        except ValidationError as error:
            faults.add(f"{clip.where}: label {printable(clip.label)[:80]!r}: {error.errors()[0]['msg']}")
    unlisted = [printable(path) for path in videos.paths if path not in clips]
    return Matched(rows, list(missing), unlisted)


def _add(clips: dict[str, _Clip], path: str, entry: Entry, faults: Faults) -> None:
    clip = clips.setdefault(path, _Clip(entry.label, entry.where, entry.group, ["", "", ""]))
    before = clip.parts[entry.split - 1]
    if clip.label != entry.label:
        faults.add(
            f"{entry.where}: {printable(path)!r} has label {entry.label!r} here and {clip.label!r} in {clip.where}"
        )
    elif before and entry.part and before != entry.part:
        faults.add(
            f"{entry.where}: {printable(path)!r} is in {entry.part} of split {entry.split} here and in {before} above"
        )
    else:
        clip.parts[entry.split - 1] = entry.part or before
