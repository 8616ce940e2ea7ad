"""Work folders on a machine's own scratch space, each for one task, which removes it at its end."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pipelines.errors import RunStopped
from pipelines.stages.tasks import ONE_PASS, ShardPlan


def scratch_base(scratch: str | None) -> Path:
    """The folder in which tasks on this machine make work folders: ``scratch``, by default that for temporary files."""
    return Path(scratch or tempfile.gettempdir())


@contextmanager
def on_scratch(plan: ShardPlan) -> Iterator[ShardPlan]:
    """Yield a plan of `ONE_PASS` with a work folder of its own, which is removed at the end; other plans unchanged.

    The work folders that killed tasks left on this machine are removed first. Raises ``RunStopped`` if there is no
    scratch folder, or it cannot be written.
    """
    if plan.stage != ONE_PASS:
        yield plan
        return
    base = scratch_base(plan.scratch)
    try:
        sweep_scratch(base)
        folder, lock = _make_locked(base)
    except OSError as error:
        raise RunStopped(
            f"scratch {str(base)!r}: {error.strerror or error}; fix this and run the same command again"
        ) from error
    try:
        yield replace(plan, folders=replace(plan.folders, work_dir=str(folder)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep_scratch(base: Path) -> list[Path]:
    """Remove the work folders of dead processes of this user and machine in ``base``; return them.

    A task holds a ``flock`` on its folder while it lives. Folders of other machines, whose locks may not be seen here,
    are left to those.
    """
    removed = []
    with os.scandir(base) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(_prefix())]
    for path in (base / name for name in names):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # removed meanwhile, or no folder of ours
            continue
        try:
            if os.fstat(descriptor).st_uid == os.geteuid():
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path)
        except OSError:  # a live process holds the lock, or the file system has no locks
            continue
        finally:
            os.close(descriptor)
    return removed


def _prefix() -> str:
    return f"mocrop-shard-{re.sub(r'[^A-Za-z0-9.]+', '_', socket.gethostname())}-"


def _make_locked(base: Path) -> tuple[Path, int]:
    """Create and lock a folder; retry if `sweep_scratch` removes it between the two steps."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_prefix(), dir=base))
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: no other process removes it
            return folder, descriptor
        if folder.exists():
            return folder, descriptor
        os.close(descriptor)
