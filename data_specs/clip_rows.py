"""The rows of a data set, from a clip table, class folders or split lists, and the checks on them.

clip table ──┐
class folders ─┼──▶ Listing of Rows ── clips_of ──▶ Clips sorted by id
split lists ──┘
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, PlainValidator, ValidationInfo
from pydantic.dataclasses import dataclass as validated

from data_specs.discovery import PassedOver
from data_specs.names import DatasetError, NameIndex, printable
from data_specs.schema import MAX_CLASSES, MAX_ID
from data_specs.split_lists import NEITHER, NUM_SPLITS, TEST, TRAIN, VALIDATION, check_class_count
from data_specs.windows import Window, check_seconds, seconds_text

SHOWN_FAULTS = 5
_DECIMAL = re.compile(r"[-+]?([0-9]{1,20}(\.[0-9]*)?|\.[0-9]+)")
Part = Literal["", "train", "val", "test"]
PART_CODES: dict[Part, int] = {"": NEITHER, "train": TRAIN, "test": TEST, "val": VALIDATION}
Split = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip of a data set: a video file, or a window of one.

    ``id`` is its path in the source folder without the suffix, or its id in the clip table, and always printable;
    ``path`` is relative to the source folder, with bytes that are not UTF-8 kept as surrogates; ``label`` is 0-based;
    ``split`` holds one value per split 1, 2 and 3: 0 none, 1 train, 2 test, 3 validation; clips with the same ``group``
    come from one recording, "" if unknown. For a window, ``video`` is the path, printable, and ``start`` and ``end``
    are its times in seconds; "" and None for a whole video.
    """

    id: str
    path: str
    label: int
    split: Split = (NEITHER, NEITHER, NEITHER)
    group: str = ""
    video: str = ""
    start: float | None = None
    end: float | None = None

    @property
    def window(self) -> Window | None:
        """The part of the video that the clip is; None for all of it."""
        return None if self.start is None or self.end is None else Window(self.start, self.end)


def without_suffix(path: str) -> str:
    """A path without its suffix, printable: the id of a clip that the clip table does not name."""
    return printable(os.path.splitext(path)[0])


def _checked_path(value: Any) -> str:
    """The normalised path inside the source folder; bytes that are not UTF-8 are kept as surrogates."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("give a path")
    if value.startswith("/") or ".." in value.split("/"):
        raise ValueError("leaves the source folder; give a path inside it")
    path = "/".join(part for part in value.split("/") if part not in ("", "."))
    if not path:
        raise ValueError("give a path")
    return path


def _checked_id(value: str) -> str:
    if value and any(part in ("", ".", "..") for part in value.split("/")):
        raise ValueError("give an id without empty parts, '.' and '..' between its slashes")
    return _checked_text(value)


def _checked_text(value: str) -> str:
    if len(value) > MAX_ID:
        raise ValueError(f"give at most {MAX_ID} characters")
    if value == printable(value):
        return value
    if any("\udc80" <= letter <= "\udcff" for letter in value):
        raise ValueError("it is not UTF-8")
    raise ValueError("give text without characters that cannot be printed")


def _checked_label(value: str | int) -> str | int:
    if isinstance(value, int):
        if not 0 <= value < MAX_CLASSES:
            raise ValueError(f"labels count from 0 to {MAX_CLASSES - 1}")
        return value
    if not value:
        raise ValueError("give a class name")
    return _checked_text(value)


def _seconds(value: Any) -> float | None:
    """A moment of a video; a cell of a CSV is text, and none if it is empty."""
    if value in (None, ""):
        return None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (is_number or (isinstance(value, str) and _DECIMAL.fullmatch(value))):
        raise ValueError("give seconds, such as 12.5")
    return check_seconds(float(value))


def _after_start(end: float | None, info: ValidationInfo) -> float | None:
    """``end``, which must come after ``start``, and both or neither be given."""
    if "start" not in info.data:  # it is wrong by itself
        return end
    start = info.data["start"]
    if (start is None) != (end is None):
        raise ValueError(f"a window has a start and an end; give {'start' if start is None else 'end'}, too")
    if start is not None and end is not None and not start < end:
        raise ValueError(f"the window starts at {seconds_text(start)} s; give a later end")
    return end


@validated(config=ConfigDict(strict=True, extra="forbid"), frozen=True, slots=True)
class Row:
    """One clip as listed, before the rows are compared with each other.

    ``path`` is relative to the source folder; ``label`` is a class name or a 0-based index into the class names; an
    empty ``id`` means the path without its suffix, and for a window also its times; ``part``, ``part2`` and ``part3``
    are the clip's parts in the splits 1, 2 and 3; clips with the same ``group`` come from one recording; ``start`` and
    ``end`` make the clip a window of the video, in seconds.
    """

    path: Annotated[str, PlainValidator(_checked_path)]
    label: Annotated[str | int, AfterValidator(_checked_label)]
    id: Annotated[str, AfterValidator(_checked_id)] = ""
    part: Part = ""
    part2: Part = ""
    part3: Part = ""
    group: Annotated[str, AfterValidator(_checked_text)] = ""
    start: Annotated[float | None, PlainValidator(_seconds)] = None
    end: Annotated[float | None, PlainValidator(_seconds), AfterValidator(_after_start)] = Field(
        default=None, validate_default=True
    )

    @property
    def window(self) -> Window | None:
        """The part of the video that the clip is; None for all of it."""
        return None if self.start is None or self.end is None else Window(self.start, self.end)

    @property
    def recording(self) -> str:
        """The clip's group; windows without one belong to their video; "" if unknown."""
        return self.group or ("" if self.window is None else without_suffix(self.path))

    @property
    def parts(self) -> tuple[Part, Part, Part]:
        """The clip's parts in the splits 1, 2 and 3."""
        return self.part, self.part2, self.part3

    @property
    def name(self) -> str:
        """The id of the clip: the given one, or the path without the suffix, followed by the times of a window."""
        window = self.window
        return self.id or without_suffix(self.path) + ("" if window is None else f"_{window.name}")


COLUMNS = tuple(column.name for column in fields(Row))


@dataclass(slots=True)
class Faults:
    """The faults of a data set: all are counted, and the error lists the first ones."""

    where: str
    count: int = 0
    first: list[tuple[int, str]] = field(default_factory=list)

    def add(self, text: str, line: int = 0) -> None:
        """Add a fault; ``line`` is its line in the file, from 1, or 0 for none."""
        self.count += 1
        self.first.append((line, text))
        if len(self.first) > 100 * SHOWN_FAULTS:
            self._keep_first()

    def _keep_first(self) -> None:
        self.first = sorted(self.first, key=lambda one: one[0])[:SHOWN_FAULTS]

    def check(self) -> None:
        """Raise a one-line ``DatasetError`` if there are any."""
        self._keep_first()
        if not self.count:
            return
        listed = [f"line {line}: {text}" if line else text for line, text in self.first]
        if self.count == 1:
            raise DatasetError(f"{self.where}: {listed[0]}")
        more = f"; and {self.count - len(listed)} more" if self.count > len(listed) else ""
        raise DatasetError(f"{self.where}: {self.count} faults: {'; '.join(listed)}{more}")


@dataclass(frozen=True, slots=True)
class Listing:
    """The contents of a clip table, or of a folder and its lists: rows not yet compared with each other.

    ``what`` names the source in errors; ``root`` is the folder that paths are relative to; ``lines`` holds the line
    number of each row of a table, and is empty otherwise; ``missing`` holds the positions of rows whose file is
    missing. Without ``class_names`` the classes are the sorted labels of all rows, missing ones included.
    """

    what: str
    root: Path
    rows: Sequence[Row]
    class_names: tuple[str, ...] | None
    lines: Sequence[int] = ()
    missing: frozenset[int] = frozenset()
    warnings: tuple[str, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()

    def line(self, position: int) -> int:
        """The line of a row, from 1; 0 if it has none."""
        return self.lines[position] if self.lines else 0

    def place(self, position: int) -> str:
        """How an error names a row."""
        return f"line {self.lines[position]}" if self.lines else repr(printable(Path(self.rows[position].path).name))


def clips_of(listing: Listing, faults: Faults) -> tuple[tuple[str, ...], tuple[Clip, ...]]:
    """The class names and the clips of a listing, sorted by id, after all its rows were checked.

    ``faults`` holds the faults found so far. Raises a one-line ``DatasetError`` for duplicate ids and paths, groups on
    both sides of a split, labels missing from the class names, and more classes than a store supports.
    """
    ids = [row.name for row in listing.rows]
    _check_unique_videos(listing, faults)
    check_unique_ids(ids, listing, faults)
    _check_groups(listing, faults)
    names = listing.class_names or tuple(sorted({str(row.label) for row in listing.rows}))
    labels = _labels(listing, names, faults)
    faults.check()
    check_class_count(len(names), listing.what)
    clips = (
        _clip(id, row, labels[row.label])
        for position, (id, row) in enumerate(zip(ids, listing.rows, strict=True))
        if position not in listing.missing
    )
    return names, tuple(sorted(clips, key=lambda clip: clip.id))


def _clip(id: str, row: Row, label: int) -> Clip:
    video = "" if row.window is None else printable(row.path)
    return Clip(id, row.path, label, _split(row.parts), row.recording, video, row.start, row.end)


@lru_cache
def _split(parts: tuple[Part, Part, Part]) -> Split:
    first, second, third = (PART_CODES[part] for part in parts)
    return first, second, third


def _check_unique_videos(listing: Listing, faults: Faults) -> None:
    """Add a fault for each two rows of one path that are not different windows of it."""
    windows = [row.window for row in listing.rows]
    videos = [
        row.path if window is None else f"{row.path} from {window}"
        for row, window in zip(listing.rows, windows, strict=True)
    ]
    _check_unique(videos, "path", listing, faults)


def _check_unique(values: Sequence[str], what: str, listing: Listing, faults: Faults) -> None:
    if len(set(values)) == len(values):
        return
    first: dict[str, int] = {}
    for position, value in enumerate(values):
        if (other := first.setdefault(value, position)) != position:
            faults.add(
                f"{listing.place(other)} and {listing.place(position)} have the same {what} {printable(value)!r}; "
                "rename or remove one",
                listing.line(position),
            )


def check_unique_ids(ids: Sequence[str], listing: Listing, faults: Faults) -> None:
    """Add a fault for each id of the rows of a listing that is too long or occurs twice."""
    for position, name in enumerate(ids):
        if len(name) > MAX_ID:
            text = f"{listing.place(position)} has an id of {len(name)} characters; a store takes {MAX_ID} at most"
            faults.add(text, listing.line(position))
    _check_unique(ids, "id", listing, faults)


def _check_groups(listing: Listing, faults: Faults) -> None:
    grouped = [(position, row, group) for position, row in enumerate(listing.rows) if (group := row.recording)]
    for index in range(NUM_SPLITS):
        seen: dict[str, int] = {}
        for position, row, group in grouped:
            part = row.parts[index]
            if not part:
                continue
            other = seen.setdefault(group, position)
            if (first := listing.rows[other].parts[index]) != part:
                faults.add(
                    f"group {group!r} is in {part} of split {index + 1} here and in {first} in "
                    f"{listing.place(other)}; clips of one recording belong on one side",
                    listing.line(position),
                )


def _labels(listing: Listing, names: Sequence[str], faults: Faults) -> dict[str | int, int]:
    """The index of each label that occurs."""
    index = NameIndex(names)
    places = {name: number for number, name in enumerate(names)}
    first: dict[str | int, int] = {}
    counts: defaultdict[str | int, int] = defaultdict(int)
    for position, row in enumerate(listing.rows):
        first.setdefault(row.label, position)
        counts[row.label] += 1
    found: dict[str | int, int] = {}
    for label, position in first.items():
        named = () if isinstance(label, int) else index.find(label)
        if isinstance(label, int) and label < len(names):
            found[label] = label
        elif len(named) == 1:
            found[label] = places[named[0]]
        else:
            rows = f" ({counts[label]} rows)" if counts[label] > 1 else ""
            unknown = f"label {label!r} is none of the {len(names)} classes{rows}"
            unclear = f"label {label!r} may be {' or '.join(map(repr, named))}{rows}"
            faults.add(unclear if named else unknown, listing.line(position))
    return found
