"""Whether a GPU waits for data: a short training of each backbone, in bf16 and in fp32.

``python -m tests.benchmarks.loader_training [--json FILE]``, where there is a GPU. The store is the one of
`tests.benchmarks.loader`, 600 rows of zstd; the second of two epochs counts.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.loader import ROWS, VIEW, built_store, repeated_store
from tests.benchmarks.measuring import machine
from training.backbones import TORCHVISION


def second_epoch(store: Path, folder: Path, arch: str, size: int, batch: int, *flags: str) -> dict[str, float]:
    """Clips a second and the share of the time spent waiting for data, in percent, in the second epoch.

    In a process of its own: Accelerate takes one precision a process.
    """
    asked = ["--store", str(store), "--view", VIEW, "--arch", arch, "--no-pretrained", "--input-size", str(size)]
    asked += ["-b", str(batch), "--epochs", "2", "--eval-freq", "0", "--output-dir", str(folder), *flags]
    subprocess.run([sys.executable, "-m", "training.train", *asked], check=True, stdout=subprocess.DEVNULL)
    with (folder / "metrics.csv").open() as file:
        *_, last = csv.DictReader(file)
    return {"clips_per_s": float(last["clips_per_s"]), "data_wait_percent": round(100 * float(last["data_wait"]), 2)}


def trainings(archs: tuple[str, ...], sizes: tuple[int, ...], precisions: dict[str, list[str]], rows: int) -> list[Any]:
    """A row for each backbone, size and precision."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = repeated_store(built_store(folder), folder, rows, "zstd")
        return [
            {"arch": arch, "input_size": size, "precision": precision}
            | second_epoch(store, folder / f"{arch}-{size}-{precision}", arch, size, min(32, rows), *flags)
            for arch, size, (precision, flags) in product(archs, sizes, precisions.items())
        ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="share of the time that a GPU waits for data")
    parser.add_argument("--json", type=Path, help="write the result here too")
    parser.add_argument("--quick", action="store_true", help="one small backbone on the CPU: to see that it runs")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        rows = trainings(("test_resnet",), (32, 48), {"fp32": ["--cpu"]}, rows=32)
    elif torch.cuda.is_available():
        rows = trainings(TORCHVISION, (192, 224), {"fp32": [], "bf16": ["--amp"]}, rows=ROWS)
    else:
        parser.exit(1, "no GPU here: python -m tests.benchmarks.loader says what the loader could feed one\n")
    for row in rows:
        print(json.dumps(row))
    if arguments.json is not None:
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
        facts = {**machine(), "gpu": gpu, "torch": torch.__version__, "torchvision": version("torchvision")}
        arguments.json.write_text(json.dumps({"machine": facts, "results": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
