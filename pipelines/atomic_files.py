"""Files on their way: written beside their target, put in its place when whole, swept when their maker is dead."""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_specs.local_files import refuse_links

SUFFIX = ".part"


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """A new empty file in the folder of ``target``; what was written there takes its place when the block ends well.

    It reaches the disk before it does. Its maker holds a lock on it, which ends with the process, so that ``sweep``
    can tell what a killed one left behind. ``OSError`` if it cannot be made.
    """
    part = target.with_name(f".{uuid.uuid4().hex}{SUFFIX}")
    held = _locked(part)
    try:
        yield part
        os.fsync(held)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
        os.close(held)


def _locked(part: Path) -> int:
    """A new file, open and locked; made again should a sweep come between the two."""
    while True:
        file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file).st_nlink:
            return file
        os.close(file)


def sweep(folder: Path) -> list[Path]:
    """Remove the parts in a folder and those below it whose makers are dead; the paths of those removed.

    No symbolic link is followed; ``Linked`` if the folder is one.
    """
    refuse_links(folder.parent, folder)
    return [path for path in folder.rglob(f"*{SUFFIX}") if _abandoned(path)]


def _abandoned(part: Path) -> bool:
    try:
        file = os.open(part, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:  # gone, or not ours to remove
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        part.unlink(missing_ok=True)
    except OSError:  # its maker lives
        return False
    finally:
        os.close(file)
    return True
