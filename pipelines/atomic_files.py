"""Atomic writes and temporary-file cleanup."""

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
    """Yield a new temporary file in the folder of ``target``; rename it to ``target`` when the block succeeds.

    The file is flushed to disk before the rename, and removed if the block raises. It is locked while this process
    lives, so that ``sweep`` can recognise the files of killed processes. Raises ``OSError`` if it cannot be created.
    """
    part = target.with_name(f".{uuid.uuid4().hex}{SUFFIX}")
    descriptor = _create_locked(part)
    try:
        yield part
        os.fsync(descriptor)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
        os.close(descriptor)


def _create_locked(part: Path) -> int:
    """Create and lock a file and return its descriptor; retry if ``sweep`` removes it between the two steps."""
    while True:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)


def sweep(folder: Path) -> list[Path]:
    """Remove the temporary files of dead processes in a folder and its subfolders; return the removed paths.

    Symbolic links are not followed. Raises ``Linked`` if the folder is one.
    """
    refuse_links(folder.parent, folder)
    return [path for path in folder.rglob(f"*{SUFFIX}") if _remove_abandoned(path)]


def _remove_abandoned(part: Path) -> bool:
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:  # removed meanwhile, or owned by someone else
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        part.unlink(missing_ok=True)
    except OSError:  # a live process holds the lock
        return False
    finally:
        os.close(descriptor)
    return True
