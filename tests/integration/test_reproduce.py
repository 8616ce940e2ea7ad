"""``training/reproduce.sh``: the runs that would settle the paper's table, in small and on the CPU."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from data_specs.recipes import load_recipe
from tests.places import ROOT
from training import results, test, train

SCRIPT = ROOT / "training" / "reproduce.sh"
SMALL = ["--arch", "test_resnet", "--views", "mocrop", "--sizes", "32", "--seeds", "0", "--epochs", "1", "--cpu"]
SMALL += ["--flags", "--no-pretrained -b 2"]
MAINS = {"training.train": train.main, "training.test": test.main, "training.results": results.main}


def commands(*words: str | Path) -> list[list[str]]:
    """What the script prints in a dry run, as words."""
    said = subprocess.run([SCRIPT, "--dry-run", *words], capture_output=True, text=True, check=True, timeout=60)
    return [shlex.split(line) for line in said.stdout.splitlines()]


def test_a_dry_run_prints_every_training_and_its_test_with_flags_that_exist(tmp_path: Path) -> None:
    store, out = str(tmp_path / "no such.zarr"), str(tmp_path / "out")
    found = commands("--store", store, "--source", "UCF-101", "--splits", "lists", "--out", out)
    assert found[0][:2] == ["mocrop", "preprocess"]
    views = [view.name for view in load_recipe(found[0][-1]).views]
    trained, tested = Counter[tuple[object, ...]](), Counter[str]()
    for words in found[1:-1]:
        if words[2] == "training.train":
            args = train.parser().parse_args(words[3:])
            assert (args.store, args.split, args.amp, args.select) == (store, 1, True, "last")
            trained[args.arch, args.view, args.input_size, args.seed] += 1
            folder = args.output_dir
        else:
            tests = test.parser().parse_args(words[3:])
            assert (tests.weights, tests.view) == (f"{folder}/model.pt", [args.view])
            assert tests.input_size == [192, 224]
            tested[folder] += 1
    assert len(trained) == len(tested) == 4 * len(views) * 2 * 3 == 144
    assert set(trained.values()) == set(tested.values()) == {1}
    assert {view for _, view, _, _ in trained} == set(views)
    assert found[-1][:4] == ["python", "-m", "training.results", f"{out}/results"]
    assert not Path(out).exists()


def test_the_smallest_run_trains_tests_and_fills_the_table(
    synth_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The printed commands, in this process."""
    asked = ["--store", synth_store, "--out", tmp_path, *SMALL]
    for words in commands(*asked):
        capsys.readouterr()
        assert MAINS[words[2]](words[3:]) == 0
    assert "control" not in capsys.readouterr().out
    (result,) = (json.loads(path.read_text()) for path in (tmp_path / "results").glob("*.json"))
    assert (result["view"], result["input_size"], result["clips"]) == ("mocrop", 32, 6)
    assert "--resume" in commands(*asked)[0]


@pytest.mark.soak
def test_the_script_itself_runs_and_resumes(synth_store: Path, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for _ in range(2):
        said = subprocess.run(
            [SCRIPT, "--store", synth_store, "--out", tmp_path, *SMALL],
            capture_output=True, text=True, timeout=600, env={**os.environ, "PATH": path},
        )  # fmt: skip
        assert said.returncode == 0, said.stderr
        assert "| test_resnet | + MoCrop (32px) |" in said.stdout
    assert "no epochs left" in said.stdout


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ([], "--store is missing"),
        (["--store"], "--store needs a value"),
        (["--store", "a.zarr", "--source", "UCF-101"], "--splits is missing"),
        (["--store", "a.zarr", "--seed", "1"], "unknown argument '--seed'"),
    ],
)
def test_wrong_arguments_are_one_line(words: list[str], what: str) -> None:
    said = subprocess.run([SCRIPT, *words], capture_output=True, text=True, timeout=60)
    assert said.returncode == 2
    assert said.stderr.startswith(f"error: {what}")
    assert said.stderr.count("\n") == 1


def test_the_cost_in_the_documents_follows_from_what_it_says_it_assumes() -> None:
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) / ([\d.]+) \| ([\d,]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert len(rows) == 4
    frames, views, seeds = 9537 * 3 * 100, 6, 3
    total = 0.0
    for _, large, small, rate, hours in rows:
        each = frames * (1 + float(small) / float(large)) / float(rate.replace(",", "")) / 3600
        tests = 2 * 3783 * 8 * (1 + float(small) / float(large)) / (3 * float(rate.replace(",", ""))) / 3600
        assert float(hours) == pytest.approx(views * seeds * (each + tests), abs=0.06)
        total += float(hours)
    assert f"{total:.0f} GPU hours" in text
