"""Split lists and class indexes: the split and part that a file lists, and the clip and label that a line means."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath

from data_specs.discovery import VIDEO_SUFFIXES, PassedOver, Tally, hidden_kind
from data_specs.names import DatasetError, NameIndex, printable
from data_specs.schema import MAX_CLASSES

NUM_SPLITS = 3
NEITHER, TRAIN, TEST, VALIDATION = 0, 1, 2, 3
PARTS = {TRAIN: "train", TEST: "test", VALIDATION: "validation"}
CLASS_INDEX = "classInd.txt"
_WHOLE = re.compile(r"[0-9]{1,9}")
_LIKE_A_LABEL = re.compile(r"[-+]*[\d.¹²³]+")
_NAME_WORDS = re.compile(r"\d+|[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_PART_WORD = re.compile(r"(train|test|val)(?:ing|id|idation)?(?:list|set|split|fold|videos?|clips?|files?)?")
_PART_OF_WORD = {"train": TRAIN, "test": TEST, "val": VALIDATION}
_SPLIT_WORDS = {"split", "fold", "list", "set", "s"}


@dataclass(frozen=True, slots=True)
class ListedClip:
    """A line of a split list: ``name`` as written, and the clip that it means.

    ``id`` is None if the source folder has no such clip; ``split`` is 0, 1 or 2, ``part`` one of `PARTS`, ``label``
    0-based or None, ``where`` file and line.
    """

    name: str
    id: str | None
    split: int
    part: int
    label: int | None
    where: str


@dataclass(frozen=True, slots=True)
class SplitLists:
    """All lines of the lists in a folder, and the other files in it."""

    lines: tuple[ListedClip, ...]
    passed_over: tuple[PassedOver, ...]


def read_split_lists(folder: Path, ids: NameIndex, *, classes: int | None) -> SplitLists:
    """Read the lists in ``folder``, whose clips are looked up among ``ids``.

    A list is a ``.txt`` file with the word train, test or val in its name; a number after that word or after "split"
    is its split, 1 by default. A line is a path, with or without a video suffix, and optionally a label; a class name
    may be between them. Labels count from 1 if there is a class index of ``classes`` names, else from 0.

    Raises a one-line ``DatasetError`` with the file, and mostly the line, for anything ambiguous: a file name with two
    parts or splits, two lists of one part, a path that could mean two clips, two labels, or 0-based labels without a 0.
    """
    paths, passed_over = _list_files(folder)
    first_label = 0 if classes is None else 1
    lines: list[ListedClip] = []
    for (split, part), path in paths.items():
        spelled: dict[str, tuple[str, str]] = {}
        for number, line in numbered_lines(path):
            where = f"{path.name} line {number}"
            name, id, label = _parse_line(line, where, first_label, ids)
            if id is not None:
                known, there = spelled.setdefault(id, (name, where))
                if known != name:
                    raise DatasetError(f"{where}: {name!r} and {known!r} ({there}) both mean the clip {id!r}")
            lines.append(ListedClip(name, id, split - 1, part, label, where))
    _check_labels(lines, classes)
    return SplitLists(tuple(lines), passed_over)


def _list_files(folder: Path) -> tuple[dict[tuple[int, int], Path], tuple[PassedOver, ...]]:
    """The lists by split (1, 2, 3) and part."""
    paths: dict[tuple[int, int], Path] = {}
    tally = Tally()
    for path in sorted(folder.iterdir()):
        if path.name == CLASS_INDEX or _video_suffix(path.name) or not path.is_file():
            continue
        kind = hidden_kind(PurePosixPath(path.name))
        place = None if kind or path.suffix.lower() != ".txt" else split_and_part(path.name)
        if place is None:
            tally.add(kind or "list", path.name)
            continue
        if (other := paths.setdefault(place, path)) != path:
            raise DatasetError(
                f"splits {str(folder)!r}: by their names, {other.name!r} and {path.name!r} are both the "
                f"{PARTS[place[1]]} list of split {place[0]}; keep one, or name them {_EXAMPLE}"
            )
    if not paths:
        others = "".join(f" ({one})" for one in tally.summary())
        raise DatasetError(
            f"splits {str(folder)!r} holds no list{others}; expected trainlist01.txt, testlist01.txt and so on, "
            "or train.txt, test.txt and val.txt"
        )
    return paths, tally.summary()


_EXAMPLE = "train1.txt, test1.txt, val1.txt, train2.txt and so on"


def split_and_part(name: str) -> tuple[int, int] | None:
    """The split (1, 2 or 3) and the part (`PARTS`) that a file lists, judging by its name; None if it is not a list.

    The part is a word of the name: ``trainlist01``, ``sthv2_train_list``, ``testSplit2``; "retrieval" is none. The
    split is the number after the part's word or after "split", "list", "set", "fold" or "s"; a number after another
    word belongs to that word, as in ``kinetics400_train``. ``DatasetError`` if that is ambiguous.
    """
    words = [word.lower() for word in _NAME_WORDS.findall(PurePosixPath(name).stem)]
    parts = {_PART_OF_WORD[found[1]] for word in words if (found := _PART_WORD.fullmatch(word))}
    if not parts:
        return None
    if len(parts) > 1:
        raise DatasetError(f"{name}: its name says {' and '.join(PARTS[part] for part in sorted(parts))}; give one")
    splits = set()
    for before, word in zip(["", *words], words, strict=False):
        if word.isdecimal():
            if _PART_WORD.fullmatch(before) or before in _SPLIT_WORDS:
                splits.add(int(word))
            elif not before or before.isdecimal():
                raise DatasetError(f"{name}: it is not clear what {word} stands for in its name; name lists {_EXAMPLE}")
    if len(splits) > 1:
        raise DatasetError(f"{name}: its name gives the splits {', '.join(map(str, sorted(splits)))}; give one")
    split = splits.pop() if splits else 1
    if not 1 <= split <= NUM_SPLITS:
        raise DatasetError(f"{name}: split {split}; a store has the splits 1, 2 and 3")
    return split, parts.pop()


@dataclass(frozen=True, slots=True)
class _Reading:
    """One way to read a line: it begins with the path; ``fault`` says why the rest is not a label, "" if it is."""

    name: str
    ids: tuple[str, ...]
    label: int | None
    fault: str


def _parse_line(line: str, where: str, first_label: int, ids: NameIndex) -> tuple[str, str | None, int | None]:
    """The path as written in a line, the clip that it means (None if there is none), and the label."""
    ends = [found.end() for found in re.finditer(r"\S+", line)]
    suffixed = [end for end in ends if _video_suffix(line[:end])]
    readings = [_reading(line[:end], line[end:].split(), where, first_label, ids) for end in suffixed or ends]
    known = [reading for reading in readings if reading.ids]
    sound = [reading for reading in known if not reading.fault]
    if len(sound) > 1:
        names = " or ".join(repr(reading.name) for reading in sound)
        raise DatasetError(f"{where}: {line!r} may mean {names}; write paths with their suffix")
    chosen = (sound or known or (readings if suffixed else [_most_likely(readings, line.split())]))[-1]
    if chosen.fault:
        raise DatasetError(f"{where}: {chosen.fault}")
    if len(chosen.ids) > 1:
        raise DatasetError(
            f"{where}: {chosen.name!r} may mean {' or '.join(map(repr, chosen.ids))}; use one of these spellings"
        )
    return chosen.name, chosen.ids[0] if chosen.ids else None, chosen.label


def _most_likely(readings: Sequence[_Reading], words: Sequence[str]) -> _Reading:
    """The reading of a line whose clip is missing and has no suffix: trailing words are labels if they look so."""
    labels = len(list(takewhile(_LIKE_A_LABEL.fullmatch, reversed(words))))
    return readings[max(0, len(words) - labels - 1)]


def _reading(name: str, rest: list[str], where: str, first_label: int, ids: NameIndex) -> _Reading:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise DatasetError(f"{where}: {name!r} leaves the source folder; give paths inside it")
    key = printable(str(path))
    found = ids.find(key[: -len(suffix)]) if (suffix := _video_suffix(key)) else ()
    label, fault = _label(rest, name, first_label)
    return _Reading(printable(name), found or ids.find(key), label, fault)


def _video_suffix(path: str) -> str:
    suffix = os.path.splitext(path)[1]
    return suffix if suffix.lower() in VIDEO_SUFFIXES else ""


def _label(rest: Sequence[str], name: str, first_label: int) -> tuple[int | None, str]:
    """The 0-based label in the text after a path, with or without a class name before it, and its fault."""
    if not rest:
        return None, ""
    numbers = [word for word in rest if _LIKE_A_LABEL.fullmatch(word)]
    if len(numbers) > 1:
        return None, f"{name!r} has {len(numbers)} labels, {' and '.join(numbers)}; a clip has one"
    if not numbers or numbers[0] != rest[-1] or any(map(_video_suffix, rest)):
        return None, f"{' '.join(rest)!r} after {name!r} is not a label; a line is a path and a number"
    label = int(numbers[0]) - first_label if _WHOLE.fullmatch(numbers[0]) else -1
    if not 0 <= label < MAX_CLASSES:
        highest = MAX_CLASSES - 1 + first_label
        return None, f"label {numbers[0]:.40}; labels count from {first_label} to {highest} here"
    return label, ""


def _check_labels(lines: Sequence[ListedClip], classes: int | None) -> None:
    """``DatasetError`` for labels missing from the class index or, without an index, that do not count from 0."""
    labels = {line.label: line.where for line in reversed(lines) if line.label is not None}
    if not labels:
        return
    least, most = min(labels), max(labels)
    if classes is not None and most >= classes:
        raise DatasetError(f"{labels[most]}: label {most + 1}; {CLASS_INDEX} has the labels 1 to {classes}")
    if classes is None and least > 0:
        raise DatasetError(
            f"{labels[least]}: label {least} is the smallest of all lists; without {CLASS_INDEX} labels count from 0: "
            f"subtract {least}, or add {CLASS_INDEX} with a line '<label from 1> <class name>' for each class"
        )


def read_class_index(path: Path) -> tuple[str, ...]:
    """The class names of a ``classInd.txt`` (lines ``<label from 1> <name>``), in order of their labels."""
    rows: dict[int, str] = {}
    for number, line in numbered_lines(path):
        label, _, name = line.partition(" ")
        if not _WHOLE.fullmatch(label) or not name.strip() or int(label) in rows:
            raise DatasetError(
                f"{path.name} line {number}: {line!r}; expected a unique label of at least 1 and a class name"
            )
        rows[int(label)] = name.strip()
    if sorted(rows) != list(range(1, len(rows) + 1)):
        raise DatasetError(f"{path.name}: the labels are not the numbers 1 to {len(rows)}")
    check_class_count(len(rows), path.name)
    return tuple(rows[label] for label in sorted(rows))


def check_class_count(classes: int, where: str) -> None:
    """``DatasetError`` for more classes than a store supports."""
    if classes > MAX_CLASSES:
        raise DatasetError(f"{where}: {classes} classes; a store holds at most {MAX_CLASSES}")


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The non-blank lines of a text file, stripped, with their numbers from 1."""
    text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, line.strip()
