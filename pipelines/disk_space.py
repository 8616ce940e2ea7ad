"""Free disk space, and the least that a run needs."""

from __future__ import annotations

import shutil
from pathlib import Path

from data_specs.recipes import Recipe
from data_specs.stored import is_url

SPARE = 64 * 2**20  # bytes to keep free on a disk
_LEAST_SLOTS = 4  # frame slots that even a short clip fills
_LEAST_SHARE = {
    "raw": 1.0,
    "jpeg": 0.05,
}  # smallest compressed size as a fraction of the raw size, per codec; 1/3 for the others


def free_bytes(location: str) -> int | None:
    """Free bytes on the disk of a path, which need not exist yet; None for an object store."""
    return None if is_url(location) else shutil.disk_usage(_nearest_existing(location)).free


def disk_of(location: str) -> int:
    """Device number of the disk of a path, which need not exist yet."""
    return _nearest_existing(location).stat().st_dev


def least_bytes(recipe: Recipe, clips: int) -> int:
    """Lower bound in bytes on the size of the crops of ``clips`` clips; ``mocrop plan`` measures the actual size."""
    frames = recipe.frames
    raw = clips * len(recipe.views) * min(frames.slots, _LEAST_SLOTS) * frames.size**2 * 3
    return round(raw * _LEAST_SHARE.get(frames.codec.name, 1 / 3))


def mebibytes(count: int) -> str:
    """Format a number of bytes in MiB."""
    return f"{count / 2**20:,.0f} MiB"


def _nearest_existing(location: str) -> Path:
    path = Path(location).absolute()
    while not path.exists():
        path = path.parent
    return path
