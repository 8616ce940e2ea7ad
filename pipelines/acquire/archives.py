"""Unpacking untrusted zip, tar and RAR archives; nothing is written outside the target folder."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from pipelines.disk_space import SPARE, free_bytes, mebibytes
from pipelines.errors import RunError

UNPACK_SECONDS = 3600.0  # time limit of a program that unpacks a RAR
CHUNK = 2**20
_INNER = (".rar", ".zip", ".tar")  # suffixes of archives within an archive
_RAR = b"Rar!\x1a\x07"

Place = Callable[[PurePosixPath], PurePosixPath | None]
"""Maps the path of an archive member to its path in the target folder; None for unwanted members."""


class ArchiveError(RunError):
    """An archive cannot be unpacked, or is unsafe; the message is one line with its name and the member."""


_LINE = re.compile(r"^(.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class RarTool:
    """A program that unpacks RAR archives: its commands, with {archive} and {folder}, and a pattern of listed names."""

    program: str
    listing: str
    extraction: str
    names: re.Pattern[str] = _LINE


_SEVEN_ZIP = ("l -slt -ba -p- {archive}", "x -y -p- -o{folder} {archive}", re.compile(r"^Path = (.+)$", re.MULTILINE))
RAR_TOOLS = (
    RarTool("unrar", "unrar lb -p- {archive}", "unrar x -idq -o- -p- -y {archive} {folder}/"),
    RarTool(
        "bsdtar",
        "bsdtar -tf {archive}",
        "bsdtar -xf {archive} -C {folder} --no-same-owner --no-same-permissions",
    ),
    RarTool(
        "unar",
        "lsar {archive}",
        "unar -quiet -force-skip -no-directory -output-directory {folder} {archive}",
        re.compile(r"(?<=\n)(.+)$", re.MULTILINE),  # skips the first line, the archive's name
    ),
    *(RarTool(name, f"{name} {_SEVEN_ZIP[0]}", f"{name} {_SEVEN_ZIP[1]}", _SEVEN_ZIP[2]) for name in ("7zz", "7z")),
)


def rar_tools() -> list[RarTool]:
    """The installed programs that can unpack a RAR, the best first."""
    return [tool for tool in RAR_TOOLS if shutil.which(tool.program)]


def is_rar(archive: Path) -> bool:
    """Return whether a file has the signature of a RAR archive."""
    with archive.open("rb") as file:
        return file.read(len(_RAR)) == _RAR


def unpack(archive: Path, target: Path, place: Place, on_file: Callable[[int], None] = lambda count: None) -> int:
    """Unpack the wanted members of ``archive`` into the new folder ``target``; return the number of files.

    ``target`` appears only when it is complete. Raises ``ArchiveError`` if the file is not an archive, or is damaged or
    encrypted; if a member, wanted or not, has a path outside the folder (absolute, ``..``, a drive) or is neither a
    file nor a folder (a link, a device); if two members would be the same file; if the disk is too small; or if no
    program to unpack a RAR is installed.
    """
    scratch = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(scratch, ignore_errors=True)  # left by a killed process
    whole = scratch / "whole"
    whole.mkdir(parents=True)
    try:
        count = (_unpack_rar if is_rar(archive) else _unpack_members)(archive, whole, place, on_file)
        if count == 0:
            raise ArchiveError(f"{archive.name} contains no files for {target.name}; is it the right archive?")
        os.sync()  # the files must be on disk before the folder gets its name, in case of a power failure
        whole.replace(target)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, UnicodeError) as error:
        raise ArchiveError(f"{archive.name} is damaged: {error}; remove it and download it again") from None
    except RuntimeError as error:  # from zipfile, for unsupported compression methods
        raise ArchiveError(f"{archive.name} cannot be unpacked: {error}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return count


def unpack_nested(archive: Path, target: Path, place: Place) -> int:
    """Like `unpack`, for an archive of archives with the files of one class each.

    A file at the top level of an inner archive is placed in a folder named after that archive.
    """
    scratch = target.with_name(f".{target.name}.archives")
    shutil.rmtree(scratch, ignore_errors=True)  # left by a killed process
    scratch.mkdir()
    try:
        unpack(archive, scratch / "inner", lambda path: PurePosixPath(path.name) if path.suffix in _INNER else None)
        whole = scratch / "whole"
        whole.mkdir()
        count = 0
        for inner in sorted((scratch / "inner").iterdir()):
            count += unpack(inner, scratch / "one", partial(_place_below, inner.stem, place))
            for path in (scratch / "one").iterdir():
                if (whole / path.name).exists():
                    raise ArchiveError(f"{archive.name} contains {path.name!r} twice; nothing was unpacked")
                path.replace(whole / path.name)
            (scratch / "one").rmdir()
            inner.unlink()
        os.sync()
        whole.replace(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return count


def _place_below(folder: str, place: Place, path: PurePosixPath) -> PurePosixPath | None:
    return place(path if len(path.parts) > 1 else PurePosixPath(folder, path))


def safe_path(name: str, archive: Path) -> PurePosixPath:
    """A member's name as a relative path; ``ArchiveError`` if it could lead outside the folder."""
    path = PurePosixPath(name)
    if (
        not path.parts
        or path.is_absolute()
        or ".." in path.parts
        or "\\" in name
        or ":" in path.parts[0]
        or any(ord(letter) < 32 for letter in name)
    ):
        raise ArchiveError(f"{archive.name} contains a path outside its folder: {name!r}; nothing was unpacked")
    return path


@dataclass(frozen=True, slots=True)
class _Member:
    """A file in an archive: its path, its size in bytes, and a function that opens it."""

    path: PurePosixPath
    size: int
    open: Callable[[], IO[bytes]]


def _unpack_members(archive: Path, whole: Path, place: Place, on_file: Callable[[int], None]) -> int:
    with _members(archive) as members:
        wanted: dict[str, tuple[PurePosixPath, _Member]] = {}
        for member in members:
            goal = place(member.path)
            if goal is not None and wanted.setdefault(str(goal).casefold(), (goal, member)) != (goal, member):
                raise ArchiveError(f"{archive.name} contains {str(goal)!r} twice; nothing was unpacked")
        check_space(whole, sum(member.size for _, member in wanted.values()))
        for count, (goal, member) in enumerate(wanted.values(), 1):
            _write(member, whole / goal, archive)
            on_file(count)
    return len(wanted)


def _write(member: _Member, target: Path, archive: Path) -> None:
    """Write a member's bytes, never more than its declared size."""
    target.parent.mkdir(parents=True, exist_ok=True)
    left = member.size
    with member.open() as source, target.open("xb") as file:
        while chunk := source.read(CHUNK):
            left -= len(chunk)
            if left < 0:
                break
            file.write(chunk)
    if left != 0:
        problem = f"{str(member.path)!r} does not have its declared size of {member.size:,} bytes"
        raise ArchiveError(f"{archive.name} is damaged: {problem}")


@contextmanager
def _members(archive: Path) -> Iterator[list[_Member]]:
    """The files of a zip or tar archive, each checked, without folders."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            yield [_zip_member(file, info, archive) for info in file.infolist() if not info.is_dir()]
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tar:
            yield [_tar_member(tar, info, archive) for info in tar if not info.isdir()]
    else:
        raise ArchiveError(
            f"{archive.name} is neither a zip nor a tar nor a RAR archive (it may be an error page); remove it and "
            "download it again"
        )


def _zip_member(file: zipfile.ZipFile, info: zipfile.ZipInfo, archive: Path) -> _Member:
    path = safe_path(info.orig_filename, archive)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise _not_a_file(archive, str(path))
    if info.flag_bits & 1:
        raise ArchiveError(f"{archive.name}: {str(path)!r} is encrypted, and no password is known")
    return _Member(path, info.file_size, lambda: file.open(info))


def _tar_member(tar: tarfile.TarFile, info: tarfile.TarInfo, archive: Path) -> _Member:
    path = safe_path(info.name, archive)

    def opened() -> IO[bytes]:
        file = tar.extractfile(info)
        if file is None:
            raise _not_a_file(archive, info.name)
        return file

    if not info.isfile():
        raise _not_a_file(archive, info.name)
    return _Member(path, info.size, opened)


def _not_a_file(archive: Path, name: str) -> ArchiveError:
    return ArchiveError(f"{archive.name}: {name!r} is a link or a device, not a file; nothing was unpacked")


def _unpack_rar(archive: Path, whole: Path, place: Place, on_file: Callable[[int], None]) -> int:
    """Unpack with a program into a separate folder, check the result, and only then move it."""
    check_space(whole, archive.stat().st_size)
    tools = rar_tools()
    if not tools:
        raise ArchiveError(f"no installed program unpacks {archive.name}: {RAR_ADVICE}")
    failures = []
    for number, tool in enumerate(tools):
        raw = whole.with_name(f"raw{number}")
        raw.mkdir()
        result = _run(tool.listing, archive, raw)
        if result.returncode == 0:
            for name in tool.names.findall(result.stdout):
                safe_path(name, archive)
            result = _run(tool.extraction, archive, raw)
            if result.returncode == 0:
                return _move_files(archive, raw, whole, place, on_file)
        failures.append(f"{tool.program}: {_last_line(result)}")
        shutil.rmtree(raw)
    raise ArchiveError(f"{archive.name} cannot be unpacked ({'; '.join(failures)}); if it is intact, {RAR_ADVICE}")


RAR_ADVICE = "install unrar, unar, 7-Zip or libarchive's bsdtar (Debian, Ubuntu: apt install libarchive-tools; \
macOS has it), or use the zip copy (--zip)"


def _run(template: str, archive: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    paths = {"archive": archive.absolute(), "folder": folder.absolute()}
    command = [word.format(**paths) for word in template.split()]
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            timeout=UNPACK_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


def _last_line(process: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (process.stderr + process.stdout).splitlines() if line.strip()]
    return lines[-1] if lines else f"exit status {process.returncode}"


def _move_files(archive: Path, raw: Path, whole: Path, place: Place, on_file: Callable[[int], None]) -> int:
    """Check that a folder contains no link or device, then move its wanted files."""
    files = list(_regular_files(archive, raw))
    count = 0
    for path in files:
        goal = place(path)
        if goal is None:
            continue
        target = whole / goal
        if target.exists():
            raise ArchiveError(f"{archive.name} contains {str(goal)!r} twice; nothing was unpacked")
        target.parent.mkdir(parents=True, exist_ok=True)
        (raw / path).replace(target)
        target.chmod(0o644)
        count += 1
        on_file(count)
    return count


def _regular_files(archive: Path, raw: Path) -> Iterator[PurePosixPath]:
    for folder, folders, files in os.walk(raw):
        for name in sorted(folders) + sorted(files):
            path = Path(folder, name)
            status = path.lstat()
            inside = path.relative_to(raw).as_posix()
            if stat.S_ISDIR(status.st_mode):
                continue
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                raise _not_a_file(archive, inside)
            yield PurePosixPath(inside)


def check_space(folder: Path, needed: int) -> None:
    """Raise ``ArchiveError`` if the disk of ``folder`` has fewer than ``needed`` bytes free, plus a reserve."""
    free = free_bytes(str(folder))
    if free is not None and free < needed + SPARE:
        raise ArchiveError(
            f"{folder.parent} has {mebibytes(free)} free, {mebibytes(needed + SPARE)} are needed; "
            "free some space, or choose a folder on another disk"
        )
