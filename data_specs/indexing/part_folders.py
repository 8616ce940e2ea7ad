"""Folders named after the class, optionally below folders of parts: ``<class>/…`` and ``<part>/<class>/…``."""

from __future__ import annotations

from collections.abc import Sequence

from data_specs.class_folders import PART_FOLDERS
from data_specs.clip_rows import Faults
from data_specs.discovery import EXAMPLES
from data_specs.indexing.entries import Entry, Listed
from data_specs.names import printable


def has_part_folders(paths: Sequence[str]) -> bool:
    """Whether all videos lie in folders named train, val or test, with a class folder below."""
    parts = [path.split("/") for path in paths]
    return bool(parts) and all(len(one) > 2 and one[0].casefold() in PART_FOLDERS for one in parts)


def read_part_folders(paths: Sequence[str], faults: Faults) -> Listed:
    """``<part>/<class>/<clip>`` at any depth below the class, as torchvision's data sets expect.

    The part is a folder called train, val or test (or training, valid, validation, testing).
    """
    entries, wrong = [], []
    for path in paths:
        part, *inside = path.split("/")
        if len(inside) < 2 or part.casefold() not in PART_FOLDERS:
            wrong.append(printable(path))
        else:
            entries.append(Entry((path,), printable(inside[0]), PART_FOLDERS[part.casefold()], printable(path)))
    if wrong:
        faults.add(
            f"{len(wrong)} videos are not in <train, val or test>/<class>/ ({', '.join(wrong[:EXAMPLES])} first)"
        )
    return Listed(entries, tuple(sorted({entry.label for entry in entries})), "folders <part>/<class>/")


def read_folders(paths: Sequence[str], faults: Faults) -> Listed:
    """``<class>/<clip>`` at any depth below the class; no clip is in a part."""
    if has_part_folders(paths):
        faults.add("its folders are parts of a data set, not classes; give --format torchvision")
    if loose := [printable(path) for path in paths if "/" not in path]:
        first = ", ".join(loose[:EXAMPLES])
        faults.add(f"{len(loose)} of {len(paths)} videos are not in a class folder ({first} first)")
    entries = [Entry((path,), printable(path.split("/")[0]), "", printable(path)) for path in paths if "/" in path]
    return Listed(entries, tuple(sorted({entry.label for entry in entries})), "folders <class>/")
