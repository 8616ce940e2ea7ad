"""Fixtures: the real clips, and stores made from them once a session."""

from __future__ import annotations

import fcntl
import gc
import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from pipelines.acquire.synthetic import write_dataset
from pipelines.cli import app
from pipelines.execution.prefect_server import throwaway
from pipelines.execution.process_setup import environment_restored
from pipelines.media.ffmpeg_binary import find_ffmpeg
from pipelines.runs.opening import open_run
from pipelines.runs.options import Options
from pipelines.stages.scratch import on_scratch
from pipelines.stages.shard_task import process_shard
from pipelines.store.summary import Summary
from tests.places import DATA

# a shell's background jobs ignore it, and so would every command that a test interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)
# set before torch is imported: threads of several tests that share the cores wait for each other, and the sums that
# they make depend on how many there are
os.environ["OMP_NUM_THREADS"] = "1"
# the same examples everywhere, none kept from a run before, and none that fails for the time it took
settings.register_profile("tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")
# the libraries that the tests import take a quarter longer with garbage collection, which frees nothing
gc.disable()


def pytest_collection_finish() -> None:
    """Collect garbage again from here on, but pass over what the tests have imported: that stays to the end."""
    gc.freeze()
    gc.enable()


def run_stages(options: Options) -> tuple[Summary, list[str]]:
    """Do a run in this process, without Prefect and Dask; where the store stands, and the stages of the tasks done."""
    done = []
    with open_run(options) as run:
        for stage in run.passes:
            for plan in run.pending(stage):
                with on_scratch(plan) as placed:
                    report = process_shard(placed, run.recipe)
                run.finished(report)
                done.append(report.stage)
        return run.publish(), done


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that is made by the first process of a test run that needs it, for all of them, to be read only."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, whole = shared / name, shared / f"{name}.whole"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of one that failed
            folder.mkdir()
            make(folder)
            whole.touch()
    return folder


@pytest.fixture(autouse=True)
def _left_as_found() -> Iterator[None]:
    """Put the environment and the working directory back after each test: a command in this process changes them."""
    folder = Path.cwd()
    with environment_restored():
        yield
    os.chdir(folder)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder with UCF-101/, ucfTrainTestlist/ and annotations/."""
    if not (DATA / "UCF-101").is_dir():
        pytest.fail(f"the test clips are missing: no folder UCF-101 in {DATA}; set MOCROP_TEST_DATA")
    return DATA


@pytest.fixture(scope="session")
def ucf_clips(data: Path) -> Path:
    """The folder of class folders with 15 real clips."""
    return data / "UCF-101"


@pytest.fixture(scope="session")
def ucf_options(data: Path) -> Options:
    """What to ask for with the real clips; the store is named by each test."""
    return Options(str(data / "UCF-101"), "", str(data / "ucfTrainTestlist"), "smoke")


@pytest.fixture(scope="session")
def _ucf_store(ucf_options: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(folder: Path) -> None:
        summary, _ = run_stages(replace(ucf_options, store=str(folder / "ucf.zarr")))
        assert summary.done == 15

    return made_once(tmp_path_factory, "ucf", make) / "ucf.zarr"


@pytest.fixture(scope="session")
def ucf_store(_ucf_store: Path) -> Path:
    """A store of the real clips with the recipe smoke, for reading only."""
    return _ucf_store


@pytest.fixture
def own_ucf_store(_ucf_store: Path, tmp_path: Path) -> Path:
    """A copy of it, with its work folder beside it, to do with as one likes."""
    for name in ("ucf.zarr", "ucf.zarr.work"):
        shutil.copytree(_ucf_store.parent / name, tmp_path / name)
    return tmp_path / "ucf.zarr"


LONG = (
    ("Archery", "v_Archery_g01_c01"),
    ("Bowling", "v_Bowling_g01_c01"),
    ("JugglingBalls", "v_JugglingBalls_g01_c01"),
)


@pytest.fixture(scope="session")
def long_video(ucf_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 4 s at 25 fps, made of three real clips, as H.264 with B-frames and few key frames."""

    def make(folder: Path) -> None:
        clips = [word for label, clip in LONG for word in ("-i", str(ucf_clips / label / f"{clip}.avi"))]
        parts = "".join(f"[{number}:v]trim=end_frame=40,setpts=N/25/TB[v{number}];" for number in range(3))
        joined = f"{parts}[v0][v1][v2]concat=n=3,trim=end_frame=100,fps=25"
        encode = ["-c:v", "libx264", "-preset", "veryfast", "-bf", "2", "-g", "40", "-threads", "1"]
        command = [
            find_ffmpeg().path,
            "-v",
            "error",
            *clips,
            "-filter_complex",
            joined,
            *encode,
            str(folder / "long.mp4"),
        ]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)

    return made_once(tmp_path_factory, "long", make) / "long.mp4"


@pytest.fixture(scope="session")
def synth_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic data set: 3 classes, 4 clips each."""
    return made_once(
        tmp_path_factory, "synth", lambda folder: write_dataset(folder, classes=3, clips_per_class=4, frames=24)
    )


@pytest.fixture(scope="session")
def synth_store(synth_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the synthetic data set with the recipe smoke, for reading only."""

    def make(folder: Path) -> None:
        source, splits = str(synth_data / "UCF-101"), str(synth_data / "ucfTrainTestlist")
        summary, _ = run_stages(Options(source, str(folder / "synth.zarr"), splits, "smoke"))
        assert summary.done == 12

    return made_once(tmp_path_factory, "synth-store", make) / "synth.zarr"


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it wrote."""

    status: int
    out: str
    err: str


@pytest.fixture
def mocrop_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run ``mocrop`` with some words in this process, which saves the second that a new one takes to import it all."""

    def run(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["mocrop", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        capsys.readouterr()
        try:
            app.main()
            status: object = 0
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        return Said(int(str(status or 0)), out, err)

    return run


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of commands that record their runs on a server for all tests, as each would start one (6 s)."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    home = {"PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")), "DO_NOT_TRACK": "1"}
    with throwaway() as child:
        url = child.when_ready()
        yield {**kept, **home, "PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": str(child.secret)}


@pytest.fixture(scope="session")
def do_run() -> Callable[[Options], tuple[Summary, list[str]]]:
    """``run_stages``, for tests in other modules."""
    return run_stages
