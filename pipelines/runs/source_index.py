"""Fingerprints of source files, remembered in the work folder, so that a resumed run reads no unchanged file again.

As in git's index, a file is taken to be unchanged while its size, its dates and its inode are. Nothing of this is in
the store, whose bytes do not depend on when its sources were copied.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from data_specs.documents import parse_json
from data_specs.fingerprints import file_fingerprint
from data_specs.local_files import read_part, refuse_links
from data_specs.resources import usable_cores
from pipelines.atomic_files import atomic_write

SOURCES = "sources"  # folder in the work folder with one index for each source folder
_MOST_BYTES = 1 << 30
SETTLED_SECONDS = 2.0
"""A file that was changed less than this before it was read may change again within one tick of its dates: it is not
remembered. 2 s is the coarsest tick in use, that of FAT."""

Stamp = tuple[int, int, int, int]
"""What tells a version of a file without reading it: bytes, times of the last write and change (ns), inode."""


class SourceIndex:
    """What is known of the files in a source folder: each with its stamp and its fingerprint."""

    def __init__(self, source: str, work_dir: str) -> None:
        refuse_links(Path(work_dir), Path(work_dir, SOURCES))
        self._source = source
        name = hashlib.sha256(os.fsencode(source)).hexdigest()[:16]
        self._file = Path(work_dir, SOURCES, f"{name}.json")
        self._known = self._load()
        self._changed = False

    def fingerprints(self, paths: Iterable[str]) -> dict[str, str]:
        """The fingerprints of the files at ``paths``, relative to the source folder, of those that can be read.

        Files that are new or whose stamp has changed are read, several at a time.
        """
        stamps = {path: stamp for path in paths if (stamp := self.stamp(path))}
        found = {path: known[1] for path in stamps if (known := self._known.get(path)) and known[0] == stamps[path]}
        unknown = [path for path in stamps if path not in found]
        with ThreadPoolExecutor(usable_cores()) as pool:
            for path, fingerprint in zip(unknown, pool.map(self._read, unknown), strict=True):
                if fingerprint is not None:
                    found[path] = fingerprint
                    self.remember(path, stamps[path], fingerprint)
        return found

    def _read(self, path: str) -> str | None:
        try:
            return file_fingerprint(Path(self._source, path))
        except OSError:
            return None

    def stamp(self, path: str) -> Stamp | None:
        """The stamp of a file now; None if it is not there, or is no regular file."""
        try:
            status = os.stat(os.path.join(self._source, path))
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):  # to open a FIFO would wait
            return None
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino

    def remember(self, path: str, stamp: Stamp, fingerprint: str) -> None:
        """Remember the fingerprint of a file that was read after it had ``stamp``, if it still has."""
        if self.stamp(path) == stamp and max(stamp[1:3]) < time.time_ns() - SETTLED_SECONDS * 1e9:
            self._known[path] = (stamp, fingerprint)
            self._changed = True

    def save(self) -> None:
        """Write the index where it changed. One that cannot be written costs reading the files again, no more."""
        if not self._changed:
            return
        values = {path: [*stamp, fingerprint] for path, (stamp, fingerprint) in sorted(self._known.items())}
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self._file) as part:
                part.write_text(json.dumps({"source": self._source, "files": values}))
            self._changed = False

    def _load(self) -> dict[str, tuple[Stamp, str]]:
        try:
            files = parse_json(read_part(self._file, None, _MOST_BYTES) or b"", _MOST_BYTES)["files"]
            return {
                path: ((size, written, changed, inode), fingerprint)
                for path, (size, written, changed, inode, fingerprint) in files.items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}
