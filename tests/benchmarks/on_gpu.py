"""What a GPU makes of a store: the speed of training, the wait for data, memory, and losses as on the CPU.

``python -m tests.benchmarks.on_gpu --store STORE`` takes at most ``--budget`` seconds (8 minutes by default), and lists
what it had no time for. It needs torch, torchvision, timm, numpy and what `training` imports, but nothing that makes
stores: docs/reference/gpu.md says what to carry to a machine where nothing can be installed. The parts, in this order:

- losses of the first steps in fp32, on the CPU and on the GPU, from the same weights and batches, without TF32;
- training each backbone at each size in fp32 and bf16: clips per second, share of the time spent waiting for data, peak
  memory. The backbones are not pretrained; pinned memory, channels-last, no compilation, PyTorch's defaults for TF32;
- fine-tuning from ImageNet weights on two views, three seeds, where the store has train and test lists;
- at the largest size in bf16, one thing changed at a time: contiguous instead of channels-last, pageable instead of
  pinned memory, and `torch.compile`, the compilation apart.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data_specs.resources import usable_cores
from data_specs.stored import StoreError, open_store
from training.augmentation import prepared
from training.backbones import TORCHVISION, Backbone, build, clip_logits
from training.clips import Clips, read_all_clips, read_clips
from training.stream import ClipStream, batches_of_training, plan_of_training
from training.tables import Table, as_markdown

SIZES, SEGMENTS, BATCH, STEPS, WARM_UP = (192, 224), 3, 32, 20, 5
LOSS_STEPS, LOSS_BATCH, LOSS_ARCH, TOLERANCE = 3, 4, "resnet50", 1e-3
FINE_TUNED, SEEDS, EPOCHS = "efficientnet_lite0", (0, 1, 2), 10
PACKAGES = ("torchvision", "timm", "numpy", "accelerate", "zarr")
RECORD = Path(__file__).parent / "results" / "on_gpu.json"


@dataclass(frozen=True, slots=True)
class Case:
    """One way to train a backbone without pretrained weights."""

    arch: str
    input_size: int
    precision: str
    channels_last: bool = True
    pinned: bool = True
    compiled: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    archs: tuple[str, ...] = TORCHVISION
    sizes: tuple[int, ...] = SIZES
    precisions: tuple[str, ...] = ("fp32", "bf16")
    batch: int = BATCH
    steps: int = STEPS
    warm_up: int = WARM_UP
    loss_arch: str = LOSS_ARCH
    loss_size: int = 128
    fine_tuned: tuple[str, ...] = ("--arch", FINE_TUNED, "--input-size", "192", "-b", "16")
    seeds: tuple[int, ...] = SEEDS
    epochs: int = EPOCHS


QUICK = Scale(
    ("test_resnet",), (32, 48), ("fp32",), 2, 2, 1, "test_resnet", 32,
    ("--arch", "test_resnet", "--no-pretrained", "--input-size", "32", "-b", "2"), (0,), 1,
)  # fmt: skip


def grid(scale: Scale) -> list[Case]:
    """Each backbone at each size in each precision."""
    return [Case(*each) for each in product(scale.archs, scale.sizes, scale.precisions)]


def variants(scale: Scale) -> list[Case]:
    """One thing changed at the largest size in the last precision; compilations, which take longest, come last."""
    plain = [Case(arch, max(scale.sizes), scale.precisions[-1]) for arch in scale.archs]
    changed = [replace(case, channels_last=False) for case in plain] + [replace(case, pinned=False) for case in plain]
    return changed + [replace(case, compiled=True) for case in plain]


def with_weights(case: Case, classes: int, device: torch.device) -> tuple[Backbone, torch.optim.Optimizer]:
    """The network on the device, its weights drawn with seed 0 on the CPU, and plain SGD."""
    torch.manual_seed(0)
    backbone = build(case.arch, classes, case.input_size, pretrained=False)
    memory = torch.channels_last if case.channels_last else torch.contiguous_format
    model: nn.Module = backbone.model.to(device, memory_format=memory)  # type: ignore[call-overload]
    model.train()
    if case.compiled:
        model.compile()
    return backbone, torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)


def losses(case: Case, clips: Clips, device: torch.device, scale: Scale, times: list[float]) -> Iterator[Tensor]:
    """The loss of each step of a training, on the device; ``times`` receives how long each waited for its batch."""
    backbone, optimizer = with_weights(case, len(clips.class_names), device)
    stream = ClipStream(clips, pin=case.pinned and device.type == "cuda")
    stream.plan = plan_of_training(clips, SEGMENTS, 0, 0, "flip")
    stream.batches = batches_of_training(stream.plan.order, scale.batch)
    stream.batches = (stream.batches * (scale.warm_up + scale.steps))[: scale.warm_up + scale.steps]
    batches = iter(stream)
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        times.append(time.perf_counter() - asked)
        if batch is None:
            return
        batch = batch.to(device)
        images = prepared(batch.frames, batch.draws, case.input_size, backbone.mean, backbone.std)
        with torch.autocast(device.type, torch.bfloat16, enabled=case.precision == "bf16"):
            loss = nn.functional.cross_entropy(clip_logits(backbone.model, images), batch.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        yield loss.detach()


def speed(case: Case, clips: Clips, device: torch.device, scale: Scale) -> dict[str, Any]:
    """Clips per second after the warm-up, share of it spent waiting for data, seconds of the warm-up, peak memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    waits: list[float] = []
    began = warm = time.perf_counter()
    for step, _ in enumerate(losses(case, clips, device, scale, waits), 1):
        if step == scale.warm_up:
            wait_for(device)
            warm = time.perf_counter()
    wait_for(device)
    seconds = time.perf_counter() - warm
    if case.compiled:
        torch.compiler.reset()
    return asdict(case) | {
        "clips_per_s": round(scale.steps * scale.batch / seconds, 1),
        "data_wait": round(sum(waits[scale.warm_up :]) / seconds, 4),
        "warm_up_s": round(warm - began, 2),
        "peak_mb": round(torch.cuda.max_memory_allocated(device) / 1e6) if device.type == "cuda" else None,
        "clips_per_step": scale.batch,
        "steps": scale.steps,
    }


def wait_for(device: torch.device) -> None:
    """Let the device finish its work, so that the clock sees it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def equal_losses(clips: Clips, device: torch.device, scale: Scale) -> dict[str, Any]:
    """The losses of a few steps in fp32 on the CPU and on the device, and their largest relative difference.

    On the device with channels-last, on the CPU without.
    """
    kept = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    small = replace(scale, batch=min(LOSS_BATCH, scale.batch), warm_up=0, steps=LOSS_STEPS)
    case = Case(scale.loss_arch, scale.loss_size, "fp32", channels_last=False)
    cpu = [float(loss) for loss in losses(case, clips, torch.device("cpu"), small, [])]
    other = [float(loss) for loss in losses(replace(case, channels_last=True), clips, device, small, [])]
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept
    difference = float(np.max(np.abs(np.subtract(other, cpu)) / np.abs(cpu)))
    return {
        "arch": scale.loss_arch,
        "input_size": scale.loss_size,
        "cpu": cpu,
        "device": other,
        "largest_difference": difference,
        "tolerance": TOLERANCE,
        "equal": difference <= TOLERANCE,
    }


def fine_tuned(store: str, view: str, seed: int, scale: Scale, device: torch.device, folder: Path) -> dict[str, Any]:
    """The last line of metrics of ``training.train`` on a view, or ``failed`` with its last words."""
    words = ["--store", store, "--view", view, *scale.fine_tuned, "--seed", str(seed), "--output-dir", str(folder)]
    words += ["--epochs", str(scale.epochs), "--eval-freq", str(scale.epochs), "--lr", "5e-4", "--mixup", "0"]
    words += ["--schedule", "cosine", "--amp" if device.type == "cuda" else "--cpu"]
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "training.train", *words], capture_output=True, text=True)
    if done.returncode:
        return {"view": view, "seed": seed, "failed": f"status {done.returncode}: {done.stderr[-600:]}"}
    with (folder / "metrics.csv").open() as file:
        *_, last = csv.DictReader(file)
    figures = {name: float(last[name]) for name in ("train_loss", "test_top1", "clips_per_s", "data_wait")}
    return {"view": view, "seed": seed, **figures, "seconds": round(time.perf_counter() - began, 1)}


def has_lists(store: str, view: str) -> bool:
    """Whether split 1 of the store has clips to train and to test on."""
    try:
        return all(len(read_clips(store, view, 1, part)) for part in ("train", "test"))
    except StoreError:
        return False


def measured(args: argparse.Namespace, scale: Scale) -> dict[str, Any]:
    """Everything there is time for; ``not_run`` names the rest."""
    device, ends = torch.device(args.device), time.perf_counter() + args.budget
    views = args.view or open_store(args.store).views[:2]
    clips = read_all_clips(args.store, views[0])
    found: dict[str, Any] = {"losses": equal_losses(clips, device, scale), "speed": [], "fine_tuning": []}
    not_run: list[str] = []
    print(json.dumps(found["losses"]), flush=True)

    def speeds(cases: list[Case]) -> None:
        for case in cases:
            if time.perf_counter() > ends:
                not_run.append(str(case))
                continue
            try:
                found["speed"].append(speed(case, clips, device, scale))
            except RuntimeError as error:  # as without memory, or without a compiler: the rest is still measured
                not_run.append(f"{case}: {' '.join(str(error).split())[:300]}")
                continue
            print(json.dumps(found["speed"][-1]), flush=True)

    speeds(grid(scale))
    tuning = list(product(scale.seeds, views)) if has_lists(args.store, views[0]) else []
    if not tuning:
        not_run.append("fine-tuning: the store has no train and test list")
    with tempfile.TemporaryDirectory() as folder:
        for seed, view in tuning:
            if time.perf_counter() > ends:
                not_run.append(f"fine-tuning on {view}, seed {seed}")
                continue
            result = fine_tuned(args.store, view, seed, scale, device, Path(folder) / f"{view}-{seed}")
            found["fine_tuning"].append(result)
            print(json.dumps(result), flush=True)
    speeds(variants(scale))
    return {**found, "not_run": not_run}


def facts(device: torch.device) -> dict[str, Any]:
    """The machine and the versions."""
    gpu = {}
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        gpu = {"gpu": about.name, "gpu_memory_gib": round(about.total_memory / 2**30, 1), "cuda": torch.version.cuda}
        gpu |= {"tf32": [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32]}
    return {
        **gpu,
        "cores": usable_cores(),
        "machine": platform.machine(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: version(name) for name in PACKAGES},
    }


def speed_table(rows: Sequence[dict[str, Any]]) -> str:
    """The speeds in Markdown, for a document."""
    heads = ("backbone", "input, px", "precision", "otherwise", "clips/s", "waiting for data", "peak memory, MB")
    lines = []
    for row in rows:
        other = {"contiguous": not row["channels_last"], "pageable memory": not row["pinned"]}
        other["compiled"] = row["compiled"]
        named = ", ".join(name for name, is_so in other.items() if is_so) or "-"
        memory = "-" if row["peak_mb"] is None else f"{row['peak_mb']:,}"
        figures = (f"{row['clips_per_s']:,.0f}", f"{100 * row['data_wait']:.1f} %", memory)
        lines.append([row["arch"], str(row["input_size"]), row["precision"], named, *figures])
    return as_markdown(Table(heads, lines, rows))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status is 1 if the losses of the two devices differ."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.on_gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--store", required=True, help="store with cached frames, best with train and test lists")
    parser.add_argument("--view", nargs="+", help="views to fine-tune on; the speeds are of the first [its first two]")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: for a dry run")
    parser.add_argument("--quick", action="store_true", help="one small backbone and few steps: to see that it runs")
    parser.add_argument("--budget", type=float, default=420.0, help="seconds after which nothing new is begun")
    parser.add_argument("--out", type=Path, help=f"where the record goes [results/{RECORD.name}; none with --quick]")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.exit(2, "error: --device cuda: torch finds no GPU; give --device cpu --quick for a dry run\n")
    if args.device == "cpu" and not args.quick:
        parser.exit(2, "error: --device cpu: only for a dry run; give --quick too\n")
    began = time.perf_counter()
    record = {
        "command": f"python -m tests.benchmarks.on_gpu {' '.join(argv if argv is not None else sys.argv[1:])}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": facts(torch.device(args.device)),
        **measured(args, QUICK if args.quick else Scale()),
        "seconds": round(time.perf_counter() - began, 1),
    }
    print(speed_table(record["speed"]))
    if out := args.out or (None if args.quick else RECORD):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"record: {out}")
    return 0 if record["losses"]["equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
