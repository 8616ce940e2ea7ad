"""Free disk space: what there is, and whether a run could fit at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from data_specs.recipes import Recipe
from data_specs.stored import is_url

SPARE = 64 * 2**20  # bytes that a disk is to keep free
_LEAST_SLOTS = 4  # frames that even a short clip fills
_LEAST_SHARE = {
    "raw": 1.0,
    "jpeg": 0.05,
}  # of the raw size that a codec needs at the very least; others a third


def free_bytes(location: str) -> int | None:
    """Bytes free on the disk of a path that need not exist yet; None for an object store."""
    return None if is_url(location) else shutil.disk_usage(_existing(location)).free


def disk_of(location: str) -> int:
    """The number of the disk that a path, which need not exist yet, is on."""
    return _existing(location).stat().st_dev


def least_bytes(recipe: Recipe, clips: int) -> int:
    """What the crops of that many clips take at the very least; ``mocrop plan`` measures what they really take."""
    frames = recipe.frames
    raw = clips * len(recipe.views) * min(frames.slots, _LEAST_SLOTS) * frames.size**2 * 3
    return round(raw * _LEAST_SHARE.get(frames.codec.name, 1 / 3))


def mebibytes(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 2**20:,.0f} MiB"


def _existing(location: str) -> Path:
    path = Path(location).absolute()
    while not path.exists():
        path = path.parent
    return path
