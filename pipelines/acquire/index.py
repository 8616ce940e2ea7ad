"""Writing the clip table of a data set and the file of its class names next to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_specs.clip_tables import table_lines
from data_specs.indexing.index import Index, make_index
from data_specs.names import DatasetError
from pipelines.atomic_files import atomic_write
from pipelines.errors import RunError

CLASSES = ".classes.txt"  # replaces the suffix of the table
_JSON_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class Written:
    """An index and the files written from it."""

    index: Index
    table: Path
    class_names: Path

    def as_json(self) -> dict[str, Any]:
        """The counts of the index and the paths of the files as JSON-like values."""
        return {**self.index.as_json(), "table": str(self.table), "class_names": str(self.class_names)}


def write_index(
    source: Path, out: Path, format: str, lists: Path | None, *, val_as_test: bool = False, overwrite: bool = False
) -> Written:
    """Write the clip table of ``source`` (`make_index`) to ``out``, its class names to ``<stem of out>.classes.txt``.

    Raises ``RunError`` if the index cannot be made, if the suffix is not .csv, .jsonl or .ndjson, or, unless
    ``overwrite``, if a file exists.
    """
    if out.suffix.lower() not in (".csv", *_JSON_LINES):
        raise RunError(f"out {str(out)!r}: give a file that ends in .csv or .jsonl")
    class_names = out.with_suffix(CLASSES)
    for path in (out, class_names):
        if path.exists() and not overwrite:
            raise RunError(f"out {str(path)!r} already exists; give another name, or --overwrite")
    if not out.absolute().parent.is_dir():
        raise RunError(f"out {str(out)!r}: no such folder; create it first")
    try:
        index = make_index(source, format, lists, val_as_test=val_as_test)
    except DatasetError as error:
        raise RunError(str(error)) from None
    _write(class_names, index.class_names)
    _write(out, table_lines(index.rows, json_lines=out.suffix.lower() in _JSON_LINES))
    return Written(index, out, class_names)


def _write(path: Path, lines: Iterable[str]) -> None:
    with atomic_write(path) as part, part.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)
