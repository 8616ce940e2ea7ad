"""Fetching a public data set: planning, downloading, verifying and unpacking its archives."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urljoin, urlsplit

from data_specs.discovery import VIDEO_SUFFIXES, find_videos, hidden_kind
from data_specs.sources import ELSEWHERE, SOURCES, Archive, Source
from data_specs.stored import shown
from pipelines.acquire.archives import RAR_ADVICE, check_space, rar_tools, unpack, unpack_nested
from pipelines.acquire.download import OnBytes, Wanted, download, part_of
from pipelines.disk_space import mebibytes
from pipelines.errors import RunError

PLAIN_SECONDS = 10.0  # between two progress lines of a download, without a progress bar
_CLIP = re.compile(r"v_(.+)_g\d+_c\d+")
_SUFFIXES = (".rar", ".zip", ".tar", ".tar.gz", ".tgz")


class FetchError(RunError):
    """A data set cannot be fetched; the message is one line with the reason and advice."""


@dataclass(frozen=True, slots=True)
class Item:
    """An archive, the folder to unpack it into, the path of each of its members there, and whether it is nested.

    A nested archive contains archives.
    """

    archive: Archive
    folder: Path
    place: Callable[[PurePosixPath], PurePosixPath | None]
    nested: bool = False

    @property
    def path(self) -> Path:
        """The path of the downloaded archive."""
        return self.folder.with_name(self.archive.name)

    def is_needed(self) -> bool:
        """Return whether the folder is missing or empty; ``FetchError`` if it only has files of something else."""
        if not os.path.lexists(self.folder):
            return True
        inside = (path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
        if any(self.place(PurePosixPath(path)) for path in inside):
            return False
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            return True
        raise FetchError(f"{self.folder} contains no files of {self.archive.name}; move it away and fetch again")

    def left(self) -> int | None:
        """The number of bytes left to download; None if unknown."""
        if self.path.is_file():
            return 0
        part = part_of(self.path)
        have = part.stat().st_size if part.is_file() else 0
        return None if self.archive.size is None else max(0, self.archive.size - have)


@dataclass(frozen=True, slots=True)
class Fetch:
    """The plan for a data set in a folder; ``items`` are the archives whose folders are missing or empty."""

    source: Source
    directory: Path
    items: tuple[Item, ...]

    def folders(self) -> str:
        """The folder of the videos and that of the lists, as text."""
        return f"{self.directory / self.source.folder} and {self.directory / self.source.lists_folder}"

    def describe(self) -> list[str]:
        """Lines of text on what would be downloaded, from where, how much, and under which terms."""
        lines = [f"{self.source.title}", f"page      {self.source.page}", f"terms     {self.source.terms}"]
        if self.source.note:
            lines.append(f"note      {self.source.note}")
        for item in self.items:
            size = "of unknown size" if item.archive.size is None else _amount(item.archive.size)
            left = item.left()
            done = ", already downloaded" if left == 0 else ""
            if left and left != item.archive.size:
                done = f", {_amount(left)} left"
            lines.append(f"download  {item.archive.name} ({size}{done}) from {shown(item.archive.urls[0])}")
            if not item.archive.has_checksum:
                lines.append("          its checksum is unknown: the SHA-256 will be printed, but cannot be verified")
        lines.append(f"into      {self.folders()}")
        return lines if self.items else [*lines[:-1], f"nothing to download: {self.folders()} already exist"]


def _amount(size: int) -> str:
    return f"{size:,} bytes" if size < 2**20 else mebibytes(size)


@dataclass(frozen=True, slots=True)
class Checked:
    """A downloaded archive: its size in bytes, its SHA-256, and whether it was compared with a known checksum."""

    name: str
    size: int
    sha256: str
    compared: bool


@dataclass(frozen=True, slots=True)
class Fetched:
    """Result of a fetch: the folders for ``mocrop preprocess``, the number of clips, and the verified archives."""

    source: Path
    splits: Path
    clips: int
    classes: int
    archives: list[Checked] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        archives = [{"name": a.name, "size": a.size, "sha256": a.sha256, "compared": a.compared} for a in self.archives]
        return {
            "source": str(self.source),
            "splits": str(self.splits),
            "clips": self.clips,
            "classes": self.classes,
            "archives": archives,
            "warnings": self.warnings,
        }


def plan_fetch(dataset: str, directory: Path, url: str | None = None, *, zip_copy: bool = False) -> Fetch:
    """Plan what to download to have ``dataset`` in ``directory``; writes nothing and asks nothing.

    ``url`` is a mirror: the address of a folder with the archives, or of an archive of the videos with the lists
    beside it. Raises ``FetchError`` for an unknown data set, an invalid address, a folder with other contents, or if no
    program to unpack the archive is installed.
    """
    source = SOURCES.get(dataset)
    if dataset in ELSEWHERE:
        raise FetchError(f"data set {dataset!r} cannot be fetched: {ELSEWHERE[dataset]}; then mocrop index reads it")
    if source is None:
        raise FetchError(f"data set {dataset!r} is unknown; known: {', '.join(SOURCES)}")
    if zip_copy and source.videos_zip is None:
        raise FetchError(f"--zip: there is no known zip copy of {dataset}; omit --zip")
    videos = (source.videos_zip if zip_copy else None) or source.videos
    lists = source.lists
    if url is not None:
        videos, lists = _mirrored(url, videos, lists, source)
    wanted = (
        Item(
            videos,
            directory / source.folder,
            lambda path: place_video(path, source.class_names),
            source.nested and videos.name == source.videos.name,
        ),
        Item(lists, directory / source.lists_folder, place_list),
    )
    items = tuple(item for item in wanted if item.is_needed())
    if any(item.archive.name.lower().endswith(".rar") for item in items) and not rar_tools():
        raise FetchError(f"no installed program unpacks {videos.name}: {RAR_ADVICE}")
    return Fetch(source, directory, items)


def _mirrored(url: str, videos: Archive, lists: Archive, source: Source) -> tuple[Archive, Archive]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise FetchError(f"--url {shown(url)!r}: give an address that starts with http:// or https://")
    name = PurePosixPath(parts.path).name
    if not name.lower().endswith(_SUFFIXES):
        base = parts._replace(path=parts.path.rstrip("/") + "/").geturl()
        return _at(videos, urljoin(base, videos.name)), _at(lists, urljoin(base, lists.name))
    known = {archive.name: archive for archive in (source.videos, source.videos_zip) if archive}
    return _at(known.get(name, Archive(name, ())), url), _at(lists, urljoin(url, lists.name))


def _at(archive: Archive, url: str) -> Archive:
    return replace(archive, urls=(url,))


def place_video(path: PurePosixPath, class_names: tuple[str, ...]) -> PurePosixPath | None:
    """``<Class>/<clip>`` for a video in an archive, even if all clips are in one folder; None for other files."""
    if path.suffix.lower() not in VIDEO_SUFFIXES or hidden_kind(path):
        return None
    clip = _CLIP.fullmatch(path.stem)
    parent = path.parent.name
    if clip is None or clip[1].casefold() == parent.casefold():
        return PurePosixPath(parent or "videos", path.name)
    spelling = {name.casefold(): name for name in class_names}
    return PurePosixPath(spelling.get(clip[1].casefold(), clip[1]), path.name)


def place_list(path: PurePosixPath) -> PurePosixPath | None:
    """The file name of a list in an archive; None for other files."""
    return PurePosixPath(path.name) if path.suffix == ".txt" and not hidden_kind(path) else None


def fetch(plan: Fetch, say: Callable[[str], None], on_bytes: Callable[[str], OnBytes]) -> Fetched:
    """Download, verify and unpack the archives of a plan; existing files are kept, and the archives are not removed.

    ``say`` is called with progress messages; ``on_bytes`` is called with a file name and returns the callback for its
    bytes. Raises ``RunError`` on failure; completed work is kept, and another call resumes.
    """
    plan.directory.mkdir(parents=True, exist_ok=True)
    checked: list[Checked] = []
    with _locked(plan.directory):
        check_space(plan.directory, _needed(plan))
        for item in plan.items:
            checked.append(_obtain(item, say, on_bytes(item.archive.name)))
            say(f"unpacking {item.archive.name} into {item.folder}")
            count = (unpack_nested if item.nested else unpack)(item.path, item.folder, item.place)
            say(f"{count} files in {item.folder}; {item.path} is no longer needed")
    return _result(plan, checked)


def _needed(plan: Fetch) -> int:
    """Bytes for the rest of the archives and their unpacked contents; archives hardly compress videos."""
    return sum((item.left() or 0) + (item.archive.size or 0) for item in plan.items)


def _obtain(item: Item, say: Callable[[str], None], on_bytes: OnBytes) -> Checked:
    """Download and verify an archive, unless it exists; a file with a wrong checksum is downloaded once more."""
    archive = item.archive
    if item.path.is_file():
        checked = _check(item.path, archive)
        if checked is None:
            raise FetchError(f"{item.path} is not the expected file (size or checksum differs); move it away")
        return _reported(checked, say)
    wanted = Wanted(item.path, archive.urls, archive.size, archive.has_checksum)
    for last in (False, True):
        download(wanted, on_bytes, say)
        checked = _check(item.path, archive)
        if checked is not None:
            return _reported(checked, say)
        kind, right = ("SHA-256", archive.sha256) if archive.sha256 else ("MD5", archive.md5)
        wrong = _digest(item.path, kind)
        item.path.unlink()
        if not last:
            say(f"{archive.name} arrived damaged ({kind} {wrong}); downloading it again")
    raise FetchError(
        f"{archive.name} has the {kind} {wrong}, expected {right}, after two downloads; it was removed. Try "
        "another address with --url. If the publisher has replaced the file, unpack it yourself: mocrop preprocess "
        "only needs the folder"
    )


def _reported(checked: Checked, say: Callable[[str], None]) -> Checked:
    verdict = "as expected" if checked.compared else "which cannot be verified, as none is published"
    say(f"{checked.name}: {checked.size:,} bytes, SHA-256 {checked.sha256}, {verdict}")
    return checked


def _check(path: Path, archive: Archive) -> Checked | None:
    """The file's size and checksum; None if one of them differs from the expected value."""
    size = path.stat().st_size
    if archive.size is not None and size != archive.size:
        return None
    digest = _digest(path, "SHA-256")
    if archive.sha256 is not None and digest != archive.sha256:
        return None
    if archive.md5 is not None and _digest(path, "MD5") != archive.md5:
        return None
    return Checked(archive.name, size, digest, archive.has_checksum)


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind.replace("-", "").lower()).hexdigest()


def _result(plan: Fetch, checked: list[Checked]) -> Fetched:
    source, splits = plan.directory / plan.source.folder, plan.directory / plan.source.lists_folder
    videos = find_videos(source).videos
    classes = len({path.partition("/")[0] for path in videos})
    warnings = []
    if len(videos) != plan.source.clips:
        warnings.append(f"{len(videos)} clips in {source}, but the whole data set has {plan.source.clips}")
    if not (splits / plan.source.list_name).is_file():
        warnings.append(f"no {plan.source.list_name} in {splits}: these are not the official lists")
    return Fetched(source, splits, len(videos), classes, checked, warnings)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Lock a folder against a second fetch."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise FetchError(f"another mocrop fetch is running in {directory}; wait for it") from None
    finally:
        os.close(handle)
