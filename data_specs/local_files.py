"""A store in a folder: reads only regular files of bounded size, and never writes through a symbolic link."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import LocalStore

from data_specs.locations import Linked, Replaced

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zarr.core.buffer import BufferPrototype

MOST = 2**31
"""Maximum bytes read from one object at once, unless a smaller limit is known."""


def refuse_links(root: Path, path: Path) -> None:
    """``Linked`` if ``path`` below ``root``, or a folder on the way to it, is a symbolic link; ``root`` may be one.

    ``Linked`` too for a path that is not below ``root``.
    """
    if not path.is_relative_to(root) or ".." in path.relative_to(root).parts:
        raise Linked(f"{str(path)!r} is not below {str(root)!r}; nothing is written there")
    place = root
    for part in path.relative_to(root).parts:
        place /= part
        if place.is_symlink():
            raise Linked(
                f"{str(place)!r} is a symbolic link, and nothing is written or removed through one; "
                "put a real folder there"
            )


class LocalFiles(LocalStore):
    """zarr's store in a folder, in which only regular files exist; ``ValueError`` for files above ``most`` bytes.

    Symbolic links to files are read, because download caches use them; writing through one raises ``Linked``.
    """

    most = MOST

    def with_most(self, most: int) -> Self:
        """The same store, limited to reading ``most`` bytes of an object at once."""
        other = self.with_read_only(self.read_only)
        other.most = most
        return other

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if not self._is_open:
            await self._open()
        wanted = prototype or default_buffer_prototype()
        found = await asyncio.to_thread(read_part, self.root / key, byte_range, self.most)
        return None if found is None else wanted.buffer.from_bytes(found)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def digest(self, key: str, most: int) -> str | None:
        """The SHA-256 of an object; None if it is missing, "" if it has more than ``most`` bytes."""
        return await asyncio.to_thread(hash_file, self.root / key, most)

    async def end(self, key: str, length: int) -> tuple[bytes | None, str | None]:
        """The last bytes of a file, at most ``length``, and its version; None if it is missing."""
        return await asyncio.to_thread(_read_version, self.root / key, -length, 0, None)

    async def part(self, key: str, start: int, stop: int, tag: str | None) -> bytes | None:
        """The bytes ``start`` to ``stop`` of a file, fewer at its end; `Replaced` if its version is another."""
        return (await asyncio.to_thread(_read_version, self.root / key, start, stop, tag))[0]

    async def exists(self, key: str) -> bool:
        return await asyncio.to_thread((self.root / key).is_file)

    async def _set(self, key: str, value: Buffer, exclusive: bool = False) -> None:
        refuse_links(self.root, (self.root / key).parent)  # if the object is a link, the link itself is replaced
        await super()._set(key, value, exclusive)

    async def delete(self, key: str) -> None:
        refuse_links(self.root, (self.root / key).parent)
        self._check_writable()
        await asyncio.to_thread((self.root / key).unlink, True)

    async def delete_dir(self, prefix: str) -> None:
        refuse_links(self.root, self.root / prefix)
        await super().delete_dir(prefix)


def read_part(path: Path, part: ByteRequest | None, most: int) -> bytes | None:
    """The bytes of a file, or a part of them; None unless it is a regular file. Never blocks on a FIFO.

    ``ValueError`` for more than ``most`` bytes or an impossible range.
    """
    with _opened(path) as file:
        if file is None:
            return None
        size = os.fstat(file.fileno()).st_size
        start, stop = _bounds(part, size)
        if not 0 <= start <= stop <= size or stop - start > most:
            raise ValueError(f"bytes {start} to {stop} of {path.name!r}: at most {most} are expected there")
        file.seek(start)
        return file.read(stop - start)


def _read_version(path: Path, start: int, stop: int, version: str | None) -> tuple[bytes | None, str | None]:
    """A part of a file, from its end if ``start`` is negative, and the file's version."""
    with _opened(path) as file:
        if file is None:
            return None, None
        about = os.fstat(file.fileno())
        found = f"{about.st_size}-{about.st_mtime_ns}-{about.st_ino}"
        if version not in (None, found):
            raise Replaced
        file.seek(max(start + about.st_size, 0) if start < 0 else start)
        return file.read(-start if start < 0 else stop - start), found


def hash_file(path: Path, most: int) -> str | None:
    """The SHA-256 of a file; None unless it is a regular file, "" if it has more than ``most`` bytes."""
    with _opened(path) as file:
        if file is None:
            return None
        if os.fstat(file.fileno()).st_size > most:
            return ""
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader | None]:
    try:
        place = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        yield None
        return
    except OSError as error:
        if error.errno == errno.ELOOP or (os.path.exists(path) and not os.path.isfile(path)):  # the latter: a socket
            yield None
            return
        raise
    if not stat.S_ISREG(os.fstat(place).st_mode):
        os.close(place)
        yield None
        return
    with open(place, "rb") as file:
        yield file


def _bounds(part: ByteRequest | None, size: int) -> tuple[int, int]:
    match part:
        case None:
            return 0, size
        case RangeByteRequest(start, end):
            return start, end
        case OffsetByteRequest(offset):
            return min(offset, size), size
        case SuffixByteRequest(suffix):
            return max(0, size - suffix), size
    raise TypeError(f"unknown byte range: {part!r}")
