"""Archives of files from elsewhere: zip, tar and RAR, unpacked so that nothing lands outside the target folder."""

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

UNPACK_SECONDS = 3600.0  # for a program that unpacks a RAR
CHUNK = 2**20
_INNER = (".rar", ".zip", ".tar")  # archives in an archive
_RAR = b"Rar!\x1a\x07"

Place = Callable[[PurePosixPath], PurePosixPath | None]
"""Where a member of an archive goes below the target folder; None for what is not wanted."""


class ArchiveError(RunError):
    """An archive that cannot be unpacked, or that must not be: one line with its name and the member."""


_LINE = re.compile(r"^(.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class RarTool:
    """A program that unpacks RAR archives: its commands, with {archive} and {folder}, and the names in its list."""

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
        re.compile(r"(?<=\n)(.+)$", re.MULTILINE),  # the first line is the archive's own name
    ),
    *(RarTool(name, f"{name} {_SEVEN_ZIP[0]}", f"{name} {_SEVEN_ZIP[1]}", _SEVEN_ZIP[2]) for name in ("7zz", "7z")),
)


def rar_tools() -> list[RarTool]:
    """The programs that are installed here and may unpack a RAR, the best first."""
    return [tool for tool in RAR_TOOLS if shutil.which(tool.program)]


def is_rar(archive: Path) -> bool:
    """Whether a file begins as a RAR archive does."""
    with archive.open("rb") as file:
        return file.read(len(_RAR)) == _RAR


def unpack(archive: Path, target: Path, place: Place, on_file: Callable[[int], None] = lambda count: None) -> int:
    """Unpack the wanted members of ``archive`` into the new folder ``target``; how many files came of it.

    ``target`` appears only when all of it is there. ``ArchiveError`` for what is no archive or a damaged or
    encrypted one, for members that name a place outside (absolute, ``..``, a drive), that are neither files nor
    folders (links, devices), or that would be the same file, for a disk that is too small, and where no program
    unpacks a RAR. Members that are not wanted are checked in the same way and left out.
    """
    scratch = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    whole = scratch / "whole"
    whole.mkdir(parents=True)
    try:
        count = (_unpack_rar if is_rar(archive) else _unpack_members)(archive, whole, place, on_file)
        if count == 0:
            raise ArchiveError(f"{archive.name} holds nothing that belongs into {target.name}; is it the right one?")
        os.sync()  # the folder's name says that its files are whole, after a power cut too
        whole.replace(target)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, UnicodeError) as error:
        raise ArchiveError(f"{archive.name} is damaged: {error}; remove it and fetch it again") from None
    except RuntimeError as error:  # zipfile's, for methods that it lacks
        raise ArchiveError(f"{archive.name} cannot be unpacked: {error}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return count


def unpack_nested(archive: Path, target: Path, place: Place) -> int:
    """Unpack the archives in ``archive``, each with a class's files, into the new folder ``target``, as `unpack` does.

    A file that lies at the top of an inner archive goes into the folder of that archive's name.
    """
    scratch = target.with_name(f".{target.name}.archives")
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    scratch.mkdir()
    try:
        unpack(archive, scratch / "inner", lambda path: PurePosixPath(path.name) if path.suffix in _INNER else None)
        whole = scratch / "whole"
        whole.mkdir()
        count = 0
        for inner in sorted((scratch / "inner").iterdir()):
            count += unpack(inner, scratch / "one", partial(_place_below, inner.stem, place))
            for made in (scratch / "one").iterdir():
                if (whole / made.name).exists():
                    raise ArchiveError(f"{archive.name} has {made.name!r} twice; nothing was unpacked")
                made.replace(whole / made.name)
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
    """A member's name as a relative path; ``ArchiveError`` if it could lead out of a folder."""
    path = PurePosixPath(name)
    if (
        not path.parts
        or path.is_absolute()
        or ".." in path.parts
        or "\\" in name
        or ":" in path.parts[0]
        or any(ord(letter) < 32 for letter in name)
    ):
        raise ArchiveError(f"{archive.name} names a place outside its folder: {name!r}; nothing was unpacked")
    return path


@dataclass(frozen=True, slots=True)
class _Member:
    """A file in an archive: its path, its bytes, and how to read them."""

    path: PurePosixPath
    size: int
    open: Callable[[], IO[bytes]]


def _unpack_members(archive: Path, whole: Path, place: Place, on_file: Callable[[int], None]) -> int:
    with _members(archive) as members:
        wanted: dict[str, tuple[PurePosixPath, _Member]] = {}
        for member in members:
            goal = place(member.path)
            if goal is not None and wanted.setdefault(str(goal).casefold(), (goal, member)) != (goal, member):
                raise ArchiveError(f"{archive.name} has {str(goal)!r} twice; nothing was unpacked")
        check_space(whole, sum(member.size for _, member in wanted.values()))
        for count, (goal, member) in enumerate(wanted.values(), 1):
            _write(member, whole / goal, archive)
            on_file(count)
    return len(wanted)


def _write(member: _Member, target: Path, archive: Path) -> None:
    """Write a member's bytes, never more than it says that it has."""
    target.parent.mkdir(parents=True, exist_ok=True)
    left = member.size
    with member.open() as source, target.open("xb") as file:
        while chunk := source.read(CHUNK):
            left -= len(chunk)
            if left < 0:
                break
            file.write(chunk)
    if left != 0:
        raise ArchiveError(f"{archive.name} is damaged: {str(member.path)!r} has not the {member.size:,} bytes it says")


@contextmanager
def _members(archive: Path) -> Iterator[list[_Member]]:
    """All files of a zip or tar archive, each checked; folders are left out."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            yield [_zip_member(file, info, archive) for info in file.infolist() if not info.is_dir()]
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tar:
            yield [_tar_member(tar, info, archive) for info in tar if not info.isdir()]
    else:
        raise ArchiveError(
            f"{archive.name} is neither a zip nor a tar nor a RAR archive (it may be an error page); remove it and "
            "fetch it again"
        )


def _zip_member(file: zipfile.ZipFile, info: zipfile.ZipInfo, archive: Path) -> _Member:
    path = safe_path(info.orig_filename, archive)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise _no_file(archive, str(path))
    if info.flag_bits & 1:
        raise ArchiveError(f"{archive.name}: {str(path)!r} is encrypted, and no password is known")
    return _Member(path, info.file_size, lambda: file.open(info))


def _tar_member(tar: tarfile.TarFile, info: tarfile.TarInfo, archive: Path) -> _Member:
    path = safe_path(info.name, archive)

    def opened() -> IO[bytes]:
        found = tar.extractfile(info)
        if found is None:
            raise _no_file(archive, info.name)
        return found

    if not info.isfile():
        raise _no_file(archive, info.name)
    return _Member(path, info.size, opened)


def _no_file(archive: Path, name: str) -> ArchiveError:
    return ArchiveError(f"{archive.name}: {name!r} is a link or a device, not a file; nothing was unpacked")


def _unpack_rar(archive: Path, whole: Path, place: Place, on_file: Callable[[int], None]) -> int:
    """Let a program unpack into a folder of its own, look at what came, and only then move it."""
    check_space(whole, archive.stat().st_size)
    tools = rar_tools()
    if not tools:
        raise ArchiveError(f"nothing here unpacks {archive.name}: {RAR_ADVICE}")
    failures = []
    for number, tool in enumerate(tools):
        raw = whole.with_name(f"raw{number}")
        raw.mkdir()
        names = _run(tool.listing, archive, raw)
        if names.returncode == 0:
            for name in tool.names.findall(names.stdout):
                safe_path(name, archive)
            done = _run(tool.extraction, archive, raw)
            if done.returncode == 0:
                return _take_over(archive, raw, whole, place, on_file)
            names = done
        failures.append(f"{tool.program}: {_last_line(names)}")
        shutil.rmtree(raw)
    raise ArchiveError(f"{archive.name} cannot be unpacked ({'; '.join(failures)}); if it is whole, {RAR_ADVICE}")


RAR_ADVICE = "install unrar, unar, 7-Zip or libarchive's bsdtar (Debian, Ubuntu: apt install libarchive-tools; \
macOS has it), or take the zip copy (--zip)"


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


def _take_over(archive: Path, raw: Path, whole: Path, place: Place, on_file: Callable[[int], None]) -> int:
    """Move the wanted files of a folder that a program filled, once nothing in it is a link or a device."""
    files = list(_regular_files(archive, raw))
    count = 0
    for path in files:
        goal = place(path)
        if goal is None:
            continue
        target = whole / goal
        if target.exists():
            raise ArchiveError(f"{archive.name} has {str(goal)!r} twice; nothing was unpacked")
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
            found = path.lstat()
            inside = path.relative_to(raw).as_posix()
            if stat.S_ISDIR(found.st_mode):
                continue
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                raise _no_file(archive, inside)
            yield PurePosixPath(inside)


def check_space(folder: Path, needed: int) -> None:
    """``ArchiveError`` if the disk of ``folder`` has no room for that many bytes."""
    free = free_bytes(str(folder))
    if free is not None and free < needed + SPARE:
        raise ArchiveError(
            f"{folder.parent} has {mebibytes(free)} free, {mebibytes(needed + SPARE)} are needed; "
            "free some, or name a folder on another disk"
        )
