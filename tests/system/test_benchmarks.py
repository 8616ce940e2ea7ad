"""The benchmarks run, and say what they measured; what they find is for `make bench`, not for a test."""

from __future__ import annotations

import json
import re
from collections import Counter
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.media.encoder import EncodeSettings
from tests.benchmarks import __main__ as command
from tests.benchmarks import encoder_presets, on_gpu
from tests.benchmarks.__main__ import NAMES, RESULTS, main
from tests.benchmarks.measuring import REPETITIONS, Result, interleaved, least, machine, most, run_command
from tests.support import soak

SLOW = {
    "whole_flow",
    "tls",
    "scaling",
    "scale",
    "memory",
    "loader",
    "motion_stream",
    "motion_vectors",
}  # those that take over five seconds
FIELDS = {"name", "unit", "median", "lowest", "highest", "repetitions", "samples", "target", "verdict", "remark"}


def test_every_benchmark_can_be_run() -> None:
    """The slow ones are in `make soak` alone: this sees at least that what they are made of is still there."""
    assert len(NAMES) > len(SLOW) > 0
    for name in NAMES:
        assert list(signature(import_module(f"tests.benchmarks.{name}").run).parameters) == ["quick"]


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=[pytest.mark.soak] if each in SLOW else []) for each in NAMES]
)
@pytest.mark.usefixtures("data")
def test_a_benchmark_runs_in_little_and_has_the_lines_of_its_kept_result(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--quick", "--only", name, "--out", str(tmp_path)])
    found = json.loads((tmp_path / f"{name}.json").read_text())
    assert found["command"] == f"python -m tests.benchmarks --quick --only {name}"
    assert found["machine"]["cores"] >= 1
    assert found["lines"]
    shown = capsys.readouterr().out
    for line in found["lines"]:
        assert line.keys() >= FIELDS
        assert line["lowest"] <= line["median"] <= line["highest"]
        assert line["name"] in shown
    kept = json.loads((RESULTS / f"{name}.json").read_text())
    missing = Counter(map(_whatever_size, found["lines"])) - Counter(map(_whatever_size, kept["lines"]))
    assert not missing


@pytest.mark.parametrize("name", NAMES)
def test_a_kept_result_is_whole(name: str) -> None:
    kept = json.loads((RESULTS / f"{name}.json").read_text())
    assert kept["command"].startswith(
        (f"python -m tests.benchmarks --only {name}", f"python -m tests.benchmarks.{name} ")
    )
    assert kept["machine"].keys() >= machine().keys()
    for line in kept["lines"]:
        assert line.keys() >= FIELDS
        assert line["repetitions"] == len(line["samples"])
        assert line["repetitions"] >= REPETITIONS or line["unit"] not in ("times", "%", "clips/s"), line["name"]


def _whatever_size(line: dict[str, Any]) -> tuple[str, str]:
    """A line's name, without the numbers that depend on the size of a run, and its unit."""
    return re.sub(r"\d[\d.,]*", "#", line["name"]), line["unit"]


def test_every_repetition_runs_each_arm_once() -> None:
    order: list[str] = []
    arms = {name: lambda name=name: float(len(order)) if order.append(name) is None else 0.0 for name in "abc"}
    samples = interleaved(arms, 4)
    assert [sorted(order[i : i + 3]) for i in range(0, 12, 3)] == [["a", "b", "c"]] * 4
    assert order[:3] + order[3:6] + order[6:9] != order[:3] * 3
    assert [len(values) for values in samples.values()] == [4, 4, 4]


def test_a_target_is_met_by_the_median() -> None:
    assert Result("x", "times", (1.0, 3.0, 9.0), least(3)).verdict == "met"
    assert Result("x", "times", (1.0, 3.1, 9.0), most(3)).verdict == "MISSED"
    assert Result("x", "times", (1.0,)).verdict == ""
    with pytest.raises(ValueError, match="x: nothing was measured"):
        Result("x", "times", ())


def test_a_commands_cpu_time_counts_what_outlives_its_parent(tmp_path: Path) -> None:
    busy = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    orphan = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {busy!r}])"
    used = run_command(["python3", "-c", orphan], tmp_path)
    assert 0.3 <= used.cpu_s < 3
    with pytest.raises(RuntimeError, match="ended with status 3"):
        run_command(["python3", "-c", "raise SystemExit(3)"], tmp_path)


def test_quick_results_are_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
    monkeypatch.setattr("tests.benchmarks.box_search.run", lambda quick: [Result("x", "times", (1.0, 2.0))])
    main(["--quick", "--only", "box_search"])
    place = Path(capsys.readouterr().out.splitlines()[-1].removeprefix("kept in "))
    assert (place / "box_search.json").is_file()
    assert not (tmp_path / "results").exists()
    main(["--only", "box_search"])
    kept = json.loads((tmp_path / "results" / "box_search.json").read_text())
    assert kept["command"] == "python -m tests.benchmarks --only box_search"
    assert kept["lines"][0]["samples"] == [1, 2]


def test_a_benchmark_that_fails_leaves_the_kept_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(quick: bool) -> list[Result]:
        raise RuntimeError("half way")

    kept = tmp_path / "box_search.json"
    kept.write_text("{}")
    monkeypatch.setattr("tests.benchmarks.box_search.run", fails)
    with pytest.raises(RuntimeError, match="half way"):
        main(["--only", "box_search", "--out", str(tmp_path)])
    assert kept.read_text() == "{}"


def test_the_facts_name_the_code_the_ffmpeg_and_the_peers() -> None:
    facts = machine()
    assert facts["ffmpeg"].startswith("ffmpeg ")
    assert re.fullmatch(r"[0-9a-f]{40}\+?|unknown", facts["commit"])
    assert facts.keys() >= {"cores", "cpu", "torch", "tensorstore", "numcodecs", "motion-vector-extractor"}


def test_a_long_tests_record_keeps_its_own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "RESULTS", tmp_path / "soak_results.json")
    for cores, test in ((2, "a"), (64, "b")):
        monkeypatch.setattr("tests.support.soak.usable_cores", lambda cores=cores: cores)
        soak.record(test, files=1)
    found = json.loads(soak.RESULTS.read_text())["tests"]
    assert {test: entry["cores"] for test, entry in found.items()} == {"a": 2, "b": 64}
    assert found["a"].keys() == {"passed", "cores", "python", "system", "files"}


def test_what_is_said_of_the_encoders_settings_was_measured() -> None:
    """docs/reference/boxes.md: boxes, CPU time, pictures and bytes of a faster preset beside those of the default."""
    kept = json.loads(encoder_presets.RESULT.read_text())["sets"]
    assert kept.keys() == set(encoder_presets.NAMES)
    for found in kept.values():
        default, fast, closer = (found["settings"][name] for name in encoder_presets.SETTINGS)
        for other in (fast, closer):
            difference = np.subtract(other["kept"], default["kept"])
            assert difference.min() > -0.0095
            assert difference.max() < 0.002
        assert 0.47 < fast["cpu_ratio"][0] < 0.58
        assert -1.8 < fast["psnr_difference"][0] < -1
        assert abs(closer["psnr_db"] - default["psnr_db"]) < 0.3
        assert 1.225 < closer["bytes_ratio"][0] < 1.245
    assert encoder_presets.SETTINGS["medium, CRF 23"] == EncodeSettings()


@pytest.mark.soak
@pytest.mark.usefixtures("data")
def test_the_encoders_settings_are_measured_in_little(tmp_path: Path) -> None:
    encoder_presets.main(["--only", "UCF-101", "--limit", "1", "--out", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())["sets"]["UCF-101"]
    assert found["clips"] == 1
    assert found["settings"].keys() == encoder_presets.SETTINGS.keys()
    psnr = {name: one["psnr_db"] for name, one in found["settings"].items()}
    assert psnr["veryfast, CRF 23"] < psnr["veryfast, CRF 21"]


ON_CPU = ["--device", "cpu", "--quick", "--view", "full", "mocrop"]


def test_what_a_gpu_has_no_time_for_is_listed_in_its_record(synth_store: Path, tmp_path: Path) -> None:
    record = tmp_path / "on_gpu.json"
    assert on_gpu.main(["--store", str(synth_store), *ON_CPU, "--budget", "0", "--out", str(record)]) == 0
    found = json.loads(record.read_text())
    assert found["losses"]["equal"]
    assert len(found["losses"]["cpu"]) == on_gpu.LOSS_STEPS
    assert found["losses"]["cpu"] == pytest.approx(found["losses"]["device"], rel=on_gpu.TOLERANCE)
    assert found["speed"] == found["fine_tuning"] == []
    assert len(found["not_run"]) == 2 + 2 + 3
    assert found["machine"]["torch"]


@pytest.mark.soak
def test_what_fails_on_a_gpu_is_listed_and_the_rest_is_measured(
    synth_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = on_gpu.speed

    def without_compiler(case: on_gpu.Case, *rest: Any) -> dict[str, Any]:
        if case.compiled:
            raise RuntimeError("Failed to find a compiler")
        return own(case, *rest)

    record = tmp_path / "on_gpu.json"
    monkeypatch.setattr(on_gpu, "speed", without_compiler)
    monkeypatch.setattr(on_gpu, "has_lists", lambda *_: False)
    assert on_gpu.main(["--store", str(synth_store), *ON_CPU, "--out", str(record)]) == 0
    found = json.loads(record.read_text())
    assert len(found["speed"]) == 2 + 2
    assert ["no train and test list" in line for line in found["not_run"]] == [True, False]
    assert found["not_run"][1].endswith("Failed to find a compiler")
    failed = on_gpu.fine_tuned(str(synth_store), "no such view", 0, on_gpu.QUICK, torch.device("cpu"), tmp_path)
    assert "view 'no such view' is not in" in failed["failed"]


def test_losses_that_differ_end_the_benchmark_of_a_gpu_with_status_1(
    synth_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = on_gpu.prepared
    monkeypatch.setattr(on_gpu, "prepared", lambda frames, *rest: own(255 - frames if next(calls) else frames, *rest))
    calls = iter([False] * on_gpu.LOSS_STEPS + [True] * on_gpu.LOSS_STEPS)  # as a device that computes something else
    assert on_gpu.main(["--store", str(synth_store), *ON_CPU, "--budget", "0"]) == 1


def test_one_thing_changes_at_a_time_and_compilations_come_last() -> None:
    scale = on_gpu.Scale()
    assert len(set(on_gpu.grid(scale))) == 6 * 2 * 2
    changed = on_gpu.variants(scale)
    assert [case.compiled for case in changed] == [False] * 12 + [True] * 6
    for case in changed:
        assert (case.input_size, case.precision) == (224, "bf16")
        assert [case.channels_last, case.pinned, not case.compiled].count(False) == 1


@pytest.mark.soak
def test_the_dry_run_of_the_benchmark_of_a_gpu_runs_every_part(
    synth_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "on_gpu.json"
    assert on_gpu.main(["--store", str(synth_store), *ON_CPU, "--budget", "900", "--out", str(record)]) == 0
    found = json.loads(record.read_text())
    assert found["not_run"] == []
    assert [case["input_size"] for case in found["speed"]] == [32, 48, 48, 48, 48]
    for case in found["speed"]:
        assert case["clips_per_s"] > 0
        assert 0 <= case["data_wait"] <= 1
    assert [(run["view"], run["seed"]) for run in found["fine_tuning"]] == [("full", 0), ("mocrop", 0)]
    assert "| test_resnet | 48 | fp32 | compiled |" in capsys.readouterr().out
