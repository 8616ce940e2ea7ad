"""A table in four formats: for a terminal, a README, a spreadsheet and a program."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_specs.text import csv_cell, json_text


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text cells with column heads, and the same rows as JSON values: ``records`` has one per row."""

    heads: tuple[str, ...]
    lines: Sequence[Sequence[str]]
    records: Sequence[Mapping[str, Any]]

    def __post_init__(self) -> None:
        if len(self.records) != len(self.lines) or any(len(line) != len(self.heads) for line in self.lines):
            raise ValueError(f"a table of {len(self.heads)} columns and {len(self.records)} rows, with other lines")


def as_text(table: Table) -> str:
    """The table for a terminal."""
    lines = [table.heads, *table.lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def as_markdown(table: Table) -> str:
    """The table for a README."""
    lines = [table.heads, ["---"] * len(table.heads), *table.lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_csv(table: Table) -> str:
    """The table for a spreadsheet."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([table.heads, *(map(csv_cell, line) for line in table.lines)])
    return file.getvalue().rstrip("\n")


def as_json(table: Table) -> str:
    """The rows for a program: a list of objects."""
    return json_text([dict(record) for record in table.records])


FORMATS: dict[str, Callable[[Table], str]] = {
    "text": as_text,
    "markdown": as_markdown,
    "csv": as_csv,
    "json": as_json,
}
