"""Data sets of short clips: folders of the shape of UCF-101, their class index and their split lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from data_specs import ucf101
from data_specs.discovery import UCF101, VIDEO_SUFFIXES, PassedOver, find_videos
from data_specs.names import DatasetError as DatasetError
from data_specs.names import NameIndex, printable
from data_specs.split_lists import (
    CLASS_INDEX,
    NUM_SPLITS,
    PARTS,
    ListedClip,
    check_class_count,
    read_class_index,
    read_split_lists,
)
from data_specs.split_lists import NEITHER as NEITHER
from data_specs.split_lists import TEST as TEST
from data_specs.split_lists import TRAIN as TRAIN
from data_specs.split_lists import VALIDATION as VALIDATION

_PART_FOLDERS = {"train", "training", "test", "testing", "val", "valid", "validation"}

Split = tuple[int, int, int]
Files = Mapping[str, PurePosixPath]


@dataclass(frozen=True, slots=True)
class Clip:
    """One video file of a data set.

    ``id`` is its path in the source folder without the suffix, always printable as UTF-8; ``path`` is relative to the
    source folder, with bytes that are not UTF-8 kept as surrogates; ``label`` is 0-based, -1 where nothing names it;
    ``split`` holds, for the splits 1, 2 and 3, 0 in none, 1 train, 2 test, 3 validation.
    """

    id: str
    path: str
    label: int
    split: Split = (NEITHER, NEITHER, NEITHER)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A folder of clips with its classes and splits.

    ``clips`` are sorted by id, ``warnings`` are lines to show, ``passed_over`` counts by kind what is not used.
    """

    name: str
    source: Path
    class_names: tuple[str, ...]
    clips: tuple[Clip, ...]
    warnings: tuple[str, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()

    @property
    def notices(self) -> tuple[str, ...]:
        """All lines to show: the warnings, and one line for each kind of what is passed over."""
        return (*self.warnings, *map(str, self.passed_over))

    def limited(self, count: int | None) -> Dataset:
        """The data set cut to ``count`` clips spread evenly over the sorted ids; all of them for None."""
        if count is None or count >= len(self.clips):
            return self
        if count < 1:
            raise DatasetError(f"limit {count}: give a number of clips from 1 on")
        total = len(self.clips)
        return replace(self, clips=tuple(self.clips[i * total // count] for i in range(count)))


def read_dataset(source: Path | str, splits: Path | str | None = None, *, strict: bool = False) -> Dataset:
    """Read the folder ``source`` and, where given, the split lists in the folder ``splits``.

    The folder holds ``<Class>/<clip>.<video suffix>``, or clips at any depth below the class (or it holds
    ``UCF-101/<Class>/…``, or, with lists that have labels, the videos themselves). Without lists the classes are the
    folder names in order and every clip is in no split. With ``classInd.txt`` the lists are the official ones:
    ``trainlist0N.txt`` and ``testlist0N.txt``, labels from 1. Without it they are plain lists ``video.avi label`` with
    labels from 0. `read_split_lists` says which files are lists, and of which split.

    ``DatasetError`` in one line for whatever does not fit; listed clips that are not there are a warning with their
    count, and an error if ``strict``.
    """
    source = Path(source)
    if not source.is_dir():
        raise DatasetError(f"source {str(source)!r}: no such folder; give the folder that holds <Class>/<clip>.avi")
    found = find_videos(source)
    files = _unique_ids(found.videos, found.root, found.passed_over)
    if splits is None:
        names = _class_folders(files, found.root)
        clips = [Clip(id, str(path), names.index(printable(path.parts[0]))) for id, path in files.items()]
        return Dataset(_name(found.root, names), found.root, names, tuple(clips), (), found.passed_over)
    dataset = _with_lists(found.root, files, Path(splits), strict=strict)
    return replace(dataset, passed_over=(*found.passed_over, *dataset.passed_over))


def _unique_ids(paths: Sequence[PurePosixPath], source: Path, passed_over: Sequence[PassedOver]) -> Files:
    found: dict[str, PurePosixPath] = {}
    for path in paths:
        id = printable(str(path.with_suffix("")))
        if id in found:
            raise DatasetError(
                f"source {str(source)!r}: {printable(found[id].name)!r} and {printable(path.name)!r} have the same id "
                f"{id!r}; rename or remove one"
            )
        found[id] = path
    if not found:
        others = "".join(f"; {one}" for one in passed_over)
        raise DatasetError(
            f"source {str(source)!r} holds no video; expected <Class>/<clip> with one of "
            f"{' '.join(sorted(VIDEO_SUFFIXES))}{others}"
        )
    return dict(sorted(found.items()))


def _class_folders(files: Files, source: Path) -> tuple[str, ...]:
    """The names of the class folders, sorted, where they alone say what the classes are."""
    if loose := [id for id, path in files.items() if len(path.parts) == 1]:
        raise DatasetError(
            f"source {str(source)!r}: {len(loose)} videos lie beside the class folders ({loose[0]!r} first); "
            "move them into a class folder or give --splits with a list of labels"
        )
    names = sorted({printable(path.parts[0]) for path in files.values()})
    if {name.casefold() for name in names} <= _PART_FOLDERS and any(len(path.parts) > 2 for path in files.values()):
        raise DatasetError(
            f"source {str(source)!r}: its folders ({', '.join(names)}) are parts of a data set, not classes; give one "
            "of them as --source, or give --splits with lists"
        )
    check_class_count(len(names), f"source {str(source)!r}")
    return tuple(names)


def _with_lists(source: Path, files: Files, splits: Path, *, strict: bool) -> Dataset:
    if not splits.is_dir():
        raise DatasetError(f"splits {str(splits)!r}: no such folder; give the folder of trainlist01.txt and the others")
    class_index = splits / CLASS_INDEX
    official = read_class_index(class_index) if class_index.is_file() else None
    lists = read_split_lists(splits, NameIndex(files), classes=None if official is None else len(official))
    placed, labels, missing = _placed(files, lists.lines)
    warnings = _missing_warning(missing, strict=strict)
    folder_of: Callable[[PurePosixPath], str] = _first_folder
    if official is None:
        names, folder_of = _names_of_labels(files, labels)
        warnings += _empty_warning(lists.lines)
    else:
        names = official
    folders = NameIndex(names)
    clips = []
    for id, path in files.items():
        named = folders.find(folder_of(path))
        if official is not None:
            _check_official(id, folder_of(path), named, official, labels.get(id), class_index)
        label = labels.get(id, names.index(named[0]) if len(named) == 1 else -1)
        clips.append(Clip(id, str(path), label, placed[id]))
    if unnamed := [clip.id for clip in clips if clip.label < 0]:
        raise DatasetError(
            f"source {str(source)!r}: no list in {str(splits)!r} gives {len(unnamed)} videos a label "
            f"({unnamed[0]!r} first); list them or move them away"
        )
    return Dataset(_name(source, names), source, names, tuple(clips), warnings, lists.passed_over)


def _placed(files: Files, lines: Sequence[ListedClip]) -> tuple[dict[str, Split], dict[str, int], dict[str, str]]:
    """Where the lists put each clip and which label they give it; the names of missing clips, and where they stand."""
    placed = {id: [NEITHER] * NUM_SPLITS for id in files}
    labels: dict[str, int] = {}
    missing: dict[str, str] = {}
    for line in lines:
        id = line.id
        if id is None:
            missing.setdefault(line.name, line.where)
            continue
        if placed[id][line.split] not in (NEITHER, line.part):
            both = " and the ".join(PARTS[part] for part in sorted((placed[id][line.split], line.part)))
            raise DatasetError(f"{line.where}: {id!r} is in both the {both} list of split {line.split + 1}")
        placed[id][line.split] = line.part
        if line.label is not None and labels.setdefault(id, line.label) != line.label:
            raise DatasetError(f"{line.where}: {id!r} has label {line.label} here and {labels[id]} elsewhere")
    return {id: (first, second, third) for id, (first, second, third) in placed.items()}, labels, missing


def _name(source: Path, class_names: Sequence[str]) -> str:
    """What a data set is called: UCF-101, or its folder's name; that of the one above where UCF-101/ holds another."""
    if tuple(class_names) == ucf101.CLASSES:
        return UCF101
    is_part = set(map(str.casefold, class_names)) <= set(map(str.casefold, ucf101.CLASSES))
    return source.name if is_part or source.name != UCF101 else source.resolve().parent.name


def _missing_warning(missing: dict[str, str], *, strict: bool) -> tuple[str, ...]:
    if not missing:
        return ()
    name, where = next(iter(missing.items()))
    text = f"{len(missing)} listed clips are not in the source folder ({name!r} of {where} first)"
    if strict:
        raise DatasetError(f"{text}; add them, or run without --strict")
    return (text,)


def _empty_warning(lines: Sequence[ListedClip]) -> tuple[str, ...]:
    """A line on labels that no list has, between those that the lists have."""
    used = {line.label for line in lines if line.label is not None}
    unused = [label for label in range(max(used, default=-1) + 1) if label not in used]
    if not unused:
        return ()
    return (f"{len(unused)} of {max(used) + 1} classes have no clip in any list (label {unused[0]} first)",)


def _check_official(
    id: str, folder: str, named: Sequence[str], names: Sequence[str], label: int | None, class_index: Path
) -> None:
    """``DatasetError`` if the folder of a clip is not one class of the class index, or not that of its label."""
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


def _first_folder(path: PurePosixPath) -> str:
    return printable(path.parts[0]) if len(path.parts) > 1 else ""


def _last_folder(path: PurePosixPath) -> str:
    return printable(path.parts[-2]) if len(path.parts) > 1 else ""


def _names_of_labels(files: Files, labels: dict[str, int]) -> tuple[tuple[str, ...], Callable[[PurePosixPath], str]]:
    """The classes of plain lists, and how a path shows its class: by its first folder, or by its last one.

    A label's class is the one folder that its clips alone lie in, else ``class_<label>``. The last folders are taken
    where they name more labels than the first ones, as in ``train/<Class>/<clip>``.
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
