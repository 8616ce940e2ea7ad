"""Folders with the layout ``<Class>/<clip>``, with or without split lists, as rows."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_specs.clip_rows import PART_CODES, Faults, Listing, Part, Row, check_unique_ids, without_suffix
from data_specs.discovery import VIDEO_SUFFIXES, Found, find_videos
from data_specs.names import DatasetError, NameIndex, printable
from data_specs.split_lists import (
    CLASS_INDEX,
    NEITHER,
    NUM_SPLITS,
    PARTS,
    ListedClip,
    read_class_index,
    read_split_lists,
)

PART_FOLDERS: Mapping[str, Part] = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "val": "val", "valid": "val", "validation": "val",
}  # fmt: skip
_NAMES: dict[int, Part] = {code: part for part, code in PART_CODES.items()}

Files = Mapping[str, str]
"""The paths of videos by the ids of their clips."""


def read_class_folders(source: Path) -> Listing:
    """The clips of a folder whose subfolders are the classes; no clip is in a split."""
    found = find_videos(source)
    files = _files(found)
    names = _class_folders(files, found.root)
    rows = [Row(path=path, label=_first_folder(path)) for path in files.values()]
    return Listing(_what(found.root), found.root, rows, names, passed_over=found.passed_over)


def read_listed_folders(source: Path, splits: Path, *, strict: bool) -> Listing:
    """The clips of a folder with the labels and parts that the lists in the folder ``splits`` give them."""
    if not splits.is_dir():
        raise DatasetError(
            f"splits {str(splits)!r}: no such folder; give the folder that holds trainlist01.txt and the other lists"
        )
    found = find_videos(source)
    files = _files(found)
    class_index = splits / CLASS_INDEX
    official = read_class_index(class_index) if class_index.is_file() else None
    lists = read_split_lists(splits, NameIndex(files), classes=None if official is None else len(official))
    placed = _placed(files, lists.lines)
    warnings = missing_warning(placed.missing, strict=strict)
    folder_of: Callable[[str], str] = _first_folder
    if official is None:
        names, folder_of = _names_of_labels(files, placed.labels)
        warnings += _empty_warning(lists.lines)
    else:
        names = official
    folders = NameIndex(names)
    labels = {}
    for id, path in files.items():
        named = folders.find(folder_of(path))
        if official is not None:
            _check_official(id, folder_of(path), named, official, placed.labels.get(id), class_index)
        labels[id] = placed.labels.get(id, names.index(named[0]) if len(named) == 1 else -1)
    if unnamed := [id for id, label in labels.items() if label < 0]:
        raise DatasetError(
            f"source {str(found.root)!r}: no list in {str(splits)!r} gives {len(unnamed)} videos a label "
            f"({unnamed[0]!r} first); list them or move them away"
        )
    rows = []
    for id, path in files.items():
        part, part2, part3 = (_NAMES[code] for code in placed.parts[id])
        rows.append(Row(path=path, label=labels[id], part=part, part2=part2, part3=part3))
    passed_over = (*found.passed_over, *lists.passed_over)
    return Listing(_what(found.root), found.root, rows, names, warnings=warnings, passed_over=passed_over)


def _what(root: Path) -> str:
    return f"source {str(root)!r}"


def _files(found: Found) -> Files:
    """The videos by id, in the order of the ids."""
    if not found.videos:
        others = "".join(f"; {one}" for one in found.passed_over)
        raise DatasetError(
            f"source {str(found.root)!r} holds no video; expected <Class>/<clip> with one of "
            f"{' '.join(sorted(VIDEO_SUFFIXES))}{others}"
        )
    files = dict(sorted((without_suffix(path), path) for path in found.videos))
    if len(files) < len(found.videos):
        faults = Faults(_what(found.root))
        rows = [Row(path=path, label=0) for path in found.videos]
        ids = list(map(without_suffix, found.videos))
        check_unique_ids(ids, Listing(faults.where, found.root, rows, None), faults)
        faults.check()
    return files


def _class_folders(files: Files, source: Path) -> tuple[str, ...]:
    """The sorted names of the class folders, if these alone define the classes."""
    if loose := [id for id, path in files.items() if "/" not in path]:
        raise DatasetError(
            f"source {str(source)!r}: {len(loose)} of {len(files)} videos are not in a class folder ({loose[0]!r} "
            "first); move them into folders <Class>/, or give their labels in a clip table with --clips (mocrop index "
            "makes one from the lists of a public data set)"
        )
    names = sorted(set(map(_first_folder, files.values())))
    if {name.casefold() for name in names} <= PART_FOLDERS.keys() and any(
        path.count("/") > 1 for path in files.values()
    ):
        raise DatasetError(
            f"source {str(source)!r}: its folders ({', '.join(names)}) are parts of a data set, not classes; give one "
            "of them as --source, or make a clip table with mocrop index and give it as --clips"
        )
    return tuple(names)


@dataclass(frozen=True, slots=True)
class _Placed:
    """What the lists say: the parts and labels of clips by id, and where missing clips are listed."""

    parts: dict[str, list[int]]
    labels: dict[str, int]
    missing: dict[str, str]


def _placed(files: Files, lines: Sequence[ListedClip]) -> _Placed:
    found = _Placed({id: [NEITHER] * NUM_SPLITS for id in files}, {}, {})
    for line in lines:
        id = line.id
        if id is None:
            found.missing.setdefault(line.name, line.where)
            continue
        parts = found.parts[id]
        if parts[line.split] not in (NEITHER, line.part):
            both = " and the ".join(PARTS[part] for part in sorted((parts[line.split], line.part)))
            raise DatasetError(f"{line.where}: {id!r} is in both the {both} list of split {line.split + 1}")
        parts[line.split] = line.part
        if line.label is not None and found.labels.setdefault(id, line.label) != line.label:
            raise DatasetError(f"{line.where}: {id!r} has label {line.label} here and {found.labels[id]} elsewhere")
    return found


def missing_warning(missing: Mapping[str, str], *, strict: bool) -> tuple[str, ...]:
    """A warning about listed clips whose files are missing, which names the first three; an error if ``strict``."""
    if not missing:
        return ()
    named = ", ".join(f"{name!r} of {where}" for name, where in list(missing.items())[:3])
    more = ", …" if len(missing) > 3 else ""
    verb = "clip is" if len(missing) == 1 else "clips are"
    text = f"{len(missing)} listed {verb} not in the source folder ({named}{more})"
    if strict:
        raise DatasetError(f"{text}; add them, or run without --strict")
    return (text,)


def _empty_warning(lines: Sequence[ListedClip]) -> tuple[str, ...]:
    """A warning about labels that occur in no list although higher ones do."""
    used = {line.label for line in lines if line.label is not None}
    unused = [label for label in range(max(used, default=-1) + 1) if label not in used]
    if not unused:
        return ()
    return (f"{len(unused)} of {max(used) + 1} classes have no clip in any list (label {unused[0]} first)",)


def _check_official(
    id: str, folder: str, named: Sequence[str], names: Sequence[str], label: int | None, class_index: Path
) -> None:
    """``DatasetError`` if the folder of a clip is not a class of the class index, or not the class of its label."""
    if not named:
        raise DatasetError(
            f"class {folder!r} of {id!r} is not in {str(class_index)!r}; add it there or move the folder away"
        )
    if len(named) > 1:
        raise DatasetError(f"class {folder!r} of {id!r} may be {' or '.join(map(repr, named))}; rename the folder")
    expected = names.index(named[0])
    if label not in (None, expected):
        raise DatasetError(
            f"{id!r} is listed with label {label + 1}, but its folder is class {expected + 1} {names[expected]!r}"
        )


def _first_folder(path: str) -> str:
    return sys.intern(printable(path.partition("/")[0])) if "/" in path else ""  # one object for all clips of a class


def _last_folder(path: str) -> str:
    return printable(path.split("/")[-2]) if "/" in path else ""


def _names_of_labels(files: Files, labels: dict[str, int]) -> tuple[tuple[str, ...], Callable[[str], str]]:
    """The class names for plain lists, and which folder of a path gives the class: the first or the last one.

    A label is named after the one folder that holds its clips and no others, else ``class_<label>``. The last folders
    are used if they name more labels than the first ones do, as in ``train/<Class>/<clip>``.
    """
    named = {}
    for folder_of in (_first_folder, _last_folder):
        folders: dict[int, set[str]] = {}
        for id, label in labels.items():
            folders.setdefault(label, set()).add(folder_of(files[id]))
        owners = Counter(name for inside in folders.values() for name in inside)
        named[folder_of] = {
            label: name
            for label, inside in folders.items()
            for name in inside
            if name and len(inside) == 1 and owners[name] == 1
        }
    folder_of = max(named, key=lambda one: len(named[one]))
    count = max(labels.values(), default=-1) + 1
    return tuple(named[folder_of].get(label, f"class_{label}") for label in range(count)), folder_of
