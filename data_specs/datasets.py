"""Data sets of short clips: folders of the shape of UCF-101, their class index and their split lists."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from data_specs import ucf101

VIDEO_SUFFIXES = frozenset(
    [".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".asf", ".3gp", ".ogv"]
)  # fmt: skip
NUM_SPLITS = 3
NEITHER, TRAIN, TEST = 0, 1, 2
MAX_CLASSES = 1 << 15  # labels are int16 in the store
_WHOLE = re.compile(r"[0-9]{1,9}")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class DatasetError(ValueError):
    """A data set that cannot be read as it stands: one line that says what is wrong and what would be right."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One video file of a data set.

    ``id`` is "class folder/file stem" (the stem alone in a flat folder), always printable as UTF-8; ``path`` is
    relative to the source folder, with bytes that are not UTF-8 kept as surrogates; ``label`` is 0-based, -1 where
    nothing names it; ``split`` holds, for the splits 1, 2 and 3, 0 in neither list, 1 train, 2 test.
    """

    id: str
    path: str
    label: int
    split: tuple[int, int, int] = (NEITHER, NEITHER, NEITHER)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A folder of clips with its classes and splits; ``clips`` are sorted by id, ``warnings`` are lines to show."""

    name: str
    source: Path
    class_names: tuple[str, ...]
    clips: tuple[Clip, ...]
    warnings: tuple[str, ...] = ()

    def limited(self, count: int | None) -> Dataset:
        """The data set cut to ``count`` clips spread evenly over the sorted ids; all of them for None."""
        if count is None or count >= len(self.clips):
            return self
        if count < 1:
            raise DatasetError(f"limit {count}: give a number of clips from 1 on")
        total = len(self.clips)
        return replace(self, clips=tuple(self.clips[i * total // count] for i in range(count)))


@dataclass(frozen=True, slots=True)
class ListedClip:
    """A line of a split list: a path without its suffix, in lower case, and where the list puts the clip."""

    key: str
    split: int
    part: int
    label: int | None
    where: str


def read_dataset(source: Path | str, splits: Path | str | None = None, *, strict: bool = False) -> Dataset:
    """Read the folder ``source`` and, where given, the split lists in the folder ``splits``.

    The folder holds ``<Class>/<clip>.<video suffix>`` (or holds ``UCF-101/<Class>/…``, or, with lists that have
    labels, the videos themselves). Without lists the classes are the folder names in order and every clip is in no
    split. With ``classInd.txt`` the lists are the official ones: ``trainlist0N.txt`` and ``testlist0N.txt``, labels
    from 1. Without it each ``*train*.txt``, ``*test*.txt`` or ``*val*.txt`` is a plain list ``video.avi label`` with
    labels from 0; a digit in its name is its split, 1 where there is none. Names are matched without regard to case
    (UCF-101 has ``HandstandPushups/v_HandStandPushups_*``).

    ``DatasetError`` in one line for whatever does not fit; listed clips that are not there are a warning with their
    count, and an error if ``strict``.
    """
    source = Path(source)
    if not source.is_dir():
        raise DatasetError(f"source {str(source)!r}: no such folder; give the folder that holds <Class>/<clip>.avi")
    source = _class_root(source)
    files = _unique_ids(_video_files(source), source)
    if splits is None:
        names = sorted({printable(path.parts[0]) for path in files.values() if len(path.parts) > 1})
        if loose := [id for id, path in files.items() if len(path.parts) == 1]:
            raise DatasetError(
                f"source {str(source)!r}: {len(loose)} videos lie beside the class folders ({loose[0]!r} first); "
                "move them into a class folder or give --splits with a list of labels"
            )
        _check_count(len(names), f"source {str(source)!r}")
        clips = [Clip(id, str(path), names.index(printable(path.parts[0]))) for id, path in files.items()]
        return Dataset(_name(source, names), source, tuple(names), tuple(clips))
    return _with_lists(source, files, Path(splits), strict=strict)


def _class_root(source: Path) -> Path:
    inner = source / "UCF-101"
    return inner if inner.is_dir() and not _has_videos(source, skip=inner) else source


def _has_videos(source: Path, *, skip: Path) -> bool:
    return any(source / path.parts[0] != skip for path in _video_files(source))


def _video_files(source: Path) -> Iterator[PurePosixPath]:
    """Paths relative to ``source`` of the videos in it and in the folders just below it."""
    for entry in os.scandir(source):
        if entry.is_dir():
            for inner in os.scandir(entry.path):
                if _is_video(inner):
                    yield PurePosixPath(entry.name, inner.name)
        elif _is_video(entry):
            yield PurePosixPath(entry.name)


def _is_video(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith("._") and PurePosixPath(entry.name).suffix.lower() in VIDEO_SUFFIXES


def printable(name: str) -> str:
    """The name as one line that any store and terminal takes.

    Bytes that are not UTF-8, control characters, line ends and marks that turn the direction of writing are written
    as ``\\xNN`` or ``\\uNNNN``.
    """
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return _CONTROL.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _unique_ids(paths: Iterator[PurePosixPath], source: Path) -> dict[str, PurePosixPath]:
    found: dict[str, PurePosixPath] = {}
    for path in sorted(paths):
        id = printable(str(path.with_suffix("")))
        if id in found:
            raise DatasetError(
                f"source {str(source)!r}: {printable(found[id].name)!r} and {printable(path.name)!r} have the same id "
                f"{id!r}; rename or remove one"
            )
        found[id] = path
    if not found:
        raise DatasetError(
            f"source {str(source)!r} holds no video; expected <Class>/<clip> with one of "
            f"{' '.join(sorted(VIDEO_SUFFIXES))}"
        )
    return dict(sorted(found.items()))


def _with_lists(source: Path, files: dict[str, PurePosixPath], splits: Path, *, strict: bool) -> Dataset:
    if not splits.is_dir():
        raise DatasetError(f"splits {str(splits)!r}: no such folder; give the folder of trainlist01.txt and the others")
    class_index = splits / "classInd.txt"
    official = class_index.is_file()
    names = read_class_index(class_index) if official else None
    listed = list(_read_lists(splits, first_label=1 if official else 0))
    keys = {id.casefold(): id for id in files}
    placed: dict[str, list[int]] = {id: [NEITHER] * NUM_SPLITS for id in files}
    labels: dict[str, int] = {}
    missing: dict[str, str] = {}
    for line in listed:
        id = keys.get(line.key)
        if id is None:
            missing.setdefault(line.key, line.where)
            continue
        if placed[id][line.split] not in (NEITHER, line.part):
            raise DatasetError(f"{line.where}: {id!r} is in both the train and the test list of split {line.split + 1}")
        placed[id][line.split] = line.part
        if line.label is not None and labels.setdefault(id, line.label) != line.label:
            raise DatasetError(f"{line.where}: {id!r} has label {line.label} here and {labels[id]} elsewhere")
    warnings = _missing_warning(missing, strict=strict)
    if names is None:
        names = _names_of_labels(files, labels)
        by_folder = {name.casefold(): label for label, name in enumerate(names)}
    else:
        by_folder = {name.casefold(): label for label, name in enumerate(names)}
        _check_official(files, labels, by_folder, names, class_index)
    clips = tuple(
        Clip(id, str(path), labels.get(id, by_folder.get(path.parts[0].casefold(), -1)), _three(placed[id]))
        for id, path in files.items()
    )
    if unnamed := [clip.id for clip in clips if clip.label < 0]:
        raise DatasetError(
            f"source {str(source)!r}: no list in {str(splits)!r} gives {len(unnamed)} videos a label "
            f"({unnamed[0]!r} first); list them or move them away"
        )
    return Dataset(_name(source, names), source, tuple(names), clips, warnings)


def _name(source: Path, class_names: Sequence[str]) -> str:
    """What a data set is called: UCF-101, or its folder's name; that of the one above where UCF-101/ holds another."""
    if tuple(class_names) == ucf101.CLASSES:
        return "UCF-101"
    is_part = set(map(str.casefold, class_names)) <= set(map(str.casefold, ucf101.CLASSES))
    return source.name if is_part or source.name != "UCF-101" else source.resolve().parent.name


def _three(values: Sequence[int]) -> tuple[int, int, int]:
    first, second, third = values
    return first, second, third


def _missing_warning(missing: dict[str, str], *, strict: bool) -> tuple[str, ...]:
    if not missing:
        return ()
    key, where = next(iter(missing.items()))
    text = f"{len(missing)} listed clips are not in the source folder ({key!r} of {where} first)"
    if strict:
        raise DatasetError(f"{text}; add them, or run without --strict")
    return (text,)


def _check_official(
    files: dict[str, PurePosixPath],
    labels: dict[str, int],
    by_folder: dict[str, int],
    names: Sequence[str],
    class_index: Path,
) -> None:
    for id, path in files.items():
        folder = path.parts[0] if len(path.parts) > 1 else ""
        label = by_folder.get(folder.casefold())
        if label is None:
            raise DatasetError(
                f"class {printable(folder)!r} of {id!r} is not in {str(class_index)!r}; "
                "add it there or move the folder away"
            )
        if labels.get(id, label) != label:
            raise DatasetError(
                f"{id!r} is listed with label {labels[id] + 1}, but its folder is class {label + 1} {names[label]!r}"
            )


def read_class_index(path: Path) -> tuple[str, ...]:
    """The class names of a ``classInd.txt`` (lines ``<label from 1> <name>``), in order of their labels."""
    rows: dict[int, str] = {}
    for number, line in _lines(path):
        label, _, name = line.partition(" ")
        if not _WHOLE.fullmatch(label) or not name.strip() or int(label) in rows:
            raise DatasetError(f"{path.name} line {number}: {line!r}; expected a new label from 1 on and a class name")
        rows[int(label)] = name.strip()
    if sorted(rows) != list(range(1, len(rows) + 1)):
        raise DatasetError(f"{path.name}: the labels are not 1 to {len(rows)} without a gap")
    _check_count(len(rows), path.name)
    return tuple(rows[label] for label in sorted(rows))


def _check_count(classes: int, where: str) -> None:
    if classes > MAX_CLASSES:
        raise DatasetError(f"{where}: {classes} classes; a store knows {MAX_CLASSES} at most")


def _names_of_labels(files: dict[str, PurePosixPath], labels: dict[str, int]) -> tuple[str, ...]:
    """A label's class is the one folder that its clips lie in, else ``class_<label>``."""
    folders: dict[int, set[str]] = {}
    for id, label in labels.items():
        folders.setdefault(label, set()).add(printable(files[id].parts[0]) if len(files[id].parts) > 1 else "")
    count = max(folders, default=-1) + 1
    names = []
    for label in range(count):
        inside = folders.get(label, {""})
        names.append(next(iter(inside)) if len(inside) == 1 and inside != {""} else f"class_{label}")
    return tuple(names)


def _read_lists(folder: Path, *, first_label: int) -> Iterator[ListedClip]:
    found = False
    for path in sorted(folder.glob("*.txt")):
        stem = path.stem.lower()
        part = TRAIN if "train" in stem else TEST if "test" in stem or "val" in stem else NEITHER
        if part == NEITHER:
            continue
        found = True
        digits = re.findall(r"\d+", stem)
        split = int(digits[-1]) if digits else 1
        if not 1 <= split <= NUM_SPLITS:
            raise DatasetError(f"{path.name}: split {split}; a store knows the splits 1, 2 and 3")
        for number, line in _lines(path):
            yield _parse_line(line, f"{path.name} line {number}", split - 1, part, first_label)
    if not found:
        raise DatasetError(
            f"splits {str(folder)!r} holds no list; expected trainlist01.txt, testlist01.txt and so on, "
            "or train.txt and test.txt"
        )


def _parse_line(line: str, where: str, split: int, part: int, first_label: int) -> ListedClip:
    name, label = line, None
    fields = line.rsplit(maxsplit=1)
    if len(fields) == 2 and not any(map(str.isalpha, fields[1])):
        name, label = fields[0], int(fields[1]) - first_label if _WHOLE.fullmatch(fields[1]) else -1
        if not 0 <= label < MAX_CLASSES:
            highest = MAX_CLASSES - 1 + first_label
            raise DatasetError(f"{where}: label {fields[1]:.40}; labels count from {first_label} to {highest} here")
    path = PurePosixPath(name.replace("\\", "/"))
    if path.suffix.lower() not in VIDEO_SUFFIXES:  # "video.avi ClassName label", as CoViAR writes it
        path = PurePosixPath(name.split()[0].replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise DatasetError(f"{where}: {name!r} leaves the source folder; give paths inside it")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        path = path.with_suffix("")
    return ListedClip(printable(str(path)).casefold(), split, part, label, where)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, line.strip()
