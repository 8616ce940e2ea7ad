"""Fetching a data set from a real server on loopback that breaks off, corrupts, redirects and refuses."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_specs import ucf101
from data_specs.datasets import read_dataset
from data_specs.sources import SOURCES, Archive, Source
from pipelines.acquire import archives, fetch
from pipelines.acquire.download import (
    FURTHER,
    TRIES,
    DownloadError,
    Wanted,
    _PermanentError,
    download,
    part_of,
    redirected,
)
from tests.conftest import Said
from tests.support.saboteurs import wait_until
from tests.support.system_packages import needed

LISTS = "UCF101TrainTestSplits-RecognitionTask.zip"
BODY = bytes(range(256)) * 40
ALL_TOOLS = archives.RAR_TOOLS


@dataclass
class Mirror:
    """A server of files on loopback; ``faults`` holds, for a path, what goes wrong at each of the next requests."""

    address: str
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    sent: int = 0
    closing: threading.Event = field(default_factory=threading.Event)

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"

    def asked(self, name: str) -> list[dict[str, str]]:
        return [headers for path, headers in self.requests if path == f"/{name}"]


def handler(mirror: Mirror) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            mirror.requests.append((self.path, dict(self.headers)))
            waiting = mirror.faults.get(name, [])
            fault, _, value = (waiting.pop(0) if waiting else "").partition(":")
            if fault == "status":
                self.send_response(int(value))
                self.send_header("Retry-After", "0")
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif fault == "redirect":
                self.send_response(302)
                self.send_header("Location", value)
                self.end_headers()
            elif fault == "hang up":
                self.connection.shutdown(socket.SHUT_RDWR)
            elif name not in mirror.files:
                self.send_error(404)
            else:
                self.give(name, fault, value)

        def give(self, name: str, fault: str, value: str) -> None:
            body, tag = mirror.files[name], mirror.tags.get(name, f'"{zlib.crc32(mirror.files[name])}"')
            start = 0
            fits = self.headers.get("If-Range") in (None, tag)
            if (wanted := self.headers.get("Range")) and fault != "no ranges" and fits:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body) > 0:
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                shift = 1 if fault == "wrong part" else 0
                self.send_header("Content-Range", f"bytes {start - shift}-{len(body) - 1}/{len(body)}")
            if tag:
                self.send_header("ETag", tag)
            if fault != "no length":
                self.send_header("Content-Length", f"{len(body) - start}")
            self.end_headers()
            rest = bytearray(body[start:])
            if fault == "corrupt":
                rest[len(rest) // 2] ^= 1
            rest = rest[: int(value)] if fault in ("break", "no ranges") and value else rest
            if fault == "stall":
                self.wfile.write(rest[: len(rest) // 2])
                mirror.closing.wait()
                return
            mirror.sent += len(rest)
            self.wfile.write(rest)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    made = Mirror("")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(made))
    made.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield made
    finally:
        made.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.acquire.download.WAITS", (0.0,))


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, body in files.items():
            archive.writestr(zipfile.ZipInfo(name), body)
    return out.getvalue()


def tarred(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for info, body in members:
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return out.getvalue()


def stored_rar(files: dict[str, bytes], *, mode: int = 0o100644) -> bytes:
    """A RAR 4 archive of files as they are, by the format's description: blocks with a checksum, folders by \\\\."""

    def block(kind: int, flags: int, rest: bytes) -> bytes:
        head = struct.pack("<BHH", kind, flags, 7 + len(rest)) + rest
        return struct.pack("<H", zlib.crc32(head) & 0xFFFF) + head

    out = [b"Rar!\x1a\x07\x00", block(0x73, 0, bytes(6))]
    for name, body in files.items():
        packed, unix, method, path = len(body), 3, 0x30, name.replace("/", "\\").encode()
        fields = (packed, packed, unix, zlib.crc32(body), 0x5A21_0000, 20, method, len(path), mode)
        out += [block(0x74, 0x8000, struct.pack("<IIBIIBBHI", *fields) + path), body]
    return b"".join([*out, block(0x7B, 0x4000, b"")])


@pytest.fixture(scope="module")
def real(data: Path) -> dict[str, bytes]:
    """The real clips and the official lists, as the archives of a mirror."""
    clips = {path.relative_to(data).as_posix(): path.read_bytes() for path in sorted((data / "UCF-101").rglob("*.avi"))}
    assert len(clips) == 15
    lists = {f"ucfTrainTestlist/{path.name}": path.read_bytes() for path in (data / "ucfTrainTestlist").glob("*.txt")}
    return {
        "UCF101.rar": stored_rar(clips),
        "UCF101_videos.zip": zipped({f"UCF101/{PurePosixPath(name).name}": body for name, body in clips.items()}),
        LISTS: zipped(lists),
    }


@pytest.fixture
def small(mirror: Mirror, real: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Source:
    """A table whose archives are those of the mirror, with their right sizes and checksums."""
    mirror.files.update(real)

    def row(name: str) -> Archive:
        return Archive(name, (mirror.url(name),), len(real[name]), sha256(real[name]))

    source = replace(
        SOURCES["ucf101"],
        videos=row("UCF101.rar"),
        videos_zip=row("UCF101_videos.zip"),
        lists=row(LISTS),
        clips=15,
    )
    monkeypatch.setattr("pipelines.acquire.fetch.SOURCES", {"ucf101": source})
    return source


@pytest.fixture
def mocrop(mocrop_here: Callable[..., Said]) -> Callable[..., Said]:
    """A command, whose downloads come from the mirror, as that is known in this process only."""
    return mocrop_here


def test_every_row_of_the_table_has_https_first_and_names_what_is_unknown() -> None:
    rows = [row for source in SOURCES.values() for row in (source.videos, source.videos_zip, source.lists) if row]
    assert len(rows) == 5
    for row in rows:
        assert row.urls[0].startswith("https://")
        assert row.sha256 is None or (len(row.sha256) == 64 and int(row.sha256, 16) >= 0)
        assert row.md5 is None or (len(row.md5) == 32 and int(row.md5, 16) >= 0)
        assert all(url.startswith("https://") for url in row.urls) or row.sha256, "plain http needs a checksum"
        assert all(PurePosixPath(url).name == row.name for url in row.urls)


def test_it_says_size_address_and_terms_and_downloads_nothing_unasked(
    small: Source, mirror: Mirror, tmp_path: Path, mocrop: Callable[..., Said]
) -> None:
    said = mocrop("fetch", "ucf101", tmp_path / "data", "--zip")
    assert said.status == 1
    assert said.out == ""
    assert small.terms in said.err
    assert f"UCF101_videos.zip ({small.videos_zip.size / 2**20:,.0f} MiB) from {mirror.address}" in said.err
    assert "pass --yes" in said.err
    assert mirror.requests == []
    assert not (tmp_path / "data").exists()


def test_a_flat_zip_becomes_the_folders_that_preprocess_reads(
    small: Source, mirror: Mirror, tmp_path: Path, data: Path, mocrop: Callable[..., Said]
) -> None:
    said = mocrop("fetch", "ucf101", tmp_path, "--zip", "--yes", "--json")
    assert said.status == 0, said.err
    found = json.loads(said.out)
    assert (found["clips"], found["classes"], found["warnings"]) == (15, 14, [])
    assert [archive["compared"] for archive in found["archives"]] == [True, True]
    dataset = read_dataset(Path(found["source"]), Path(found["splits"]))
    assert dataset.clips == read_dataset(data / "UCF-101", data / "ucfTrainTestlist").clips
    for clip in dataset.clips:
        assert (tmp_path / "UCF-101" / clip.path).read_bytes() == (data / "UCF-101" / clip.path).read_bytes()
    before = list(mirror.requests)
    again = mocrop("fetch", "ucf101", tmp_path, "--zip")
    assert (again.status, mirror.requests) == (0, before)
    assert "nothing to download" in again.err


def test_empty_folders_are_filled_and_others_refused(
    small: Source, mirror: Mirror, tmp_path: Path, mocrop: Callable[..., Said]
) -> None:
    folders = [tmp_path / "UCF-101", tmp_path / "ucfTrainTestlist"]
    for folder in folders:
        folder.mkdir()
    said = mocrop("fetch", "ucf101", tmp_path, "--zip", "--yes", "--json")
    assert (said.status, json.loads(said.out)["clips"]) == (0, 15), said.err
    requests = list(mirror.requests)
    for folder in folders:
        for file in [path for path in folder.rglob("*") if path.is_file()]:
            file.unlink()
        (folder / "notes.md").touch()
        other = mocrop("fetch", "ucf101", tmp_path, "--zip", "--yes")
        assert other.status == 1
        assert f"{folder} contains no files of UCF101" in other.err
        assert ".zip; move it away and fetch again" in other.err
        folder.rename(tmp_path / f"{folder.name}.away")
    assert mirror.requests == requests


@pytest.mark.parametrize("tool", ["bsdtar", "unar"])
def test_a_rar_is_unpacked_by_the_program_that_is_there(
    small: Source, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, mocrop: Callable[..., Said], tool: str
) -> None:
    needed("libarchive-tools" if tool == "bsdtar" else "unar")
    monkeypatch.setattr(archives, "RAR_TOOLS", [row for row in ALL_TOOLS if row.program == tool])
    said = mocrop("fetch", "ucf101", tmp_path, "--yes")
    assert said.status == 0, said.err
    assert said.out.startswith("15 clips of 14 classes in ")
    names = sorted(path.relative_to(data).as_posix() for path in (data / "UCF-101").rglob("*.avi"))
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.avi")) == names
    assert all((tmp_path / name).read_bytes() == (data / name).read_bytes() for name in names)


def test_where_one_program_fails_the_next_is_tried_and_all_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed("libarchive-tools")
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "unrar"
    fake.write_text("#!/bin/sh\necho 'unknown option lb' >&2\nexit 7\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(archives, "RAR_TOOLS", [row for row in ALL_TOOLS if row.program in ("unrar", "bsdtar")])
    whole, cut = tmp_path / "whole.rar", tmp_path / "cut.rar"
    whole.write_bytes(stored_rar({"a/b.avi": BODY}))
    cut.write_bytes(whole.read_bytes()[:-500])
    assert archives.unpack(whole, tmp_path / "out", keep) == 1
    assert (tmp_path / "out/a/b.avi").read_bytes() == BODY
    with pytest.raises(
        archives.ArchiveError, match=r"\(unrar: unknown option lb; bsdtar: .+\); if it is intact, install"
    ):
        archives.unpack(cut, tmp_path / "none", keep)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "cut.rar", "out", "whole.rar"]


def test_without_a_program_for_rar_it_says_so_before_the_download(
    small: Source, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mocrop: Callable[..., Said]
) -> None:
    monkeypatch.setattr(archives, "RAR_TOOLS", ())
    said = mocrop("fetch", "ucf101", tmp_path, "--yes")
    assert said.status == 1
    assert "apt install libarchive-tools" in said.err
    assert "--zip" in said.err
    assert mirror.requests == []


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_of_ones_own_is_taken_from_a_mirror_with_its_hash_printed(
    small: Source, mirror: Mirror, tmp_path: Path, mocrop: Callable[..., Said], kind: str
) -> None:
    name = f"some.{kind}"
    body = zipped({"x/Archery/a.avi": b"video"}) if kind == "zip" else tarred((tarfile.TarInfo("Archery/a.avi"), b"v"))
    mirror.files[name] = body
    said = mocrop("fetch", "ucf101", tmp_path, "--yes", "--json", "--url", mirror.url(name))
    assert said.status == 0, said.err
    assert f"SHA-256 {sha256(body)}, which cannot be verified" in said.err
    found = json.loads(said.out)
    assert [archive["compared"] for archive in found["archives"]] == [False, True]
    assert found["warnings"] == [f"1 clips in {tmp_path / 'UCF-101'}, but the whole data set has 15"]
    assert (tmp_path / "UCF-101/Archery/a.avi").is_file()


def test_a_mirrors_folder_serves_the_names_of_the_table(
    small: Source, mirror: Mirror, tmp_path: Path, mocrop: Callable[..., Said]
) -> None:
    mirror.files = {f"pub/{name}": body for name, body in mirror.files.items()}
    said = mocrop("fetch", "ucf101", tmp_path, "--zip", "--yes", "--url", f"{mirror.address}/pub")
    assert said.status == 0, said.err
    assert [path for path, _ in mirror.requests] == ["/pub/UCF101_videos.zip", f"/pub/{LISTS}"]


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x.zip", "file:///etc/passwd", "127.0.0.1/x.zip", "http://"])
def test_an_address_that_is_not_http_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(fetch.FetchError, match=r"http:// or https://"):
        fetch.plan_fetch("ucf101", tmp_path, url)


def test_an_unknown_data_set_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(fetch.FetchError, match="'hmdb' is unknown; known: ucf101"):
        fetch.plan_fetch("hmdb", tmp_path)


# The download


@pytest.fixture(params=["zip", pytest.param("rar", id="rar of rars")])
def hmdb51(
    request: pytest.FixtureRequest, mirror: Mirror, data: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, bytes]:
    """HMDB-51 as a mirror of two classes: an archive with one for each class; the clips, by their paths."""
    if request.param == "rar":
        needed("libarchive-tools")
    pack = stored_rar if request.param == "rar" else zipped
    body = next((data / "UCF-101").rglob("*.avi")).read_bytes()
    clips = {f"{name}/{name}_{number}.avi": body[number:] for name in ("brush_hair", "wave") for number in range(2)}
    inner = {
        "brush_hair": pack({name: clip for name, clip in clips.items() if name.startswith("brush")}),
        "wave": pack({PurePosixPath(name).name: clip for name, clip in clips.items() if name.startswith("wave")}),
    }
    lists = {f"testTrainMulti_7030_splits/{name}_test_split1.txt": f"{name}_0.avi 1 \n".encode() for name in inner}
    files = {"videos": pack({f"{name}.{request.param}": archive for name, archive in inner.items()}),
             "lists": pack(lists)}  # fmt: skip
    rows = {}
    for name, content in files.items():
        file = f"{name}.{request.param}"
        mirror.files[file] = content
        rows[name] = Archive(file, (mirror.url(file),), md5=hashlib.md5(content).hexdigest())
    source = replace(SOURCES["hmdb51"], videos=rows["videos"], lists=rows["lists"], clips=4)
    monkeypatch.setattr("pipelines.acquire.fetch.SOURCES", {"hmdb51": source})
    return clips


def test_hmdb51_is_unpacked_from_an_archive_of_archives_and_then_indexed(
    hmdb51: dict[str, bytes], tmp_path: Path, mocrop: Callable[..., Said]
) -> None:
    said = mocrop("fetch", "hmdb51", tmp_path, "--yes")
    assert said.status == 0, said.err
    source, lists = tmp_path / "hmdb51", tmp_path / "testTrainMulti_7030_splits"
    found = {path.relative_to(source).as_posix(): path.read_bytes() for path in source.rglob("*.avi")}
    assert found == hmdb51
    assert "warning" not in said.err
    assert said.err.count(", as expected") == 2, "the published MD5 is compared"
    next_command = f"mocrop index {source} --format hmdb51 --lists {lists} --out hmdb51.csv"
    assert said.out == f"4 clips of 2 classes in {source}, lists in {lists}\nnext: {next_command}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [
            source.name,
            lists.name,
            *(path.name for path in tmp_path.glob("videos.*")),
            *(p.name for p in tmp_path.glob("lists.*")),
        ]
    ), "nothing is left beside them"
    out = tmp_path / "hmdb51.csv"
    said = mocrop("index", source, "--format", "hmdb51", "--lists", lists, "--out", out)
    assert said.status == 0, said.err
    assert "split 1   2 train" in said.out


def test_hmdb51_with_another_md5_is_refused(
    hmdb51: dict[str, bytes], mirror: Mirror, tmp_path: Path, mocrop: Callable[..., Said]
) -> None:
    name = next(name for name in mirror.files if name.startswith("videos"))
    mirror.files[name] += b"more"
    said = mocrop("fetch", "hmdb51", tmp_path, "--yes")
    assert said.status == 1
    assert f"{name} has the MD5 {hashlib.md5(mirror.files[name]).hexdigest()}, expected " in said.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["kinetics"], "data set 'kinetics' cannot be fetched: its videos are YouTube's; the Common Visual Data"),
        (["ssv2"], "data set 'ssv2' cannot be fetched: its publisher asks for an account"),
        (["hmdb51", "--zip"], "--zip: there is no known zip copy of hmdb51; omit --zip"),
    ],
)
def test_what_cannot_be_fetched_says_where_to_get_it(
    words: list[str], line: str, tmp_path: Path, mocrop: Callable[..., Said]
) -> None:
    said = mocrop("fetch", *words, tmp_path)
    assert (said.status, said.err.count("\n")) == (1, 1)
    assert line in said.err


def wanted(mirror: Mirror, folder: Path, *names: str, body: bytes = BODY, checked: bool = True) -> Wanted:
    return Wanted(folder / "f.bin", tuple(mirror.url(name) for name in names or ("f.bin",)), len(body), checked)


def test_what_broke_off_is_asked_for_from_there_on(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files["f.bin"] = BODY
    mirror.faults["f.bin"] = ["break:4000", "hang up", "break:100", "status:503"]
    seen: list[tuple[int, int | None]] = []
    download(wanted(mirror, tmp_path), lambda done, total: seen.append((done, total)))
    assert (tmp_path / "f.bin").read_bytes() == BODY
    assert [headers.get("Range") for headers in mirror.asked("f.bin")] == [
        None,
        *["bytes=4000-"] * 2,
        *["bytes=4100-"] * 2,
    ]
    assert {headers.get("If-Range") for headers in mirror.asked("f.bin")[1:]} == {f'"{zlib.crc32(BODY)}"'}
    assert mirror.sent == len(BODY)
    assert seen[-1] == (len(BODY), len(BODY))
    assert list(tmp_path.iterdir()) == [tmp_path / "f.bin"]


@settings(max_examples=40, suppress_health_check=[*HealthCheck])
@given(
    faults=st.lists(
        st.sampled_from(["hang up", "status:429", "wrong part", "no ranges", "no length"])
        | st.integers(0, len(BODY) - 1).map(lambda at: f"break:{at}")
        | st.integers(0, len(BODY) - 1).map(lambda at: f"no ranges:{at}"),
        max_size=TRIES - 1,
    ),
    checked=st.booleans(),
    tagged=st.booleans(),
)
def test_the_file_arrives_whole_whatever_goes_wrong_on_the_way(
    mirror: Mirror, tmp_path_factory: pytest.TempPathFactory, faults: list[str], checked: bool, tagged: bool
) -> None:
    folder = tmp_path_factory.mktemp("any")
    mirror.files["f.bin"], mirror.faults["f.bin"] = BODY, list(faults)
    mirror.tags["f.bin"] = '"a"' if tagged else ""
    download(wanted(mirror, folder, checked=checked))
    assert (folder / "f.bin").read_bytes() == BODY
    assert list(folder.iterdir()) == [folder / "f.bin"]


def test_a_later_call_goes_on_with_what_an_earlier_one_left(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files["f.bin"] = BODY
    mirror.faults["f.bin"] = ["break:5000"] + ["status:503"] * TRIES
    with pytest.raises(DownloadError, match=r"status 503 .*5,000 bytes are kept"):
        download(wanted(mirror, tmp_path))
    assert not (tmp_path / "f.bin").exists()
    assert part_of(tmp_path / "f.bin").stat().st_size == 5000
    download(wanted(mirror, tmp_path))
    assert mirror.sent == len(BODY)
    assert (tmp_path / "f.bin").read_bytes() == BODY


def test_a_killed_download_is_resumed(mirror: Mirror, tmp_path: Path) -> None:
    body = os.urandom(4 * FURTHER)
    mirror.files["f.bin"], mirror.faults["f.bin"] = body, ["stall"]
    code = "import sys; from pathlib import Path; from pipelines.acquire.download import *;"
    code += f"download(Wanted(Path(sys.argv[1]), (sys.argv[2],), {len(body)}, False))"
    child = subprocess.Popen([sys.executable, "-c", code, tmp_path / "f.bin", mirror.url("f.bin")])
    part = part_of(tmp_path / "f.bin")
    assert wait_until(lambda: part.is_file() and part.stat().st_size >= FURTHER)
    child.send_signal(signal.SIGKILL)
    assert child.wait(600) == -signal.SIGKILL
    download(wanted(mirror, tmp_path, body=body, checked=False))
    assert (tmp_path / "f.bin").read_bytes() == body
    assert int(mirror.asked("f.bin")[1]["Range"].removeprefix("bytes=").removesuffix("-")) >= FURTHER


def test_a_file_that_changed_meanwhile_is_taken_from_its_beginning(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files["f.bin"], mirror.faults["f.bin"] = BODY, ["break:5000"] + ["status:503"] * TRIES
    with pytest.raises(DownloadError):
        download(wanted(mirror, tmp_path))
    mirror.files["f.bin"] = BODY[::-1]
    download(wanted(mirror, tmp_path))
    assert (tmp_path / "f.bin").read_bytes() == BODY[::-1]


def test_a_part_is_not_mixed_with_another_servers_file_where_no_checksum_would_tell(
    mirror: Mirror, tmp_path: Path
) -> None:
    mirror.files.update({"f.bin": BODY, "g.bin": BODY[::-1]})
    mirror.faults["f.bin"] = ["break:5000"] + ["status:503"] * TRIES
    download(wanted(mirror, tmp_path, "f.bin", "g.bin", checked=False))
    assert (tmp_path / "f.bin").read_bytes() == BODY[::-1]
    assert "Range" not in mirror.asked("g.bin")[0]


def test_the_next_address_is_tried_when_one_refuses(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files.update({"page.html": b"<html>moved</html>", "f.bin": BODY})
    lines: list[str] = []
    download(wanted(mirror, tmp_path, "gone", "page.html", "f.bin"), say=lines.append)
    assert (tmp_path / "f.bin").read_bytes() == BODY
    assert [line.partition(": ")[2] for line in lines] == [
        "status 404 Not Found",
        "has a file of 18 bytes, expected 10,240",
    ]


def test_an_address_is_given_up_after_a_bounded_number_of_tries(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files["f.bin"] = BODY
    mirror.faults["f.bin"] = ["no ranges:5000"] * 50
    with pytest.raises(DownloadError, match=f"{TRIES} times in a row"):
        download(wanted(mirror, tmp_path))
    assert len(mirror.requests) == TRIES
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/f.bin"
        with pytest.raises(DownloadError, match="refused"):
            download(Wanted(tmp_path / "n.bin", (nobody,), None, False))


def test_redirects_are_followed_to_http_only(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files["f.bin"] = BODY
    mirror.faults["old"] = ["redirect:/f.bin"]
    download(wanted(mirror, tmp_path, "old"))
    assert (tmp_path / "f.bin").read_bytes() == BODY
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/f.bin", "/old"):
        mirror.faults["old"] = [f"redirect:{target}"] * 50
        with pytest.raises(DownloadError, match=r"neither http nor https|redirected 10 times"):
            download(wanted(mirror, tmp_path / "none", "old"))


def test_a_redirect_from_https_to_http_needs_a_checksum() -> None:
    assert redirected("https://a/x", "http://b/x", secure=False) == "http://b/x"
    assert redirected("https://a/x", "/y", secure=True) == "https://a/y"
    with pytest.raises(_PermanentError, match="no checksum"):
        redirected("https://a/x", "http://b/x", secure=True)


def test_a_password_in_an_address_is_not_shown(mirror: Mirror, tmp_path: Path) -> None:
    url = mirror.url("gone?token=hidden").replace("http://", "http://me:hidden@")
    lines: list[str] = []
    with pytest.raises(DownloadError) as error:
        download(Wanted(tmp_path / "f.bin", (url,), None, False), say=lines.append)
    assert lines
    assert "hidden" not in f"{error.value} {lines}"


def test_a_password_in_an_address_is_neither_shown_nor_kept_when_it_is_tried_again(
    mirror: Mirror, tmp_path: Path
) -> None:
    mirror.files["f.bin?token=hidden"] = BODY
    mirror.faults["f.bin?token=hidden"] = ["break:5000"] + ["status:503"] * TRIES
    url = mirror.url("f.bin?token=hidden").replace("http://", "http://me:hidden@")
    file = Wanted(tmp_path / "f.bin", (url,), None, False)
    lines: list[str] = []
    with pytest.raises(DownloadError) as error:
        download(file, say=lines.append)
    assert any("status 503 Service Unavailable; trying again" in line for line in lines)
    notes = [path.read_text() for path in tmp_path.glob("*.json")]
    assert len(notes) == 1
    assert "hidden" not in f"{error.value} {lines} {notes}"
    download(file)
    assert mirror.sent == len(BODY), "the note tells that it is the same address"


# The check


def test_a_corrupt_download_is_taken_once_more(
    small: Source, mirror: Mirror, tmp_path: Path, mocrop: Callable[..., Said]
) -> None:
    mirror.faults["UCF101_videos.zip"] = ["corrupt"]
    said = mocrop("fetch", "ucf101", tmp_path, "--zip", "--yes")
    assert said.status == 0, said.err
    assert "arrived damaged" in said.err
    assert len(mirror.asked("UCF101_videos.zip")) == 2


def test_a_file_that_stays_corrupt_is_refused_and_removed(
    small: Source, mirror: Mirror, tmp_path: Path, mocrop: Callable[..., Said]
) -> None:
    mirror.faults["UCF101_videos.zip"] = ["corrupt"] * 2
    said = mocrop("fetch", "ucf101", tmp_path, "--zip", "--yes")
    assert said.status == 1
    last = said.err.splitlines()[-1]
    assert last.startswith("mocrop: UCF101_videos.zip has the SHA-256 ")
    assert f"expected {small.videos_zip.sha256}, after two downloads" in last
    assert list(tmp_path.iterdir()) == []


def test_an_archive_that_is_there_already_is_used_if_it_is_the_right_one(
    small: Source, mirror: Mirror, tmp_path: Path, mocrop: Callable[..., Said]
) -> None:
    (tmp_path / "UCF101_videos.zip").write_bytes(mirror.files["UCF101_videos.zip"])
    (tmp_path / LISTS).write_bytes(b"something else")
    said = mocrop("fetch", "ucf101", tmp_path, "--zip", "--yes")
    assert said.status == 1
    assert f"{tmp_path / LISTS} is not the expected file" in said.err
    assert (tmp_path / LISTS).read_bytes() == b"something else"
    (tmp_path / LISTS).unlink()
    assert mocrop("fetch", "ucf101", tmp_path, "--zip", "--yes").status == 0
    assert mirror.asked("UCF101_videos.zip") == []


def test_a_disk_that_is_too_small_is_seen_before_the_download(
    small: Source, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mocrop: Callable[..., Said]
) -> None:
    monkeypatch.setattr(archives, "free_bytes", lambda location: 2**20)
    said = mocrop("fetch", "ucf101", tmp_path, "--zip", "--yes")
    assert said.status == 1
    assert "1 MiB free" in said.err
    assert mirror.requests == []


def test_a_second_fetch_into_the_same_folder_is_refused(
    small: Source, tmp_path: Path, mocrop: Callable[..., Said]
) -> None:
    with fetch._locked(tmp_path):
        said = mocrop("fetch", "ucf101", tmp_path, "--zip", "--yes")
    assert said.status == 1
    assert "another mocrop fetch is running" in said.err


# Unpacking


def keep(path: PurePosixPath) -> PurePosixPath:
    return path


def refused(tmp_path: Path, body: bytes, name: str = "a.zip") -> str:
    """The error of an archive that must not be unpacked; nothing but it is in the folders around it then."""
    folder = tmp_path / "deep" / "in"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(body)
    with pytest.raises(archives.ArchiveError) as error:
        archives.unpack(folder / name, folder / "out", keep)
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == [folder / name]
    assert not (folder / "out").exists()
    assert "\n" not in str(error.value)
    return str(error.value)


OUTSIDE = ["../evil.avi", "a/../../evil.avi", "/evil.avi", "C:/evil.avi", "a\\..\\..\\evil.avi", "a\x00.avi", "a\n.avi"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leads_outside_is_refused_in_every_kind_of_archive(tmp_path: Path, name: str) -> None:
    info = zipfile.ZipInfo("x" * len(name))
    info.filename = info.orig_filename = name
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("good.avi", b"1")
        archive.writestr(info, b"2")
    assert "contains a path outside its folder" in refused(tmp_path, out.getvalue())
    if "\x00" not in name:
        assert "contains a path outside" in refused(tmp_path, tarred((tarfile.TarInfo(name), b"2")), "a.zip")


@pytest.mark.parametrize("name", ["../evil.avi", "a/../../evil.avi", "/evil.avi"])
def test_a_rar_that_leads_outside_is_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needed("libarchive-tools", "unar")
    for tool in ("bsdtar", "unar"):
        monkeypatch.setattr(archives, "RAR_TOOLS", [row for row in ALL_TOOLS if row.program == tool])
        assert "contains a path outside its folder" in refused(tmp_path, stored_rar({"good.avi": b"1", name: b"2"}))


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link.avi")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(info, b"/etc/passwd")
    assert "'link.avi' is a link or a device" in refused(tmp_path, out.getvalue())
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        entry = tarfile.TarInfo("link.avi")
        entry.type, entry.linkname = kind, "/etc/passwd"
        assert "'link.avi' is a link or a device" in refused(tmp_path, tarred((entry, b"")))
    needed("libarchive-tools")
    assert "'link.avi' is a link or a device" in refused(tmp_path, stored_rar({"link.avi": b"/etc"}, mode=0o120777))


def test_what_is_no_whole_archive_is_refused_in_one_line(tmp_path: Path) -> None:
    good = zipped({"a.avi": b"12345" * 99})
    assert "neither a zip nor a tar nor a RAR" in refused(tmp_path, b"<html>Not found</html>")
    damaged = bytearray(good)
    damaged[60] ^= 1
    assert "is damaged" in refused(tmp_path, bytes(damaged))
    assert "neither a zip" in refused(tmp_path, good[:200])
    assert "cannot be unpacked" in refused(tmp_path, stored_rar({"a.avi": b"12345" * 99})[:200])
    assert "contains no files for out" in refused(tmp_path, zipped({}))
    encrypted = bytearray(good)
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[encrypted.index(mark) + at] |= 1
    assert "is encrypted" in refused(tmp_path, bytes(encrypted))


def test_two_members_for_one_file_are_refused(tmp_path: Path) -> None:
    assert "'A.avi' twice" in refused(tmp_path, zipped({"a.avi": b"1", "A.avi": b"2"}))


def test_what_a_killed_unpacking_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".out.unpacking" / "whole").mkdir(parents=True)
    (tmp_path / ".out.unpacking" / "whole" / "old.avi").write_bytes(b"old")
    (tmp_path / "a.zip").write_bytes(zipped({"a.avi": b"1"}))
    assert archives.unpack(tmp_path / "a.zip", tmp_path / "out", keep) == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.avi", "a.zip", "out"]


def test_every_class_finds_its_folder_however_the_clips_lie_and_are_spelt() -> None:
    for name in ucf101.CLASSES:
        clip = f"v_{'HandStandPushups' if name == 'HandstandPushups' else name}_g01_c02.avi"
        for path in (clip, f"UCF101/{clip}", f"UCF-101/{name}/{clip}"):
            assert fetch.place_video(PurePosixPath(path), ucf101.CLASSES) == PurePosixPath(name, clip)
    for other in ("UCF-101/readme.txt", "__MACOSX/._v_Archery_g01_c01.avi"):
        assert fetch.place_video(PurePosixPath(other), ucf101.CLASSES) is None
