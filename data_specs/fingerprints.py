"""Fingerprints: a short name for "made from exactly this", chained from the source file to the crops."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

LENGTH = 32  # hexadecimal digits: 128 bits
_PIECE = 1000  # values of an iterator that are in memory at once


def fingerprint(*parts: object) -> str:
    """The fingerprint of JSON-like parts: 32 hexadecimal digits.

    Parts are dicts, lists, tuples, strings, finite numbers, booleans and None, nested; only the order of a dict's
    keys does not matter. An iterator counts as the list of its values, of which few are in memory at once. Raises
    ``TypeError`` for other types. Truncated SHA-256; ours.
    """
    if not any(isinstance(part, Iterator) for part in parts):
        return hashlib.sha256(_text(parts).encode()).hexdigest()[:LENGTH]
    hashed = hashlib.sha256()
    for number, part in enumerate(parts):
        hashed.update(b"," if number else b"[")
        for text in _in_pieces(part) if isinstance(part, Iterator) else (_text(part),):
            hashed.update(text.encode())
    hashed.update(b"]")
    return hashed.hexdigest()[:LENGTH]


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _in_pieces(values: Iterator[object]) -> Iterator[str]:
    """The text of the list of some values, in pieces."""
    before = "["
    while some := list(islice(values, _PIECE)):
        yield before + _text(some)[1:-1]
        before = ","
    yield "[]" if before == "[" else "]"


def file_fingerprint(path: Path | str) -> str:
    """The fingerprint of a file's content, independent of its name and dates. ``OSError`` if it cannot be read."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:LENGTH]
