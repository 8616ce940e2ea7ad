"""Fingerprints: a short name for "made from exactly this", chained from the source file to the crops."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

LENGTH = 32  # hexadecimal digits: 128 bits


def fingerprint(*parts: object) -> str:
    """The fingerprint of JSON-like parts: 32 hexadecimal digits.

    Parts are dicts, lists, tuples, strings, finite numbers, booleans and None, nested; only the order of a dict's
    keys does not matter. Raises ``TypeError`` for other types. Truncated SHA-256; ours.
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def file_fingerprint(path: Path | str) -> str:
    """The fingerprint of a file's content, independent of its name and dates. ``OSError`` if it cannot be read."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:LENGTH]
