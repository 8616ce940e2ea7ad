"""Changing files of a store as the package changes them, so that a reader never meets a file half written."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def rewrite(file: Path, content: bytes | bytearray) -> None:
    """Put another file in a file's place: written beside it, then renamed. Who has the old one open keeps it whole."""
    beside = file.with_name(f".{uuid.uuid4().hex}.new")
    beside.write_bytes(content)
    os.replace(beside, file)
