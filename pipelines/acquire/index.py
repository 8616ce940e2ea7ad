"""Writing the clip table of a data set and the file of its class names next to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_specs.clip_tables import table_lines
from data_specs.indexing.index import Index, make_index
from data_specs.names import DatasetError
from pipelines.acquire.windows import Cutting, check_lengths, cut
from pipelines.atomic_files import atomic_write
from pipelines.errors import RunError

CLASSES = ".classes.txt"  # replaces the suffix of the table
_JSON_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class Written:
    """An index and the files written from it; ``cutting`` says how videos were cut into windows, if they were."""

    index: Index
    table: Path
    class_names: Path
    cutting: Cutting | None = None

    def as_json(self) -> dict[str, Any]:
        """The counts of the index and the paths of the files as JSON-like values."""
        windows = None if self.cutting is None else asdict(self.cutting)
        files = {"table": str(self.table), "class_names": str(self.class_names)}
        return {**self.index.as_json(), "windows": windows, **files}

    def lines(self) -> Iterator[str]:
        """The counts as lines for a person."""
        yield from self.index.lines()
        if self.cutting is not None:
            yield from self.cutting.lines()


def write_index(
    source: Path,
    out: Path,
    format: str,
    lists: Path | None,
    *,
    val_as_test: bool = False,
    overwrite: bool = False,
    windows: float | None = None,
    stride: float | None = None,
    on_video: Callable[[int, int], None] = lambda done, total: None,
) -> Written:
    """Write the clip table of ``source`` (`make_index`) to ``out``, its class names to ``<stem of out>.classes.txt``.

    With ``windows``, a length in seconds, each video is cut into windows that begin every ``stride`` seconds;
    ``on_video`` is told of progress. Raises ``RunError`` if the index cannot be made, if the suffix is not .csv, .jsonl
    or .ndjson, if a length is invalid, or, unless ``overwrite``, if a file exists.
    """
    if out.suffix.lower() not in (".csv", *_JSON_LINES):
        raise RunError(f"out {str(out)!r}: give a file that ends in .csv or .jsonl")
    class_names = out.with_suffix(CLASSES)
    for path in (out, class_names):
        if path.exists() and not overwrite:
            raise RunError(f"out {str(path)!r} already exists; give another name, or --overwrite")
    if not out.absolute().parent.is_dir():
        raise RunError(f"out {str(out)!r}: no such folder; create it first")
    lengths = check_lengths(windows, stride)
    try:
        index = make_index(source, format, lists, val_as_test=val_as_test)
    except DatasetError as error:
        raise RunError(str(error)) from None
    rows, cutting = (index.rows, None) if lengths is None else cut(index.rows, source, *lengths, on_video)
    _write(class_names, index.class_names)
    _write(out, table_lines(rows, json_lines=out.suffix.lower() in _JSON_LINES))
    return Written(index, out, class_names, cutting)


def _write(path: Path, lines: Iterable[str]) -> None:
    with atomic_write(path) as part, part.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)
