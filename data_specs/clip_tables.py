"""Clip tables: data sets with labels and splits as CSV or JSON Lines in UTF-8, one clip per row.

``path`` and ``label`` are required; ``id``, ``part``, ``part2``, ``part3``, ``group``, ``start`` and ``end`` may be
missing or empty.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from data_specs.class_folders import missing_warning
from data_specs.clip_rows import COLUMNS, Faults, Listing, Row
from data_specs.discovery import EXAMPLES, PassedOver, every_video
from data_specs.documents import parse_json
from data_specs.names import DatasetError, NameIndex, printable
from data_specs.split_lists import CLASS_INDEX, check_class_count, numbered_lines, read_class_index
from data_specs.windows import seconds_text

_MOST_CHARACTERS = 1 << 20  # in a line of JSON Lines
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?")
_WHOLE = re.compile(r"[-+]?[0-9]{1,9}")
_REASONS = {
    "literal_error": "give train, val, test or nothing",
    "string_unicode": "it is not UTF-8",
    "string_type": "give text",
    "int_type": "give a class name or a whole number",
}


def read_clip_table(table: Path, source: Path, class_names: Path | None, *, strict: bool) -> tuple[Listing, Faults]:
    """The rows of a clip table whose paths are relative to the folder ``source``, and the faults found so far.

    A file whose first character is ``{`` is JSON Lines; any other is CSV with the column names in the first line.
    With ``class_names``, a file of class names (`read_class_names`), labels may be 0-based indices. A path matches its
    file exactly, else in another Unicode form, else in another case. Rows without a file are counted in a warning, or
    refused if ``strict``; videos that no row lists are counted as passed over.

    Raises a one-line ``DatasetError`` for a table that is unreadable, has no rows, or lists no existing clip.
    """
    faults = Faults(f"clips {str(table)!r}")
    reading = _Reading(faults, None if class_names is None else read_class_names(class_names))
    text = _text(table, faults.where)
    for line, cells in (_json_lines if text.lstrip().startswith("{") else _csv_lines)(text, faults):
        reading.add(line, cells)
    rows = reading.rows()
    if not rows:
        faults.check()
        raise DatasetError(f"{faults.where} has no rows; list one clip per line after the column names")
    files = _find_files(rows, reading.lines, source, faults)
    if len(files.missing) == len(rows):
        raise DatasetError(
            f"{faults.where}: none of its {len(rows)} clips is in {str(source)!r} ({printable(rows[0].path)!r} of line "
            f"{reading.lines[0]} first); paths are relative to the source folder"
        )
    absent = {printable(rows[position].path): f"line {reading.lines[position]}" for position in files.missing}
    warnings = reading.warnings() + missing_warning(absent, strict=strict and not faults.count)
    listing = Listing(
        faults.where,
        source,
        files.rows,
        reading.class_names,
        reading.lines,
        frozenset(files.missing),
        warnings,
        files.unlisted,
    )
    return listing, faults


def read_class_names(path: Path) -> tuple[str, ...]:
    """The class names in a file, one per line, in the order of the labels from 0; or those of a ``classInd.txt``."""
    where = f"class_names {str(path)!r}"
    if not path.is_file():
        raise DatasetError(f"{where}: no such file; give a text file with one class name per line")
    if path.name == CLASS_INDEX:
        return read_class_index(path)
    names: dict[str, int] = {}
    for number, name in numbered_lines(path):
        if name != printable(name):
            raise DatasetError(f"{where} line {number}: {printable(name)!r} cannot be printed; write it as UTF-8 text")
        if (first := names.setdefault(name, number)) != number:
            raise DatasetError(f"{where} line {number}: {name!r} is also in line {first}; name each class once")
    if not names:
        raise DatasetError(f"{where} is empty; give one class name per line")
    check_class_count(len(names), where)
    return tuple(names)


@dataclass(slots=True)
class _Reading:
    """The rows of a table while it is read, their line numbers, and the unused columns."""

    faults: Faults
    class_names: tuple[str, ...] | None
    lines: list[int] = field(default_factory=list)
    unused: dict[str, None] = field(default_factory=dict)
    _rows: list[Row] = field(default_factory=list)

    def add(self, line: int, cells: dict[str, Any]) -> None:
        """Check the cells of one row and add it."""
        for name in cells.keys() - set(COLUMNS):
            self.unused.setdefault(name)
        known = {name: cells[name] for name in COLUMNS if cells.get(name) is not None}
        label = known.get("label")
        try:
            _check_cells(known)
            if isinstance(label, str):
                known["label"] = self._index_of(label)
            elif label is not None and self.class_names is None and type(label) is int:
                raise _no_class_names(label)
            self._rows.append(Row(**known))
            self.lines.append(line)
        except ValidationError as error:
            self.faults.add("; ".join({one["loc"][0]: _fault(one) for one in reversed(error.errors())}.values()), line)
        except ValueError as error:
            self.faults.add(str(error), line)

    def _index_of(self, label: str) -> str | int:
        """A label of digits as an index into the class names, unless it is a class name; other labels unchanged."""
        if not _NUMBER.fullmatch(label):
            return label
        if self.class_names is None:
            raise _no_class_names(label)
        return label if label in self.class_names or not _WHOLE.fullmatch(label) else int(label)

    def rows(self) -> list[Row]:
        """All rows; ``DatasetError`` if numeric labels could be class names as well as indices."""
        names = self.class_names or ()
        numbers = {row.label for row in self._rows if isinstance(row.label, str) and _WHOLE.fullmatch(row.label)}
        indices = {row.label for row in self._rows if isinstance(row.label, int)}
        if indices and (unclear := sorted(name for name in numbers if names.index(name) != int(name))):
            raise DatasetError(
                f"{self.faults.where}: label {unclear[0]!r} may be a class name or an index, as other labels are; "
                "write class names only"
            )
        return self._rows

    def warnings(self) -> tuple[str, ...]:
        """Warnings about unused columns and about labels that differ only in spelling."""
        lines = []
        if self.unused:
            names = ", ".join(repr(printable(str(name)))[:60] for name in sorted(self.unused)[:10])
            lines.append(f"{self.faults.where}: unused columns: {names} (known: {', '.join(COLUMNS)})")
        if self.class_names is None:
            labels = sorted({str(row.label) for row in self._rows})
            alike = NameIndex(labels)
            for label in labels:
                found = alike.alike(label)
                if found[0] == label and len(found) > 1:
                    lines.append(f"{self.faults.where}: {' and '.join(map(repr, found))} count as different classes")
        return tuple(lines)


def _check_cells(cells: dict[str, Any]) -> None:
    """``ValueError`` for values that are accepted in folders and lists but not in a table."""
    path = cells.get("path")
    if isinstance(path, str) and ".." in path.replace("\\", "/").split("/"):
        raise ValueError(f"path {printable(path)[:80]!r}: leaves the source folder; give a path inside it")
    for name, value in cells.items():
        if name != "path" and isinstance(value, str) and value != value.strip():
            raise ValueError(f"{name} {printable(value)[:80]!r}: remove the leading or trailing spaces")


def _no_class_names(label: object) -> ValueError:
    return ValueError(
        f"label {label!r}: a number needs class names; give a file of them with --class-names, one name per line"
    )


def _fault(error: ErrorDetails) -> str:
    """One pydantic error as a clause: the column, the value, what would be right."""
    column = error["loc"][0]
    if error["type"] == "missing":
        return f"no {column}"
    if error["input"] is None and error["type"] == "value_error":
        return f"no {column}: {error['ctx']['error']}"
    reason = str(error["ctx"]["error"]) if error["type"] == "value_error" else _REASONS.get(error["type"], error["msg"])
    return f"{column} {printable(str(error['input']))[:80]!r}: {reason}"


# --- the two kinds of file


def _text(table: Path, where: str) -> str:
    """The whole text; bytes that are not UTF-8 are kept as surrogates, as in file system paths."""
    if not table.is_file():
        raise DatasetError(f"{where}: no such file; give a clip table, as CSV or JSON Lines")
    content = table.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content:
        raise DatasetError(f"{where} is not text in UTF-8; save it as CSV in UTF-8 or as JSON Lines")
    return content.decode("utf-8-sig", "surrogateescape")


def _json_lines(text: str, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = parse_json(line, _MOST_CHARACTERS)
        except ValueError as error:
            faults.add(f"not JSON: {printable(str(error))}", number)
            continue
        if isinstance(value, dict):
            yield number, value
        else:
            faults.add(f"{printable(line.strip())[:60]!r} is not a JSON object; give one per line", number)


def _csv_lines(text: str, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a CSV with the line that each begins in; spaces around cells other than paths are ignored."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: list[str] = []
    for line, cells in _records(reader, faults):
        if not cells:
            continue
        if not columns:
            columns = _columns(cells, faults.where)
        elif len(cells) != len(columns):
            faults.add(f"{len(cells)} cells, where the first line has {len(columns)}", line)
        else:
            yield (
                line,
                {name: cell if name == "path" else cell.strip() for name, cell in zip(columns, cells, strict=True)},
            )


def _records(reader: Any, faults: Faults) -> Iterator[tuple[int, list[str]]]:
    while True:
        line = reader.line_num + 1
        try:
            yield line, next(reader)
        except StopIteration:
            return
        except csv.Error as error:  # the rest cannot be split into cells
            faults.add(f"not CSV: {error}", line)
            return


def _columns(cells: Sequence[str], where: str) -> list[str]:
    columns = [cell.strip() for cell in cells]
    if missing := [name for name in ("path", "label") if name not in columns]:
        raise DatasetError(
            f"{where} line 1: no column {missing[0]!r} in {printable(','.join(cells))[:80]!r}; name the columns there, "
            f"separated by commas: {','.join(COLUMNS)}"
        )
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise DatasetError(f"{where} line 1: the column {printable(twice[0])!r} occurs twice")
    return columns


# --- the files


@dataclass(slots=True)
class _Files:
    """The rows with the paths of their files, the positions of rows without a file, and the unlisted videos."""

    rows: list[Row]
    missing: list[int]
    unlisted: tuple[PassedOver, ...]


def _find_files(rows: Sequence[Row], lines: Sequence[int], source: Path, faults: Faults) -> _Files:
    videos = every_video(source)
    found = [_exact(row.path, videos, source) for row in rows]
    used = {path for path in found if path is not None}
    rest = sorted(videos - used)
    lookup: Callable[[str], tuple[str, ...]] = NameIndex(rest).find
    missing = []
    for position, path in enumerate(found):
        if path is not None:
            continue
        candidates = lookup(rows[position].path.replace("\\", "/"))
        if len(candidates) == 1:
            found[position] = candidates[0]
            used.add(candidates[0])
            continue
        missing.append(position)
        if candidates:
            names = " or ".join(repr(printable(name)) for name in candidates)
            faults.add(f"path {printable(rows[position].path)!r} may be {names}", lines[position])
    moved = [
        row if path in (None, row.path) else replace(row, path=path) for row, path in zip(rows, found, strict=True)
    ]
    left = tuple(printable(name) for name in rest if name not in used)
    unlisted = (PassedOver("unlisted", len(left), left[:EXAMPLES]),) if left else ()
    return _Files(moved, missing, unlisted)


def _exact(path: str, videos: frozenset[str], source: Path) -> str | None:
    """The path of a row's file as written, or with slashes for backslashes; None if there is no such file."""
    for name in dict.fromkeys((path, path.replace("\\", "/"))):
        inside = not name.startswith("/") and ".." not in name.split("/")
        if name in videos or (inside and os.path.isfile(os.path.join(source, name))):
            return name
    return None


def table_lines(rows: Sequence[Row], *, json_lines: bool) -> Iterator[str]:
    """The lines of a clip table with these rows, without line ends; columns that are empty in all rows are left out.

    Bytes of a path that are not UTF-8 are surrogates, as `read_clip_table` expects.
    """
    empty = ("", None)
    used = [
        name for name in COLUMNS if name in ("path", "label") or any(getattr(row, name) not in empty for row in rows)
    ]
    if json_lines:
        for row in rows:
            yield json.dumps({name: getattr(row, name) for name in used if getattr(row, name) not in empty})
        return
    for cells in (list[object](used), *([_cell(getattr(row, name)) for name in used] for row in rows)):
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(cells)
        yield line.getvalue()


def _cell(value: object) -> object:
    return seconds_text(value) if isinstance(value, float) else value
