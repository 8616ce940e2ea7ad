"""The real command, killed: itself, a worker, an ffmpeg; started again, it completes the store with the same bytes."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from data_specs.recipes import load_recipe
from pipelines.runs.options import Options
from tests.conftest import run_stages
from tests.places import ROOT
from tests.support.saboteurs import contents, copy_clips, descendants, records, wait_until
from tests.support.soak import record

SMALL = """
name = "small"
shard_clips = 2
[transcode]
preset = "veryfast"
[frames]
slots = 4
size = 32
"""
WORKERS, FFMPEGS = "spawn_main", "libx264"
MOMENTS = 24  # of the whole test, a third of them for each of the three


@dataclass(frozen=True)
class Command:
    """`mocrop preprocess` on six real clips, with what a run makes when nothing disturbs it."""

    folder: Path
    environment: dict[str, str]
    contents: dict[str, bytes]

    def start(self, store: Path) -> subprocess.Popen[bytes]:
        """Start it, and wait until its first stage begins."""
        log = store.with_suffix(".log")
        words = ["--source", "source", "--recipe", "small.toml", "--workers", "2", "--store", str(store)]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", "from pipelines.cli.app import main; main()", "preprocess", *words],
                cwd=self.folder, env=self.environment, stdout=output, stderr=output,
            )  # fmt: skip
        assert wait_until(lambda: "transcode: " in log.read_text() or process.poll() is not None, 120), log.read_text()
        return process

    def complete(self, store: Path) -> None:
        """Start it and see it end well."""
        process = self.start(store)
        assert process.wait(600) == 0, store.with_suffix(".log").read_text()

    def seconds(self) -> float:
        """How long its stages take when nothing disturbs it."""
        store = self.folder / "undisturbed.zarr"
        process, begun = self.start(store), time.monotonic()
        assert wait_until(lambda: all_crops_are_there(store.with_suffix(".log")) or process.poll() is not None)
        seconds = time.monotonic() - begun
        assert process.wait(600) == 0, store.with_suffix(".log").read_text()
        return seconds


@pytest.fixture(scope="module")
def command(ucf_clips: Path, prefect_server: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Command:
    folder = tmp_path_factory.mktemp("command")
    copy_clips(ucf_clips, folder / "source")
    (folder / "small.toml").write_text(SMALL)
    whole = folder / "whole.zarr"
    run_stages(Options(str(folder / "source"), str(whole), recipe=load_recipe(folder / "small.toml")))
    return Command(folder, {**prefect_server, "PYTHONPATH": str(ROOT)}, contents(whole))


def all_crops_are_there(log: Path) -> bool:
    """Whether a command has said that its last stage is through; what follows is tables, and the end of processes."""
    return "clips: 6 of 6" in log.read_text()


def kill_one(process: subprocess.Popen[bytes], whom: str, rng: random.Random) -> bool:
    """Kill the command, or any one of its workers or ffmpegs; whether there was one. With it go all below it."""
    below = descendants(process.pid, "")
    victims = {
        "command": [psutil.Process(process.pid)],
        "worker": descendants(process.pid, WORKERS),
        "ffmpeg": descendants(process.pid, FFMPEGS),
    }[whom]
    if not victims:
        return False
    victim = rng.choice(victims)
    below = below if whom == "command" else descendants(victim.pid, "")
    try:
        victim.kill()
    except psutil.NoSuchProcess:
        return False
    if whom == "command":
        process.wait(600)
    _, left = psutil.wait_procs(below, 60)
    assert not left, f"they outlived the {whom}: {left}"
    return True


def check(command: Command, seconds: float, whom: str, seed: int, store: Path) -> bool:
    """Kill at a random moment, start again where it ended for that; whether there was something to kill."""
    rng = random.Random(f"{whom} {seed}")
    process = command.start(store)
    moment = time.monotonic() + seconds * rng.uniform(0, 0.8 if whom != "ffmpeg" else 0.25)
    wait_until(lambda: time.monotonic() >= moment or process.poll() is not None, 300)
    if whom == "ffmpeg":
        wait_until(lambda: descendants(process.pid, FFMPEGS) or process.poll() is not None, 20)
    killed = process.poll() is None and kill_one(process, whom, rng)
    if whom != "command":
        assert process.wait(600) == 0, store.with_suffix(".log").read_text()
    finished = records(store)
    command.complete(store)
    assert contents(store) == command.contents
    assert finished.items() <= records(store).items(), "a finished shard was done again"
    assert not [*store.rglob("*.partial"), *Path(f"{store}.work").rglob("*.part")]
    return killed


@pytest.mark.soak
def test_killed_in_its_middle_the_command_takes_all_its_processes_along_and_goes_on(
    command: Command, tmp_path: Path
) -> None:
    store = tmp_path / "store.zarr"
    process = command.start(store)
    assert wait_until(lambda: descendants(process.pid, FFMPEGS))
    assert kill_one(process, "command", random.Random(0))
    finished = records(store)
    command.complete(store)
    assert contents(store) == command.contents
    assert finished.items() <= records(store).items()


@pytest.mark.soak
def test_the_command_a_worker_or_an_ffmpeg_killed_at_24_random_moments(command: Command, tmp_path: Path) -> None:
    killed: Counter[str] = Counter()
    seconds = command.seconds()
    for seed in range(MOMENTS // 3):
        for whom in ("command", "worker", "ffmpeg"):
            killed[whom] += check(command, seconds, whom, seed, tmp_path / f"{whom}{seed}.zarr")
    assert killed.total() >= 20
    record("mocrop preprocess killed at random moments", killed=dict(killed), runs=2 * MOMENTS)
