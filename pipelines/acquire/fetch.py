"""Getting a public data set: what would be downloaded, the download, its check, and the folders that come of it."""

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

PLAIN_SECONDS = 10.0  # between two plain lines of a download
_CLIP = re.compile(r"v_(.+)_g\d+_c\d+")
_SUFFIXES = (".rar", ".zip", ".tar", ".tar.gz", ".tgz")


class FetchError(RunError):
    """A data set that cannot be fetched: one line that says why and what to do."""


@dataclass(frozen=True, slots=True)
class Item:
    """One archive that a fetch needs, the folder that its files become, and whether it is an archive of archives."""

    archive: Archive
    folder: Path
    place: Callable[[PurePosixPath], PurePosixPath | None]
    nested: bool = False

    @property
    def path(self) -> Path:
        """Where the archive lies, or is to lie."""
        return self.folder.with_name(self.archive.name)

    def is_needed(self) -> bool:
        """Whether the folder is missing or empty; ``FetchError`` if it holds other files than the archive's."""
        if not os.path.lexists(self.folder):
            return True
        inside = (path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
        if any(self.place(PurePosixPath(path)) for path in inside):
            return False
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            return True
        raise FetchError(f"{self.folder} holds nothing that {self.archive.name} has; move it away and fetch again")

    def left(self) -> int | None:
        """Bytes that are still to be downloaded; None where nobody knows."""
        if self.path.is_file():
            return 0
        part = part_of(self.path)
        have = part.stat().st_size if part.is_file() else 0
        return None if self.archive.size is None else max(0, self.archive.size - have)


@dataclass(frozen=True, slots=True)
class Fetch:
    """What is to be done for a data set in a folder; ``items`` are the archives whose folders are missing or empty."""

    source: Source
    directory: Path
    items: tuple[Item, ...]

    def folders(self) -> str:
        """The folder of the videos and that of the lists, for a person."""
        return f"{self.directory / self.source.folder} and {self.directory / self.source.lists_folder}"

    def describe(self) -> list[str]:
        """What would be downloaded, from where, how much, and under which terms, in lines for a person."""
        lines = [f"{self.source.title}", f"page      {self.source.page}", f"terms     {self.source.terms}"]
        if self.source.note:
            lines.append(f"note      {self.source.note}")
        for item in self.items:
            size = "of unknown size" if item.archive.size is None else _amount(item.archive.size)
            left = item.left()
            done = ", is there" if left == 0 else ""
            if left and left != item.archive.size:
                done = f", {_amount(left)} to go"
            lines.append(f"download  {item.archive.name} ({size}{done}) from {shown(item.archive.urls[0])}")
            if not item.archive.has_checksum:
                lines.append("          its checksum is not known: the SHA-256 will be printed, but cannot be compared")
        lines.append(f"into      {self.folders()}")
        return lines if self.items else [*lines[:-1], f"nothing to download: {self.folders()} are there"]


def _amount(size: int) -> str:
    return f"{size:,} bytes" if size < 2**20 else mebibytes(size)


@dataclass(frozen=True, slots=True)
class Checked:
    """An archive that was fetched: its bytes, its SHA-256, and whether a checksum in the table confirms it."""

    name: str
    size: int
    sha256: str
    compared: bool


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of a fetch: the folders for ``mocrop preprocess``, the clips in them, and the archives' checks."""

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
    """What has to be done to have ``dataset`` in ``directory``; nothing is written and stdin is not read.

    ``url`` is a mirror: a folder's address with files of the table's names in it, or that of an archive of the
    videos, with the lists beside it. ``FetchError`` for a data set or an address that cannot be, for a
    folder that holds something else, and where nothing here would unpack what is to be downloaded.
    """
    source = SOURCES.get(dataset)
    if dataset in ELSEWHERE:
        raise FetchError(f"data set {dataset!r} cannot be fetched: {ELSEWHERE[dataset]}; then mocrop index reads it")
    if source is None:
        raise FetchError(f"data set {dataset!r} is not known; known: {', '.join(SOURCES)}")
    if zip_copy and source.videos_zip is None:
        raise FetchError(f"--zip: no zip copy of {dataset} is known; leave --zip out")
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
        raise FetchError(f"nothing here would unpack {videos.name}: {RAR_ADVICE}")
    return Fetch(source, directory, items)


def _mirrored(url: str, videos: Archive, lists: Archive, source: Source) -> tuple[Archive, Archive]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise FetchError(f"--url {shown(url)!r}: give an address that begins with http:// or https://")
    name = PurePosixPath(parts.path).name
    if not name.lower().endswith(_SUFFIXES):
        base = parts._replace(path=parts.path.rstrip("/") + "/").geturl()
        return _at(videos, urljoin(base, videos.name)), _at(lists, urljoin(base, lists.name))
    known = {archive.name: archive for archive in (source.videos, source.videos_zip) if archive}
    return _at(known.get(name, Archive(name, ())), url), _at(lists, urljoin(url, lists.name))


def _at(archive: Archive, url: str) -> Archive:
    return replace(archive, urls=(url,))


def place_video(path: PurePosixPath, class_names: tuple[str, ...]) -> PurePosixPath | None:
    """``<Class>/<clip>`` for a video in an archive, also where all clips lie in one folder; None for other files."""
    if path.suffix.lower() not in VIDEO_SUFFIXES or hidden_kind(path):
        return None
    clip = _CLIP.fullmatch(path.stem)
    parent = path.parent.name
    if clip is None or clip[1].casefold() == parent.casefold():
        return PurePosixPath(parent or "videos", path.name)
    spelling = {name.casefold(): name for name in class_names}
    return PurePosixPath(spelling.get(clip[1].casefold(), clip[1]), path.name)


def place_list(path: PurePosixPath) -> PurePosixPath | None:
    """The name of a list of an archive, without its folders; None for other files."""
    return PurePosixPath(path.name) if path.suffix == ".txt" and not hidden_kind(path) else None


def fetch(plan: Fetch, say: Callable[[str], None], on_bytes: Callable[[str], OnBytes]) -> Fetched:
    """Download, check and unpack; what is there already is kept, and the archives stay beside the folders.

    ``say`` gets lines about what goes on, ``on_bytes`` a file's name and gives what is told its bytes.
    ``RunError`` in one line where that fails; what is whole by then is kept, and the same call goes on with it.
    """
    plan.directory.mkdir(parents=True, exist_ok=True)
    found: list[Checked] = []
    with _alone_in(plan.directory):
        check_space(plan.directory, _needed(plan))
        for item in plan.items:
            found.append(_obtain(item, say, on_bytes(item.archive.name)))
            say(f"unpacking {item.archive.name} into {item.folder}")
            count = (unpack_nested if item.nested else unpack)(item.path, item.folder, item.place)
            say(f"{count} files in {item.folder}; {item.path} is not needed any more")
    return _result(plan, found)


def _needed(plan: Fetch) -> int:
    """Bytes that the rest of the archives and what they hold take: videos hardly shrink in an archive."""
    return sum((item.left() or 0) + (item.archive.size or 0) for item in plan.items)


def _obtain(item: Item, say: Callable[[str], None], on_bytes: OnBytes) -> Checked:
    """The archive, whole and with the right checksum; a wrong one is downloaded once more, from its beginning."""
    archive = item.archive
    if item.path.is_file():
        found = _check(item.path, archive)
        if found is None:
            raise FetchError(f"{item.path} is not the file that it ought to be (size or checksum); move it away")
        return _said(found, say)
    wanted = Wanted(item.path, archive.urls, archive.size, archive.has_checksum)
    for last in (False, True):
        download(wanted, on_bytes, say)
        found = _check(item.path, archive)
        if found is not None:
            return _said(found, say)
        kind, right = ("SHA-256", archive.sha256) if archive.sha256 else ("MD5", archive.md5)
        wrong = _digest(item.path, kind)
        item.path.unlink()
        if not last:
            say(f"{archive.name} arrived damaged ({kind} {wrong}); downloading it once more")
    raise FetchError(
        f"{archive.name} has the {kind} {wrong}, expected {right}, after two downloads; it was removed. Try "
        "another address with --url. If the publisher has replaced the file, unpack it by hand: mocrop preprocess "
        "needs the folder alone"
    )


def _said(found: Checked, say: Callable[[str], None]) -> Checked:
    what = "as expected" if found.compared else "which cannot be compared, as nobody published the right one"
    say(f"{found.name}: {found.size:,} bytes, SHA-256 {found.sha256}, {what}")
    return found


def _check(path: Path, archive: Archive) -> Checked | None:
    """The file's size and checksum; None where one of them is not the expected one."""
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


def _result(plan: Fetch, found: list[Checked]) -> Fetched:
    source, splits = plan.directory / plan.source.folder, plan.directory / plan.source.lists_folder
    videos = find_videos(source).videos
    classes = len({path.parts[0] for path in videos})
    warnings = []
    if len(videos) != plan.source.clips:
        warnings.append(f"{len(videos)} clips in {source}, where the whole data set has {plan.source.clips}")
    if not (splits / plan.source.list_name).is_file():
        warnings.append(f"no {plan.source.list_name} in {splits}: these are not the official lists")
    return Fetched(source, splits, len(videos), classes, found, warnings)


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Keep a second fetch out of the folder."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise FetchError(f"another mocrop fetch is at work in {directory}; wait for it") from None
    finally:
        os.close(handle)
