"""Index of source-file fingerprints in the work folder, so that a resumed run does not read unchanged files again.

As in git's index, a file counts as unchanged while its size, times and inode are unchanged. The index is not part of
the store, whose bytes therefore do not depend on when its sources were copied.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import time
from binascii import hexlify, unhexlify
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from data_specs.fingerprints import LENGTH, file_fingerprint
from data_specs.local_files import read_part, refuse_links
from data_specs.resources import usable_cores
from pipelines.atomic_files import atomic_write

SOURCES = "sources"  # subfolder of the work folder with one index for each source folder
_MOST_BYTES = 1 << 30
SETTLED_SECONDS = 2.0
"""A file that was modified less than this before it was read could change again within the resolution of its times, so
it is not remembered. 2 s is the coarsest resolution in use, that of FAT."""

Stamp = bytes
"""Identifies a version of a file without reading it: size in bytes, mtime and ctime in ns, inode. Packed, as an index
may hold a million of them."""
_STAMP = struct.Struct("<QqqQ")
_ENTRY = _STAMP.size + LENGTH // 2  # bytes of a stamp and a fingerprint
_ITEM = re.compile(rb"([0-9a-f]{%d}) ([^\0]+)\0|[^\0]+" % (2 * _ENTRY))  # a whole one, or anything else


class SourceIndex:
    """The stamps and fingerprints of the files in a source folder.

    In the file, each is hexadecimal digits, a space, the path and a NUL, after which an unfinished one is no harm. New
    ones are appended, so that a killed run loses few.
    """

    def __init__(self, source: str, work_dir: str) -> None:
        refuse_links(Path(work_dir), Path(work_dir, SOURCES))
        self._source = source
        name = hashlib.sha256(os.fsencode(source)).hexdigest()[:16]
        self._file = Path(work_dir, SOURCES, f"{name}.index")
        self._known: dict[str, bytes] = {}  # by path: the stamp, then the fingerprint
        self._whole = self._load()
        self._new: dict[str, None] = {}  # paths that are not in the file yet

    def fingerprints(self, paths: Iterable[str]) -> dict[str, str]:
        """The fingerprints of the files at ``paths``, relative to the source folder, without unreadable ones.

        New files and those whose stamp has changed are read, several at a time.
        """
        began = time.time_ns()
        stamps = {path: stamp for path in paths if (stamp := self.stamp(path))}
        current = {}
        for path, stamp in stamps.items():
            entry = self._known.get(path, b"")
            if entry.startswith(stamp):
                current[path] = entry[_STAMP.size :].hex()
        unknown = [path for path in stamps if path not in current]
        if not unknown:
            return current
        with ThreadPoolExecutor(usable_cores()) as pool:
            for path, fingerprint in zip(unknown, pool.map(self._read, unknown), strict=True):
                if fingerprint is not None:
                    current[path] = fingerprint
                    self.remember(path, stamps[path], fingerprint, began)
        return current

    def _read(self, path: str) -> str | None:
        try:
            return file_fingerprint(Path(self._source, path))
        except OSError:
            return None

    def stamp(self, path: str) -> Stamp | None:
        """The current stamp of a file; None if it is missing or not a regular file."""
        try:
            status = os.stat(f"{self._source}/{path}")
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):  # opening a FIFO would block
            return None
        times = (max(-1 << 63, min(time, (1 << 63) - 1)) for time in (status.st_mtime_ns, status.st_ctime_ns))
        return _STAMP.pack(status.st_size, *times, status.st_ino)

    def bytes_of(self, path: str) -> int:
        """The size of a file in bytes; 0 if it is missing or not a regular file."""
        stamp = self.stamp(path)
        return _STAMP.unpack(stamp)[0] if stamp else 0

    def remember(self, path: str, stamp: Stamp, fingerprint: str, began: int) -> None:
        """Remember the fingerprint of a file, unless it has changed since ``stamp`` was taken, at ``began`` (ns)."""
        written = max(_STAMP.unpack(stamp)[1:3])
        if self.stamp(path) == stamp and written < began - SETTLED_SECONDS * 1e9:
            self._known[path] = stamp + bytes.fromhex(fingerprint)
            self._new[path] = None

    def save(self) -> None:
        """Write what is new. If that fails, the files are merely read again next time."""
        if not self._new:
            return
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            if self._whole:
                self._append(b"\0" + b"".join(map(self._item, self._new)))
            else:
                with atomic_write(self._file) as part, part.open("wb") as file:
                    file.writelines(map(self._item, self._known))
            self._whole = True
            self._new.clear()

    def _item(self, path: str) -> bytes:
        return b"%b %b\0" % (hexlify(self._known[path]), os.fsencode(path))

    def _append(self, items: bytes) -> None:
        descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        with open(descriptor, "wb", buffering=0) as file:
            file.write(items)

    def _load(self) -> bool:
        """Read the file; return whether it can be appended to, which one that is damaged or mostly outdated cannot."""
        try:
            content = read_part(self._file, None, _MOST_BYTES) or b""
        except (OSError, ValueError):
            return False
        items = whole = 0
        for found in _ITEM.finditer(content):
            items += 1
            if found[2] is not None:
                whole += 1
                self._known[os.fsdecode(found[2])] = unhexlify(found[1])
        return whole == items <= 2 * len(self._known)
