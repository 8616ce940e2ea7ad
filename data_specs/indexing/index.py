"""The index of a folder of videos: recognising the format of its lists, and making a clip table from them.

lists ── a reader ──▶ Entries ─┐
                               ├─ match ──▶ Rows ──▶ clip table
folder of videos ──▶ Videos ───┘
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data_specs.class_folders import PART_FOLDERS
from data_specs.clip_rows import Faults, Listing, Part, Row, clips_of
from data_specs.discovery import EXAMPLES
from data_specs.indexing.annotations import (
    DIVING48_LISTS,
    SSV2_LABELS,
    SSV2_LISTS,
    kinetics_files,
    read_diving48,
    read_kinetics,
    read_ssv2,
)
from data_specs.indexing.entries import Entry, Listed, Matched, Videos, match
from data_specs.indexing.part_folders import has_part_folders, read_folders, read_part_folders
from data_specs.indexing.published import PUBLISHED, Published, edition
from data_specs.indexing.split_files import (
    TEST_SPLIT,
    UCF101_LIST,
    mmaction2_lists,
    read_mmaction2,
    read_test_splits,
    read_ucf101,
)
from data_specs.names import DatasetError
from data_specs.split_lists import CLASS_INDEX, NUM_SPLITS

Files = Sequence[Path]
_LIST_SUFFIXES = (".txt", ".csv", ".json")
_PARTS: tuple[Part, ...] = ("train", "val", "test")
READERS: Mapping[str, Callable[[Files, Faults], Listed]] = {
    "ucf101": read_ucf101,
    "hmdb51": read_test_splits,
    "jhmdb": read_test_splits,
    "kinetics": read_kinetics,
    "ssv2": read_ssv2,
    "diving48": read_diving48,
    "mmaction2": read_mmaction2,
}
"""The reader of the lists of each format."""
FOLDERS: Mapping[str, Callable[[Sequence[str], Faults], Listed]] = {
    "torchvision": read_part_folders,
    "folders": read_folders,
}
FORMATS = ("auto", *READERS, *FOLDERS)
_ALIKE = ("hmdb51", "jhmdb")  # same format
EXPECTED: Mapping[str, str] = {
    "ucf101": "classInd.txt, trainlist01.txt and the others",
    "hmdb51": "<class>_test_split1.txt and the others",
    "jhmdb": "<class>_test_split1.txt and the others",
    "kinetics": "train.csv and val.csv with the columns label, youtube_id, time_start, time_end",
    "ssv2": "labels.json, train.json and validation.json",
    "diving48": "Diving48_V2_train.json, Diving48_V2_test.json and Diving48_vocab.json",
    "mmaction2": "lists such as train_list_videos.txt",
}


@dataclass(frozen=True, slots=True)
class PartCount:
    """The number of clips in one part of a split: listed, found, and published (None: unknown)."""

    split: int
    part: Part
    listed: int
    found: int
    published: int | None


@dataclass(frozen=True, slots=True)
class Index:
    """The clip table of a folder and what it was made from; lists of names hold printable paths.

    ``why`` says how the format was recognised; ``missing`` are listed clips without a video and ``unlisted`` videos
    without an entry, both left out of ``rows``; ``unlabelled`` counts lines without a label.
    """

    format: str
    why: str
    source: Path
    rows: tuple[Row, ...]
    class_names: tuple[str, ...]
    counts: tuple[PartCount, ...]
    missing: tuple[str, ...]
    unlisted: tuple[str, ...]
    unlabelled: int
    published: Published | None

    def as_json(self) -> dict[str, Any]:
        """The counts as JSON-like values, with the first names of missing clips and unlisted videos."""
        return {
            "format": self.format,
            "why": self.why,
            "source": str(self.source),
            "clips": len(self.rows),
            "classes": len(self.class_names),
            "counts": [asdict(count) for count in self.counts],
            "missing": {"count": len(self.missing), "first": list(self.missing[:EXAMPLES])},
            "unlisted": {"count": len(self.unlisted), "first": list(self.unlisted[:EXAMPLES])},
            "unlabelled": self.unlabelled,
            "published": None if self.published is None else {
                "title": self.published.title, "clips": self.published.clips, "classes": self.published.classes,
                "source": self.published.source,
            },
        }  # fmt: skip

    def lines(self) -> Iterator[str]:
        """The counts as lines of text."""
        yield f"format    {self.format}: {self.why}"
        classes = f"{len(self.class_names)} {'class' if len(self.class_names) == 1 else 'classes'}"
        yield f"clips     {len(self.rows)} of {classes} in {self.source}"
        known = self.published
        if known is not None:
            yield f"published {known.title}: {known.clips:,} clips of {known.classes} classes ({known.source})"
        for split in sorted({count.split for count in self.counts}):
            yield f"split {split}   " + ", ".join(map(_in_words, (one for one in self.counts if one.split == split)))
        for what, names in (
            ("listed clips are not in the folder: left out", self.missing),
            ("videos are in no list: left out", self.unlisted),
        ):
            if names:
                more = ", …" if len(names) > EXAMPLES else ""
                yield f"warning   {len(names)} {what} ({', '.join(map(repr, names[:EXAMPLES]))}{more})"
        if self.unlabelled:
            yield f"warning   {self.unlabelled} listed clips have no label, as in withheld test sets: left out"


def _in_words(count: PartCount) -> str:
    listed = f" of {count.listed} listed" if count.listed != count.found else ""
    published = "" if count.published is None else f" (published: {count.published:,})"
    return f"{count.found} {count.part}{listed}{published}"


def make_index(source: Path, format: str, lists: Path | None = None, *, val_as_test: bool = False) -> Index:
    """Read the lists of a data set and find their videos in ``source``.

    ``format`` is one of `FORMATS`; ``auto`` recognises the format of the lists, or of the folders if there are no
    lists. The lists are the files in the folder ``lists``, by default those in ``source`` and its subfolders.
    ``val_as_test`` puts validation clips into the test part. Raises a one-line ``DatasetError`` if the format is
    unclear, lists are missing, entries contradict each other, or no listed video exists.
    """
    if format not in FORMATS:
        raise DatasetError(f"format {format!r}: give one of {', '.join(FORMATS)}")
    for name, folder in (("source", source), ("lists", lists)):
        if folder is not None and not folder.is_dir():
            raise DatasetError(f"{name} {str(folder)!r}: no such folder")
    videos = Videos(source)
    if not videos.paths:
        raise DatasetError(f"source {str(source)!r} holds no video")
    files = _list_files(source, lists)
    where = f"lists {str(lists or source)!r}"
    if format == "auto":
        format = _recognised(files, videos.paths, where)
    faults = Faults(where)
    listed, why = _listed(format, files, videos.paths, faults)
    matched = match(listed, videos, faults, _in_folder_of_part)
    faults.check()
    if not matched.rows:
        raise DatasetError(
            f"source {str(source)!r}: none of the {len(matched.missing)} listed clips is there "
            f"({', '.join(map(repr, matched.missing[:EXAMPLES]))} first)"
        )
    if val_as_test:
        listed, matched = _val_as_test(listed, matched)
    clips_of(Listing(f"source {str(source)!r}", source, matched.rows, listed.class_names), faults)
    return _index(format, why, source, listed, matched)


def _listed(format: str, files: Files, paths: Sequence[str], faults: Faults) -> tuple[Listed, str]:
    """The entries of a format, and a description of their source."""
    if format in FOLDERS:
        listed = FOLDERS[format](paths, faults)
    elif _sign(format, files):
        listed = READERS[format](files, faults)
    elif format == "kinetics" and has_part_folders(paths):
        listed = read_part_folders(paths, faults)
    else:
        raise DatasetError(f"{faults.where}: no lists of {format}; expected {EXPECTED[format]} (--lists)")
    return listed, listed.files


def _in_folder_of_part(path: str, entry: Entry) -> bool:
    return any(PART_FOLDERS.get(folder.casefold()) == entry.part for folder in path.split("/")[:-1])


def _list_files(source: Path, lists: Path | None) -> Files:
    """The files that may be lists, sorted by name."""
    if lists is not None:
        folders = [lists]
    else:
        folders = [
            source,
            *sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith(".")),
        ]
    return [path for folder in folders for path in sorted(_with_suffix(folder))]


def _with_suffix(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.suffix in _LIST_SUFFIXES and path.is_file())


def _sign(format: str, files: Files) -> str:
    """The file that identifies the lists of a format, "" if there is none."""
    names = [path.name for path in files]

    def first(pattern: re.Pattern[str]) -> str:
        return next(filter(pattern.fullmatch, names), "")

    match format:
        case "ucf101":
            return first(UCF101_LIST) if CLASS_INDEX in names else ""
        case "hmdb51" | "jhmdb":
            return first(TEST_SPLIT)
        case "kinetics":
            return next((path.name for path in kinetics_files(files)), "")
        case "ssv2":
            return first(SSV2_LISTS) if first(SSV2_LABELS) else ""
        case "diving48":
            return first(DIVING48_LISTS)
        case _:
            return next((path.name for path in mmaction2_lists(files)), "")


def _recognised(files: Files, paths: Sequence[str], where: str) -> str:
    """The only format whose lists are among the files; the format of the folders if there are no lists."""
    found = {format: sign for format in READERS if format != "mmaction2" and (sign := _sign(format, files))}
    if "hmdb51" in found:
        classes = {match[1] for path in files if (match := TEST_SPLIT.fullmatch(path.name))}
        fitting = [format for format in _ALIKE if PUBLISHED[format][0].classes == len(classes)]
        if not fitting:
            raise DatasetError(
                f"{where}: {found['hmdb51']} and others are of {len(classes)} classes; HMDB-51 has 51 and J-HMDB 21: "
                "give --format hmdb51 or --format jhmdb"
            )
        found = {format: sign for format, sign in found.items() if format not in _ALIKE or format in fitting}
    if len(found) > 1:
        signs = "; ".join(f"{sign} is of {format}" for format, sign in found.items())
        raise DatasetError(f"{where}: lists of several formats ({signs}); give --format, or --lists with one of them")
    if found:
        return next(iter(found))
    if _sign("mmaction2", files):
        return "mmaction2"
    return "torchvision" if has_part_folders(paths) else "folders"


def _val_as_test(listed: Listed, matched: Matched) -> tuple[Listed, Matched]:
    if any("test" in row.parts for row in matched.rows):
        raise DatasetError("--val-as-test: the lists have a labelled test part; omit --val-as-test")

    def renamed(part: Part) -> Part:
        return "test" if part == "val" else part

    rows = [
        replace(row, part=renamed(row.part), part2=renamed(row.part2), part3=renamed(row.part3)) for row in matched.rows
    ]
    entries = [replace(entry, part=renamed(entry.part)) for entry in listed.entries]
    return replace(listed, entries=entries), Matched(rows, matched.missing, matched.unlisted)


def _index(format: str, why: str, source: Path, listed: Listed, matched: Matched) -> Index:
    published = edition(format, len(listed.class_names))
    counts = []
    for split in range(1, NUM_SPLITS + 1):
        official = published.splits.get(split) if published else None
        for part, known in zip(_PARTS, official or (None, None, None), strict=True):
            names = {entry.names[0] for entry in listed.entries if entry.split == split and entry.part == part}
            found = sum(row.parts[split - 1] == part for row in matched.rows)
            if names or known:
                counts.append(PartCount(split, part, len(names), found, known))
    return Index(
        format,
        why,
        source,
        tuple(matched.rows),
        listed.class_names,
        tuple(counts),
        tuple(matched.missing),
        tuple(matched.unlisted),
        listed.unlabelled,
        published,
    )
