"""Hostile and broken files: each ends as done or quarantined with a reason, and nothing else happens."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import shutil
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from data_specs.names import printable
from data_specs.recipes import parse_recipe
from data_specs.stored import open_store
from pipelines.execution.dask_cluster import dask_client
from pipelines.media.encoder import write_video
from pipelines.runs.options import Options
from pipelines.store.summary import Summary, summarise
from tests.integration.test_run import ffmpeg, noise_frames
from tests.support.mutations import KINDS, NAMES, claims, mutants, references
from tests.support.saboteurs import SMALL, contents, do_on_dask
from tests.support.soak import record

QUICK, WHOLE = 20, 550  # mutants in `make test` and in `make soak`
WORKER_MB, FFMPEG_MB = 512, 768  # far below what pipelines/media/limits.py lets them have
RECIPE = parse_recipe({**SMALL.model_dump(mode="json"), "shard_clips": 16, "time_limit": 30.0}, "hostile")
REASON = re.compile(r"(transcode|motion|boxes|clips): [^\n\r\x00-\x1f]{3,330}")


@dataclass(frozen=True)
class Outside:
    """What nobody may touch: a folder with a video and a secret in it, and a port of this machine."""

    folder: Path
    video: Path
    port: int
    events: list[str]
    connections: list[str]


@contextmanager
def watched(folder: Path) -> Iterator[list[str]]:
    """The names of the files in a folder that are opened or changed meanwhile, by whatever process."""
    libc = ctypes.CDLL(None, use_errno=True)
    place = libc.inotify_init1(os.O_NONBLOCK)
    opened, changed = 0x20, 0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200
    assert libc.inotify_add_watch(place, os.fsencode(folder), opened | changed) >= 0
    events: list[str] = []
    try:
        yield events
    finally:
        raw = b""
        while True:
            try:
                raw += os.read(place, 1 << 16)
            except BlockingIOError:
                break
        os.close(place)
        while raw:
            _, mask, _, length = struct.unpack_from("iIII", raw)
            if not mask & 0x40000000:  # the folder itself: who looks for videos lists it
                events.append(raw[16 : 16 + length].rstrip(b"\0").decode(errors="replace"))
            raw = raw[16 + length :]


@contextmanager
def listening() -> Iterator[tuple[int, list[str]]]:
    """A port on loopback, and who connected to it."""
    connections: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, peer = server.accept()
                except OSError:
                    return
                connections.append(str(peer))
                connection.close()

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1], connections
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    folder = tmp_path / "outside"
    folder.mkdir()
    write_video(folder / "canary.avi", noise_frames(), 25)
    (folder / "secret.txt").write_text("CANARY-CONTENT\n")
    with listening() as (port, connections), watched(folder) as events:
        yield Outside(folder, folder / "canary.avi", port, events, connections)
    assert events == [], "a file outside was opened"
    assert connections == []


def make_source(source: Path, clips: list[Path], outside: Outside, count: int) -> set[str]:
    """Fill a source folder with hostile files; the ids of those that are whole, and must be done."""
    for kind, name, data in mutants(clips, count, seed=4):
        (source / kind).mkdir(parents=True, exist_ok=True)
        (source / kind / name).write_bytes(data)
    for name, data in references(outside.video, outside.port).items():
        (source / "references").mkdir(exist_ok=True)
        (source / "references" / name).write_bytes(data)
    (source / "claims").mkdir()
    ffmpeg(f"-i {clips[0]} -frames:v 9 -an -c:v mjpeg {outside.folder.parent}/mjpeg.avi")
    for name, data in claims((outside.folder.parent / "mjpeg.avi").read_bytes()).items():
        (source / "claims" / name).write_bytes(data)
    whole = min(clips, key=lambda clip: clip.stat().st_size)
    names = os.fsencode(source / "na-mes %d")
    os.mkdir(names)
    for name in NAMES:
        shutil.copy(whole, os.path.join(names, name))
    links = source / "links"
    links.mkdir()
    (links / "out.avi").symlink_to(outside.video)
    (links / "secret.avi").symlink_to(outside.folder / "secret.txt")
    (links / "relative.avi").symlink_to("../../outside/canary.avi")
    (links / "broken.avi").symlink_to("nowhere.avi")
    (links / "self.avi").symlink_to("self.avi")
    (links / "zero.avi").symlink_to("/dev/zero")
    (links / "folder.avi").mkdir()
    os.mkfifo(links / "fifo.avi")
    (source / "linked-class").symlink_to(outside.folder)
    (links / "inside.avi").symlink_to(Path("../na-mes %d/-y.avi"))
    return {f"na-mes %d/{printable(os.fsdecode(name)).removesuffix('.avi')}" for name in NAMES} | {"links/inside"}


def tree(*folders: Path) -> dict[str, tuple[int, int, int]]:
    """Every file and folder below some, with its size, inode and time of change."""
    found = {}
    for folder in folders:
        for path in [folder, *folder.rglob("*")]:
            about = path.lstat()
            found[os.fsdecode(bytes(path))] = (about.st_size, about.st_ino, about.st_mtime_ns)
    return found


def peak_megabytes() -> tuple[float, float]:
    """The most memory that this process, and that any program which it started, has had."""
    own = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    return own / 1024, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def run_and_check(
    options: Options, whole: set[str], outside: Outside, folder: Path, workers: int
) -> tuple[Summary, dict[str, object]]:
    """Do a run in an empty folder and check all that must hold whatever the files are; what was measured."""
    before = tree(Path(options.source), outside.folder, folder)
    with dask_client(workers=workers) as client:
        begun, processes = time.monotonic(), set(client.run(os.getpid).values())
        do_on_dask(options, client)
        seconds = time.monotonic() - begun
        assert set(client.run(os.getpid).values()) == processes, "a worker was lost, and its peak with it"
        peaks = client.run(peak_megabytes).values()
    assert tree(Path(options.source), outside.folder, folder) == before
    summary = summarise(options.store)
    assert summary.pending == 0
    assert summary.done + len(summary.quarantined) == summary.clips
    for id, reason in summary.quarantined.items():
        assert REASON.fullmatch(reason), (id, reason)
        assert not re.search(r"worker died|took longer|MemoryError|\b0x[0-9a-f]{6}|\.part|/tmp|more memory", reason), (
            id,
            reason,
        )
        assert str(outside.folder.parent) not in reason
    assert whole.isdisjoint(summary.quarantined), {id: summary.quarantined.get(id) for id in whole}
    for id in open_store(options.store).ids:
        if id.startswith(("references/", "linked-class/", "zero_length/", "enormous_size/", "claims/")):
            assert id in summary.quarantined, id
    sizes = {reason for id, reason in summary.quarantined.items() if id.startswith("enormous_size/")}
    sizes |= {reason for id, reason in summary.quarantined.items() if id.startswith("claims/")}
    assert all(re.search(r"a frame of (30000|30001|65000)x\d+ px exceeds the limit", reason) for reason in sizes), sizes
    text = b"".join(contents(Path(options.store)).values())
    assert b"CANARY-CONTENT" not in text
    own, ffmpeg_peak = (max(peak) for peak in zip(*peaks, strict=True))
    assert own < WORKER_MB
    assert ffmpeg_peak < FFMPEG_MB
    stages = Counter(reason.split(":")[0] for reason in summary.quarantined.values())
    return summary, {
        "files": summary.clips,
        "done": summary.done,
        "quarantined": dict(stages),
        "seconds": round(seconds),
        "worker MB": round(own),
        "ffmpeg MB": round(ffmpeg_peak),
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which the run is started, and which must be empty after it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_hostile_files_are_done_or_quarantined_and_nothing_outside_is_touched(
    ucf_clips: Path, outside: Outside, folder: Path, tmp_path: Path
) -> None:
    clips = sorted(ucf_clips.glob("*/*.avi"), key=lambda clip: clip.stat().st_size)[:5]
    whole = make_source(tmp_path / "source", clips, outside, QUICK)
    options = Options(str(tmp_path / "source"), str(tmp_path / "store.zarr"), recipe=RECIPE)
    summary, _ = run_and_check(options, whole, outside, folder, workers=2)
    assert summary.clips >= QUICK + 50
    assert summary.done >= len(whole) + QUICK // 4


@pytest.mark.soak
def test_hundreds_of_mutations_end_the_same_whatever_the_workers(
    ucf_clips: Path, outside: Outside, folder: Path, tmp_path: Path
) -> None:
    clips = sorted(ucf_clips.glob("*/*.avi"))
    whole = make_source(tmp_path / "source", clips, outside, WHOLE)
    options = Options(str(tmp_path / "source"), str(tmp_path / "store.zarr"), recipe=RECIPE)
    summary, facts = run_and_check(options, whole, outside, folder, workers=2)
    assert summary.clips >= WHOLE + 50
    assert len({id.split("/")[0] for id in open_store(options.store).ids}) >= len(KINDS) + 4
    other = replace(options, store=str(tmp_path / "other.zarr"))
    assert run_and_check(other, whole, outside, folder, workers=1)[0].quarantined == summary.quarantined
    assert contents(Path(other.store)) == contents(Path(options.store))
    record("hostile files", mutations=WHOLE, kinds=len(KINDS), **facts)
