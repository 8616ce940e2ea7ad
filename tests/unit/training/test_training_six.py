"""The six backbones of the reference, trained and tested on the real clips by the commands, on a CPU."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.soak import record
from training.backbones import TORCHVISION
from training.weights import read_file

SPLIT = "2"  # 14 of the 15 clips are in its train list, one in its test list


def seconds_of(module: str, *flags: str) -> float:
    """How long a command took; it must end well."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", module, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return round(time.monotonic() - began, 1)


@pytest.mark.soak
@pytest.mark.parametrize("size", [192, 224])
@pytest.mark.parametrize("arch", TORCHVISION)
def test_a_backbone_of_the_reference_trains_and_is_tested(
    arch: str, size: int, ucf_store: Path, tmp_path: Path
) -> None:
    run, results = tmp_path / "run", tmp_path / "results"
    data = ["--store", str(ucf_store), "--split", SPLIT, "--input-size", str(size), "--cpu", "-b", "2"]
    training = ["--arch", arch, "--train-mode", "mocrop", "--epochs", "2", "--no-pretrained", "--output-dir", str(run)]
    trained = seconds_of("training.train", *data, *training)
    weights = ["--weights", str(run / "model.pt"), "--test-mode", "mocrop", "--output-dir", str(results)]
    tested = seconds_of("training.test", *data, *weights)
    with (run / "metrics.csv").open() as file:
        epochs = list(csv.DictReader(file))
    assert [row["epoch"] for row in epochs] == ["1", "2"]
    assert all(math.isfinite(float(row["train_loss"])) for row in epochs)
    assert read_file(run / "model.pt")["epoch"] == 2
    (result,) = [json.loads(path.read_text()) for path in results.glob("*.json")]
    assert (result["arch"], result["view"], result["input_size"], result["clips"]) == (arch, "mocrop", size, 1)
    assert result["top1"] == float(epochs[-1]["test_top1"])
    assert result["loss"] == pytest.approx(float(epochs[-1]["test_loss"]), rel=1e-3)
    record(f"{arch} at {size} px on a CPU", top1=result["top1"], train_seconds=trained, test_seconds=tested)
