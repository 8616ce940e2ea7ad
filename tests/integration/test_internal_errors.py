"""An error in our own code stops the run: no clip is quarantined, and a log file has the traceback.

What a child wrote to standard error is kept as well.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_specs.recipes import parse_recipe
from pipelines.cli import app
from pipelines.errors import RunError
from pipelines.execution.dask_cluster import dask_client
from pipelines.execution.worker import attempt
from pipelines.internal_errors import InternalError, Tail, record
from pipelines.runs.opening import open_run
from pipelines.runs.options import Options
from pipelines.stages import boxes
from pipelines.stages.shard_task import process_shard
from pipelines.store.summary import summarise
from tests.conftest import run_stages
from tests.places import SABOTAGE
from tests.support.saboteurs import SMALL, copy_clips, do_on_dask

CLIPS = ("Archery/v_Archery_g01_c01", "Biking/v_Biking_g05_c02", "VolleyballSpiking/v_VolleyballSpiking_g01_c01")
ONE_BY_ONE = parse_recipe({**SMALL.model_dump(mode="json"), "shard_clips": 1}, "one by one")


@pytest.fixture
def options(ucf_clips: Path, tmp_path: Path) -> Options:
    """Three real clips, each a shard of its own."""
    source = copy_clips(ucf_clips, tmp_path / "source", CLIPS)
    return Options(str(source), str(tmp_path / "store.zarr"), recipe=ONE_BY_ONE)


def logs(options: Options) -> list[Path]:
    return sorted(Path(f"{options.store}.work", "logs").glob("*"))


def test_an_error_in_a_worker_stops_the_run_with_its_traceback_and_quarantines_nothing(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(SABOTAGE))
    monkeypatch.setenv("MOCROP_SABOTAGE", "extract raises v_Biking")
    with dask_client(workers=1) as client, pytest.raises(RunError) as stopped:
        do_on_dask(options, client)
    line = str(stopped.value)
    (log,) = logs(options)
    assert re.fullmatch(
        rf"internal error at clip {CLIPS[1]}, stage motion, shard 1: KeyError: 'a name that our code has wrong' "
        rf"\(sitecustomize\.py:\d+\); this is a bug in mocrop, not in a clip: please report it with {log}; "
        "completed work is kept",
        line,
    )
    text = log.read_text()
    assert "Traceback (most recent call last):" in text
    assert "in sabotaged" in text
    assert "numpy " in text
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    (tries,) = Path(f"{options.store}.work").rglob("*.died")
    assert tries.read_text() == "x", "an error in our own code comes again: one attempt is enough"
    summary = summarise(options.store)
    assert (summary.pending, summary.quarantined) == (3, {})
    assert summary.stages["transcode"] == (3, 3), "what was done is kept"
    monkeypatch.delenv("MOCROP_SABOTAGE")
    summary, done = run_stages(options)
    assert (summary.done, done.count("transcode")) == (3, 0)


@pytest.mark.parametrize("kind", [KeyError, TypeError, AssertionError, ZeroDivisionError, ValueError, RuntimeError])
def test_an_error_of_any_kind_is_told_from_a_fault_of_the_clip(
    options: Options, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: Any) -> Any:
        raise kind("two\nlines")

    monkeypatch.setattr(boxes, "choose_box_from", wrong)
    with open_run(replace(options, limit=1)) as run:
        for stage in ("transcode", "motion"):
            for plan in run.pending(stage):
                process_shard(plan, run.recipe)
        (plan,) = run.pending("boxes")
        found = attempt(plan, run.recipe)
        assert found.internal is not None
        assert found.internal.clip == plan.clips[0].id
        assert found.internal.what.startswith(f"{kind.__name__}: ")
        assert re.search(r"two(\\n| )lines", found.internal.what)
        assert "in wrong" in found.internal.traceback
        assert run.summary().quarantined == {}


def test_a_source_file_that_the_disk_cannot_read_is_quarantined(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    real = hashlib.file_digest

    def bad_sector(file: Any, digest: str) -> Any:
        if "v_Archery" in file.name and file.name.endswith(".avi"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(file, digest)

    monkeypatch.setattr(hashlib, "file_digest", bad_sector)
    summary, _ = run_stages(options)
    assert summary.quarantined == {CLIPS[0]: "transcode: OSError: Input/output error"}
    assert summary.done == 2


def test_a_work_folder_that_fails_is_no_fault_of_the_clip(options: Options) -> None:
    with open_run(options) as run:
        plan, *_ = run.pending("transcode")
        work = Path(f"{options.store}.work")
        (work / "h264").mkdir(parents=True, exist_ok=True)
        (work / "h264" / "Archery").touch()  # a file where a folder has to be
        found = attempt(plan, run.recipe)
        assert found.internal is None
        assert re.match(r"(FileExists|NotADirectory)Error: .*/h264/Archery'", found.error)
        assert run.summary().quarantined == {}


def test_a_process_that_cannot_start_is_told_by_its_own_words(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "numpy.py").write_text("raise ImportError('libblas.so.3: cannot open shared object file')\n")
    with open_run(options) as run:
        plan, *_ = run.pending("transcode")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
        found = attempt(replace(plan, apart=True), run.recipe)
    assert found.died
    last = "ImportError: libblas.so.3: cannot open shared object file"
    assert found.error == f"the shard's separate process died between clips: {last}"
    assert found.stderr.count("ended between clips, with status 1") == 3
    assert "Traceback" in found.stderr


def test_an_internal_error_of_a_process_of_its_own_comes_back_whole(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(SABOTAGE))
    monkeypatch.setenv("MOCROP_SABOTAGE", "extract raises v_Archery")
    with open_run(options) as run:
        plan, *_ = run.pending("transcode")
        process_shard(plan, run.recipe)
        plan, *_ = run.pending("motion")
        found = attempt(replace(plan, apart=True), run.recipe)
    assert found.internal is not None
    assert found.internal.clip == CLIPS[0]
    assert "in sabotaged" in found.internal.traceback


def test_a_command_that_fails_by_our_fault_prints_one_line_that_names_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(store: str, known: object) -> Any:
        raise IndexError("list index out of range")

    monkeypatch.setattr("pipelines.store.summary.summarise", wrong)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["mocrop", "status", "x.zarr"])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 1
    (log,) = tmp_path.glob("internal-error-*.log")
    assert "in wrong" in log.read_text()
    error = capsys.readouterr().err
    assert error.startswith("mocrop: internal error: IndexError: list index out of range (test_internal_errors.py:")
    assert str(log) in error
    assert error.count("\n") == 1


def test_a_log_folder_that_cannot_be_written_is_replaced_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    line = record(InternalError("KeyError", "", "Traceback"), tmp_path / "file" / "logs")
    (log,) = (tmp_path / "tmp").iterdir()
    assert str(log) in line
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    line = record(InternalError("KeyError", "", "Traceback:\n  in wrong\n"), None)
    assert "please report it with Traceback: in wrong; completed" in line


def test_the_standard_error_of_a_child_is_kept_in_bounded_memory(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"x" * 10_000_000 + b"\n" + b"line\n" * 10_000 + b"the last \xff\n\n")
    tail = Tail()
    with (tmp_path / "long").open("rb") as stream:
        tail.read(stream)
    assert tail.last_line == r"the last \xff"
    assert 500 < len(tail.text) < 400_000
