"""CSV and JSON annotations: Kinetics, Something-Something V2 and Diving48."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_specs.clip_rows import Faults, Part
from data_specs.documents import parse_json
from data_specs.indexing.entries import Entry, Listed
from data_specs.names import DatasetError, printable

SSV2_LISTS = re.compile(r"(?:something-something-v2-)?(train|validation|test)\.json")
SSV2_LABELS = re.compile(r"(?:something-something-v2-)?labels\.json")
SSV2_ANSWERS = "test-answers.csv"
DIVING48_LISTS = re.compile(r"(Diving48(?:_V\d)?)_(train|test)\.json")
DIVING48_VOCABULARY = "Diving48_vocab.json"
KINETICS_COLUMNS = ("youtube_id", "time_start", "time_end")
_PARTS: Mapping[str, Part] = {
    "train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"
}  # fmt: skip
_MOST_BYTES = 1 << 30


def kinetics_files(files: Sequence[Path]) -> list[Path]:
    """The CSV files whose first line has the column names of Kinetics."""
    found = []
    for path in files:
        if path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
                if set(KINETICS_COLUMNS) <= set(file.readline(1000).strip().split(",")):
                    found.append(path)
    return found


def read_kinetics(files: Sequence[Path], faults: Faults) -> Listed:
    """The CSV of Kinetics-400, -600 and -700: ``label,youtube_id,time_start,time_end,split[,is_cc]``.

    ``split`` is train, val (or validate) or test; a test file may lack the column ``label`` (the publisher's train.csv,
    val.csv and test.csv). A clip's file is called ``<youtube_id>_<start>_<end>``, both in six digits, or
    ``<youtube_id>``. Labels are the classes in order of their names.
    """
    entries, unlabelled = [], 0
    paths = kinetics_files(files)
    for path in paths:
        columns: list[str] = []
        for line, cells in _csv(path, ","):
            if not columns:
                columns = cells
                continue
            row, where = dict(zip(columns, cells, strict=False)), f"{path.name} line {line}"
            label = row.get("label", "").strip()
            entry = _kinetics_entry(row, label, where, path)
            if isinstance(entry, str):
                faults.add(f"{where}: {entry}")
            elif label:
                entries.append(entry)
            else:
                unlabelled += 1
    names = tuple(sorted({entry.label for entry in entries}))
    return Listed(entries, names, ", ".join(path.name for path in paths), unlabelled)


def _kinetics_entry(row: Mapping[str, str], label: str, where: str, path: Path) -> Entry | str:
    """The entry of a row, or its fault."""
    name, part = row.get("youtube_id", ""), (row.get("split") or path.stem).strip()
    try:
        start, end = (int(float(row[column])) for column in KINETICS_COLUMNS[1:])
    except (KeyError, ValueError, OverflowError):
        return f"{printable(name)!r} has no times in seconds"
    if not name or part not in _PARTS:
        return f"split {printable(part)[:40]!r} of {printable(name)!r}; expected train, val or test"
    return Entry((f"{name}_{start:06d}_{end:06d}", name), printable(label), _PARTS[part], where)


def read_ssv2(files: Sequence[Path], faults: Faults) -> Listed:
    """The JSON of Something-Something V2: lists of ``{"id", "label", "template", "placeholders"}`` and a label map.

    The files are ``train.json``, ``validation.json`` and ``test.json``, and ``labels.json`` with the number of each
    class (``{"Approaching something with your camera": "0"}``), or the same with ``something-something-v2-`` before
    them. A clip's class is its template without brackets, its file ``<id>.webm``. Test clips have no template; their
    classes are in ``test-answers.csv`` (``<id>;<class>``) where the publisher's archive has it.
    """
    numbers = _json(next(path for path in files if SSV2_LABELS.fullmatch(path.name)), dict)
    try:
        names = tuple(sorted(numbers, key=lambda name: int(numbers[name])))
        if [int(numbers[name]) for name in names] != list(range(len(names))):
            raise ValueError
    except (TypeError, ValueError):
        raise DatasetError("labels.json: its numbers are not 0, 1, 2 and so on, one per class") from None
    classes = {_without_brackets(name): name for name in names}
    answers = _answers(files)
    entries, unlabelled, used = [], 0, []
    for path in files:
        if not (found := SSV2_LISTS.fullmatch(path.name)):
            continue
        used.append(path.name)
        for number, item in enumerate(_json(path, list), 1):
            where = f"{path.name} item {number}"
            id = str(item.get("id", "")) if isinstance(item, dict) else ""
            template = str(item.get("template") or answers.get(id, "")) if id else ""
            if not id:
                faults.add(f"{where}: no id")
            elif not template:
                unlabelled += 1
            elif (name := classes.get(_without_brackets(template))) is None:
                faults.add(f"{where}: {printable(template)[:80]!r} is not a class of labels.json")
            else:
                entries.append(Entry((id,), name, _PARTS[found[1]], where))
    return Listed(entries, names, ", ".join(used), unlabelled)


def _without_brackets(template: str) -> str:
    return template.replace("[", "").replace("]", "")


def _answers(files: Sequence[Path]) -> dict[str, str]:
    path = next((path for path in files if path.name == SSV2_ANSWERS), None)
    if path is None:
        return {}
    return {row[0]: row[1] for _, row in _csv(path, ";") if len(row) > 1}


def read_diving48(files: Sequence[Path], faults: Faults) -> Listed:
    """The JSON of Diving48: ``Diving48_V2_train.json`` and ``…_test.json``, and the vocabulary ``Diving48_vocab.json``.

    A list holds ``{"vid_name", "label", "start_frame", "end_frame"}``, the label an index from 0 into the vocabulary,
    whose classes are lists of words (``["Back", "15som", "05Twis", "FREE"]``); the file is ``<vid_name>.mp4``, which
    is cut already (the publisher's annotations).
    """
    names = tuple(" ".join(map(str, words)) for words in _vocabulary(files))
    editions = sorted({found[1] for path in files if (found := DIVING48_LISTS.fullmatch(path.name))})
    if len(editions) > 1:
        raise DatasetError(f"the folder has the lists of {' and '.join(editions)}; keep those of one edition")
    entries, used = [], []
    for path in files:
        if not (found := DIVING48_LISTS.fullmatch(path.name)):
            continue
        used.append(path.name)
        for number, item in enumerate(_json(path, list), 1):
            name, label = (item.get("vid_name"), item.get("label")) if isinstance(item, dict) else (None, None)
            where = f"{path.name} item {number}"
            if not isinstance(name, str) or type(label) is not int or not 0 <= label < len(names):
                faults.add(
                    f"{where}: {printable(str(item))[:80]} has no vid_name, or no label from 0 to {len(names) - 1}"
                )
            else:
                entries.append(Entry((name,), names[label], _PARTS[found[2]], where))
    return Listed(entries, names, ", ".join(used))


def _vocabulary(files: Sequence[Path]) -> Iterator[list[Any]]:
    path = next((path for path in files if path.name == DIVING48_VOCABULARY), None)
    if path is None:
        raise DatasetError(f"{DIVING48_VOCABULARY}, which names the classes, is missing; put it next to the lists")
    for words in _json(path, list):
        if not isinstance(words, list):
            raise DatasetError(f"{path.name}: {printable(str(words))[:80]} is not a list of words")
        yield words


def _csv(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The non-empty rows of a CSV, with the numbers of their last lines."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        try:
            for row in reader:
                if row:
                    yield reader.line_num, row
        except csv.Error as error:
            raise DatasetError(f"{path.name} line {reader.line_num}: not CSV: {error}") from None


def _json(path: Path, kind: type) -> Any:
    try:
        value = parse_json(path.read_bytes(), _MOST_BYTES)
    except ValueError as error:
        raise DatasetError(f"{path.name} is not JSON: {printable(str(error))}") from None
    if not isinstance(value, kind):
        raise DatasetError(f"{path.name} holds no {'list' if kind is list else 'object'} of clips or classes")
    return value
