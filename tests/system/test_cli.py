"""The command line as a person uses it: the real program, its output, its exit status."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer.main
import zarr
from rich.console import Console
from typer.testing import CliRunner

import data_specs
from data_specs.stored import open_store
from pipelines import flow_runs
from pipelines.cli import demo, doctor, progress_bars
from pipelines.cli.app import app
from pipelines.errors import RunError
from pipelines.media.ffmpeg_binary import find_ffmpeg
from pipelines.report.page import LARGEST
from pipelines.runs.options import Options
from tests.conftest import Said, run_stages
from tests.integration.test_report_file import document_of
from tests.support.rewriting import rewrite
from tests.support.saboteurs import wait_until
from training import probe, train

MOCROP = Path(sys.executable).with_name("mocrop")


def mocrop(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the program and wait for it."""
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [MOCROP, *map(str, arguments)], capture_output=True, text=True, timeout=600, **options
    )


@pytest.fixture
def refused(mocrop_here: Callable[..., Said]) -> Callable[..., str]:
    """The one line on standard error of a command that is refused."""

    def line(*words: object) -> str:
        found = mocrop_here(*words)
        assert (found.status, found.out) == (1, ""), found
        assert found.err.startswith("mocrop: ")
        assert found.err.count("\n") == 1
        return found.err

    return line


def test_help_names_every_command_and_gives_examples() -> None:
    out = mocrop("--help").stdout
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    own = CliRunner()
    assert len(commands) >= 14
    for command in commands:
        assert f"  {command} " in out
        assert f"Example: mocrop {command}" in own.invoke(app, [command, "--help"]).stdout


def test_help_names_the_size_from_which_on_a_page_needs_all() -> None:
    assert f"more than {LARGEST // 1_000_000} MB" in " ".join(
        CliRunner().invoke(app, ["report", "--help"]).stdout.split()
    )


def test_the_doctor_ends_with_status_1_where_something_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = doctor.Check("torch with torchvision", True, "not installed", absent=True)  # importing it takes seconds
    monkeypatch.setattr(doctor, "torch_check", lambda: torch)
    healthy = CliRunner().invoke(app, ["doctor", "--json"])
    assert healthy.exit_code == 0, healthy.stdout
    assert [check["name"] for check in json.loads(healthy.stdout) if not check["ok"] or check["remedy"]] == []
    monkeypatch.setenv("MOCROP_FFMPEG", "/bin/false")
    broken = CliRunner().invoke(app, ["doctor"])
    assert broken.exit_code == 1
    lines = broken.stdout.splitlines()
    (wrong,) = [number for number, line in enumerate(lines) if line.startswith("WRONG")]
    assert lines[wrong].startswith("WRONG  ffmpeg: ")
    assert "-      torch with torchvision: not installed" in lines
    assert lines[wrong + 1].startswith("       → ")


def test_version_names_what_matters(mocrop_here: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    out = mocrop("--version").stdout
    assert all(name in out for name in ("mocrop ", "av ", "pillow ", "zarr ", "prefect ", "dask "))
    assert out.endswith(f", {find_ffmpeg().build}\n")
    monkeypatch.setenv("MOCROP_FFMPEG", "none")
    without = mocrop_here("--version")
    assert without.status == 0
    assert without.out.endswith("no usable ffmpeg (run mocrop doctor)\n")


def test_plan_measures_and_writes_nothing(data: Path, tmp_path: Path, mocrop_here: Callable[..., Said]) -> None:
    store = tmp_path / "x.zarr"
    result = mocrop_here("plan", "--source", data / "UCF-101", "--splits", data / "ucfTrainTestlist", "--store", store,
                         "--recipe", "smoke", "--json")  # fmt: skip
    assert result.status == 0, result.err
    plan = json.loads(result.out)
    assert (plan["clips"], plan["clips_left"], plan["shards"]) == (15, 15, 4)
    assert plan["splits"] == {"1": [5, 10, 0], "2": [14, 1, 0], "3": [12, 3, 0]}
    assert plan["seconds"] > 0
    assert plan["store_bytes"] > 100_000
    assert len(plan["sample"]) == 3
    assert list(tmp_path.iterdir()) == []


def test_preprocess_builds_a_store_and_refuses_another_source_for_it(
    data: Path, tmp_path: Path, prefect_server: dict[str, str], refused: Callable[..., str]
) -> None:
    source = tmp_path / "source"
    for name in ("Archery", "Bowling"):
        shutil.copytree(data / "UCF-101" / name, source / name)
    for name in ("notes.txt", ".x.mp4"):
        (source / "Archery" / name).touch()
    arguments = ("preprocess", "--source", source, "--store", tmp_path / "s.zarr", "--recipe", "smoke", "--json")
    first = mocrop(*arguments, env=prefect_server)
    assert first.returncode == 0, first.stderr
    assert "transcode: 2 of 2 clips" in first.stderr
    summary = json.loads(first.stdout)
    assert (summary["clips"], summary["done"], summary["quarantined"]) == (2, 2, {})
    assert [(one["kind"], one["count"]) for one in summary["passed_over"]] == [("suffix", 1), ("hidden", 1)]
    assert "warning: 1 passed over, hidden: 'Archery/.x.mp4'" in first.stderr
    for name in ("notes.txt", ".x.mp4"):
        (source / "Archery" / name).unlink()
    (source / "Archery/broken.avi").write_text("x" * 99)
    assert "the source 3 ('Archery/broken' is new)" in refused(*arguments)


@pytest.mark.soak
def test_a_new_view_is_announced_with_what_it_takes(data: Path, tmp_path: Path, prefect_server: dict[str, str]) -> None:
    shutil.copytree(data / "UCF-101/Archery", tmp_path / "source/Archery")
    store = tmp_path / "s.zarr"
    run_stages(Options(str(tmp_path / "source"), str(store), recipe="smoke"))
    made = sorted(tmp_path.glob("s.zarr.work/h264/Archery/*.mp4"))
    assert len(made) == 1
    shutil.rmtree(tmp_path / "s.zarr.work")
    wider = (Path(data_specs.__file__).parent / "smoke.toml").read_text()
    (tmp_path / "wider.toml").write_text(f'{wider}\n[[views]]\nname = "half"\nkind = "centre"\ncrop_ratio = 0.5\n')
    found = mocrop("preprocess", "--source", tmp_path / "source", "--store", store, "--recipe", tmp_path / "wider.toml",
                   "--verbose", env=prefect_server)  # fmt: skip
    assert found.returncode == 0, found.stderr
    notice = "adding to the store: half, from the stored vectors; missing H.264 files are made again"
    lines = [line for line in found.stderr.splitlines() if line.endswith(notice)]
    assert lines[0] == notice
    assert len(lines) == 2, "once by the command, once in the flow's log"
    assert sorted(tmp_path.glob("s.zarr.work/h264/Archery/*.mp4")) == made


@pytest.mark.soak
def test_too_many_quarantined_clips_end_a_run_with_status_1(
    data: Path, tmp_path: Path, prefect_server: dict[str, str]
) -> None:
    source = tmp_path / "source"
    shutil.copytree(data / "UCF-101/Archery", source / "Archery")
    (source / "Archery/broken.avi").write_text("x" * 99)
    arguments = ("--source", source, "--store", tmp_path / "s.zarr", "--recipe", "smoke")
    failed = mocrop("preprocess", *arguments, "--json", env=prefect_server)
    assert failed.returncode == 1
    assert "1 of 2 clips are quarantined, more than --max-quarantined 0.05 allows" in failed.stderr
    assert list(json.loads(failed.stdout)["quarantined"]) == ["Archery/broken"]
    status = json.loads(mocrop("status", tmp_path / "s.zarr", "--json").stdout)
    assert (status["done"], list(status["quarantined"])) == (1, ["Archery/broken"])
    assert status["quarantined"]["Archery/broken"].startswith("transcode: ")
    assert mocrop("preprocess", *arguments, "--max-quarantined", "0.5", env=prefect_server).returncode == 0


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.soak)]
)
def test_a_run_that_is_stopped_says_that_it_can_go_on(
    data: Path,
    tmp_path: Path,
    prefect_server: dict[str, str],
    mocrop_here: Callable[..., Said],
    number: signal.Signals,
    status: int,
) -> None:
    words = ["preprocess", "--source", data / "UCF-101", "--store", tmp_path / "s.zarr", "--workers", 1]
    with subprocess.Popen([MOCROP, *map(str, words)], env=prefect_server, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any(line.startswith("transcode: ") for line in lines)
        process.send_signal(number)
        said = "".join(lines)
        assert process.wait(600) == status, said
    assert said.endswith("mocrop: stopped; completed work is kept, run the same command again to resume\n")
    assert "Traceback" not in said
    assert json.loads(mocrop_here("status", tmp_path / "s.zarr", "--json").out)["clips"] == 15


def test_a_crop_that_is_stopped_says_that_no_video_was_written(data: Path, tmp_path: Path) -> None:
    tool, began = tmp_path / "ffmpeg", tmp_path / "began"
    tool.write_text(
        f'#!/bin/sh\ncase "$*" in *-progress*) : > {began}; exec sleep 600;; esac\nexec {find_ffmpeg().path} "$@"\n'
    )
    tool.chmod(0o755)
    source = next((data / "UCF-101").glob("*/*.avi"))
    environment = {**os.environ, "MOCROP_FFMPEG": str(tool)}
    words = [MOCROP, "crop", str(source), str(tmp_path / "out.mp4"), "--method", "paper-v1"]
    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert wait_until(began.exists)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.endswith("mocrop: stopped; no video was written\n")
    assert not list(tmp_path.glob("out*"))


def test_boxes_come_as_table_json_and_csv(mocrop_here: Callable[..., Said], ucf_store: Path) -> None:
    rows = json.loads(mocrop_here("boxes", ucf_store, "--view", "mocrop", "--json").out)
    assert len(rows) == 15
    assert {"id", "view", "x0", "y0", "x1", "y1", "area", "score", "source"} <= set(rows[0])
    text = mocrop_here("boxes", ucf_store, "--csv").out
    assert len(list(csv.DictReader(text.splitlines()))) == 60
    table = mocrop_here("boxes", ucf_store, "--clip", rows[0]["id"]).out
    assert table.count(rows[0]["id"]) == 4


def test_verify_ends_with_status_1_and_a_list(own_ucf_store: Path, mocrop_here: Callable[..., Said]) -> None:
    assert mocrop_here("verify", own_ucf_store).status == 0
    chunk = own_ucf_store / "views/full/frames/c.1.0.0.0.0"
    rewrite(chunk, chunk.read_bytes()[:-5])
    result = mocrop_here("verify", own_ucf_store, "--json")
    assert result.status == 1
    assert json.loads(result.out)[0]["where"] == "views/full/frames/c.1.0.0.0.0"


def test_density_maps_are_exported_where_the_reference_looks_for_them(
    ucf_store: Path, tmp_path: Path, mocrop_here: Callable[..., Said]
) -> None:
    assert mocrop_here("export-npy", ucf_store, tmp_path).status == 0
    path = tmp_path / "Archery/v_Archery_g01_c01/motion_vectors_denoised_all_mc_6_8.npy"
    density = np.load(path, allow_pickle=False)
    assert (density.shape, density.dtype) == ((6, 8), np.float32)
    assert density.sum() > 1000
    assert len(list(tmp_path.rglob("*.npy"))) == 15


@pytest.mark.parametrize("id", ["../../outside/x", "/{}/outside/x", "a/../../outside/x"])
def test_an_id_that_leads_out_of_the_folder_is_not_exported(
    refused: Callable[..., str], own_ucf_store: Path, tmp_path: Path, id: str
) -> None:
    ids = zarr.open_group(own_ucf_store, mode="r+")["id"]
    names = ids[:]
    names[-1] = id.format(tmp_path)
    ids[:] = names
    line = refused("export-npy", own_ucf_store, tmp_path / "npy")
    assert "is damaged" in line
    assert repr(names[-1][:60]) in line
    assert list(tmp_path.rglob("*.npy")) == []


def test_synth_writes_a_data_set_that_preprocess_takes(tmp_path: Path, mocrop_here: Callable[..., Said]) -> None:
    made = json.loads(mocrop_here("synth", tmp_path / "toy", "--classes", 2, "--clips-per-class", 3, "--json").out)
    assert made["clips"] == 6
    plan = mocrop_here("plan", "--source", made["source"], "--splits", made["splits"], "--store", tmp_path / "s.zarr")
    assert "6 clips, 2 classes" in plan.out


def test_the_demo_ends_with_a_page_of_its_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """First without torch, then with the commands of training only looked at, the stages by no Dask."""
    monkeypatch.setattr(flow_runs, "run_here", lambda options, show: run_stages(options)[0])
    out = tmp_path / "demo"
    monkeypatch.setattr(demo, "CLIPS_PER_CLASS", 3)
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    shown = CliRunner().invoke(app, ["demo", "--out", str(out)])
    assert shown.exit_code == 0, shown.exception
    lines = shown.stdout.splitlines()
    assert [line[:2] for line in lines] == ["1.", "2.", "3.", "4.", "Ne"]
    assert "no training and no probe" in lines[3]
    assert str(out / "report.html") in lines[-1]
    document = document_of(out / "report.html")
    assert document["head"]["states"] == {"pending": 0, "done": 12, "quarantined": 0}
    assert len(document["actors"]["rows"]) == 12

    store, ran = out / "synth.zarr", []
    assert open_store(store).views == ["full", "centre", "mocrop", "centre-50", "actor"]
    monkeypatch.setattr(demo, "find_spec", lambda name: name)
    monkeypatch.setattr(demo, "run_training", lambda module, *words: ran.append((module, words)))
    demo.run_demo(out, say=lines.append)
    (out / "training").mkdir()
    (out / "training" / "last.pt").touch()
    demo.run_demo(out, say=lines.append)
    assert [module for module, _ in ran] == ["train", "probe"] * 2
    for module, words in ran:
        args = {"train": train, "probe": probe}[module].parser().parse_args(words)
        assert (args.store, args.arch) == (str(store), {"train": "efficientnet_lite0", "probe": None}[module])
        assert Path(args.output_dir).parent == out
    assert ["--resume" in words for _, words in ran] == [False, False, True, False]


def test_the_demo_names_the_command_that_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"python -m training\.probe ended with status 2; see its output above"):
        demo.run_training("probe", "--store")


@pytest.mark.soak
def test_the_demo_probes_real_weights_and_a_box_on_the_actor_beats_the_whole_frame(
    tmp_path: Path, mocrop: Callable[..., Said]
) -> None:
    """As a user runs it, from nothing: what a whole frame tells is near chance by construction, a crop tells more."""
    out = tmp_path / "demo"
    said = mocrop("demo", "--out", out, timeout=1200)
    assert said.status == 0, said.err
    (result,) = (json.loads(path.read_text()) for path in (out / "probe").glob("*.json"))
    rows = {row["view"]: row for row in result["rows"]}
    assert result["weights"]["path"] is None
    assert rows["actor"]["low"] > rows["full"]["high"]
    assert rows["actor"]["from_centre"]["low"] > 0
    assert f"{rows['actor']['top1']:.1f} ± " in said.out
    epochs = list(csv.DictReader((out / "training" / "metrics.csv").open()))
    assert float(epochs[-1]["train_loss"]) < float(epochs[0]["train_loss"])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["preprocess", "--source", "gone", "--store", "s.zarr"], "source 'gone': no such folder"),
        (["plan", "--source", "gone", "--store", "s.zarr"], "source 'gone': no such folder"),
        (["status", "gone.zarr"], "store 'gone.zarr': no such store"),
        (["verify", "gone.zarr"], "store 'gone.zarr': no such store"),
        (["boxes", "gone.zarr"], "store 'gone.zarr': no such store"),
        (["export-npy", "gone.zarr", "npy"], "store 'gone.zarr': no such store"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(refused: Callable[..., str], arguments: list[str], line: str) -> None:
    assert line in refused(*arguments)


def test_views_and_clips_that_are_not_there_are_named(refused: Callable[..., str], ucf_store: Path) -> None:
    assert "there are: full, centre, random, mocrop" in refused("boxes", ucf_store, "--view", "zoom")
    for mistyped in ("archery", "Archery/v_Archery_g1_c01"):
        assert "did you mean Archery/v_Archery_g01_c01?" in refused("boxes", ucf_store, "--clip", mistyped)
    assert "has no density map" in refused("export-npy", ucf_store, "npy", "--view", "full")


def test_a_flag_that_cannot_be_ends_with_status_2(mocrop_here: Callable[..., Said]) -> None:
    result = mocrop_here("preprocess", "--source", "x", "--store", "y", "--max-quarantined", "2")
    assert result.status == 2
    assert "--max-quarantined" in result.err


def test_commands_that_write_videos_name_an_ffmpeg_that_cannot(
    refused: Callable[..., str], ucf_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOCROP_FFMPEG", "/bin/false")
    id = "Archery/v_Archery_g01_c01"
    commands = [
        ("synth", tmp_path / "toy"),
        ("demo", "--out", tmp_path / "demo"),
        ("boxes", ucf_store, "--clip", id, "--video", tmp_path / "x.mp4"),
    ]
    lines = [refused(*command) for command in commands]
    assert len(lines) == 3
    assert all(line.startswith("mocrop: MOCROP_FFMPEG names a program that cannot be run") for line in lines), lines


def test_a_video_whose_h264_is_damaged_is_refused_in_one_line(
    refused: Callable[..., str], own_ucf_store: Path, tmp_path: Path
) -> None:
    id = "Archery/v_Archery_g01_c01"
    (h264,) = own_ucf_store.with_name("ucf.zarr.work").glob(f"h264/{id}-*.mp4")
    rewrite(h264, b"x" * 1000)
    line = refused("boxes", own_ucf_store, "--clip", id, "--video", tmp_path / "x.mp4")
    assert "it is not a video, or too damaged to be opened" in line


def test_an_ffmpeg_without_libx264_is_refused(data: Path, tmp_path: Path) -> None:
    fake = tmp_path / "ffmpeg"
    without = 'case "$*" in *libx264*) echo "Unknown encoder \'libx264\'" >&2; exit 1;; esac'
    fake.write_text(f"#!/bin/sh\n{without}\necho 'ffmpeg version 7.1'\n")
    fake.chmod(0o755)
    result = mocrop("preprocess", "--source", data / "UCF-101", "--store", tmp_path / "s.zarr",
                    env={"MOCROP_FFMPEG": str(fake), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)})  # fmt: skip
    assert result.returncode == 1
    assert "libx264" in result.stderr
    assert "Traceback" not in result.stderr


def test_what_is_counted_shows_rate_and_time_left_on_a_terminal_and_plain_lines_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(progress_bars, "console", Console(file=terminal, force_terminal=True, width=120))
    with progress_bars.count_progress("verify", "records") as show:
        for done in range(1, 4):
            show(done, 10)
            time.sleep(0.02)
    assert "3/10" in terminal.getvalue()
    assert re.search(r"\d+\.\d records/s", terminal.getvalue())

    monkeypatch.setattr(progress_bars, "console", Console(file=io.StringIO()))
    monkeypatch.setattr(progress_bars, "PLAIN_SECONDS", 0.0)
    with progress_bars.count_progress("verify", "records") as show:
        for done in range(1, 4):
            show(done, 3)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"verify: {done} of 3 records" for done in range(1, 4)]
