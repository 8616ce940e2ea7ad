"""The whole pipeline in small: a synthetic data set, its store, a report page, a short training and a probe."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from pipelines.acquire.synthetic import write_dataset
from pipelines.errors import RunError
from pipelines.execution.process_setup import own_python
from pipelines.runs.options import Options
from pipelines.store.summary import Summary

RECIPE = "demo"
VIEW = "actor"  # of the training
CLIPS_PER_CLASS = 40  # fewer clips would leave too few for testing
PROBE = ["--folds", "5", "--group-by", "_(g[0-9]+)_", "--cpu"]  # all clips of one background are on one side of a fold
TRAINING = ["--arch", "efficientnet_lite0", "--input-size", "128", "--epochs", "3", "--optimizer", "adamw"]
TRAINING += ["--lr", "1e-3", "--schedule", "cosine", "--batch-size", "8", "--mixup", "0", "--augment", "flip", "--cpu"]


def run_demo(out: Path, *, say: Callable[[str], None]) -> Summary:
    """Make the data set, its store and a report page in ``out``, run a short training, and probe the store's views.

    An interrupted demo is resumed. Without torch, the training and the probe are left out.
    """
    from pipelines.cli.progress_bars import stage_progress
    from pipelines.flow_runs import run_here
    from pipelines.report.page import write_report

    store = out / "synth.zarr"
    try:
        made = write_dataset(out / "synth", clips_per_class=CLIPS_PER_CLASS)
    except (FileExistsError, ValueError) as error:
        raise RunError(f"{error}; give another --out") from None
    say(f"1. {made.clips} synthetic clips of {len(made.class_names)} classes, half with a moving camera: {made.source}")
    options = Options(str(made.source), str(store), str(made.splits), RECIPE)
    with stage_progress() as show:
        summary = run_here(options, show)
    say(f"2. {summary.done} of {summary.clips} clips preprocessed into {store}")
    page = write_report(str(store), out / "report.html", annotations=made.annotations)
    say(f"3. a report with every clip's box, density and crop: {page.out}")
    if find_spec("torch") is None:
        say('4. no training and no probe, which need: pip install "mocrop[train]"')
    else:
        say(f"4. a short training on the crops of {VIEW}, from ImageNet weights")
        train(store, out / "training")
        say(f"   its curve: {out / 'training' / 'metrics.csv'}, or tensorboard --logdir {out / 'training'}")
        say("5. a probe of every view: frozen ImageNet features, linear heads; by design, whole frames tell nothing")
        run_training("probe", "--store", str(store), *PROBE, "--output-dir", str(out / "probe"))
    say(f"Next: open {page.out}; mocrop boxes {store} --view {VIEW}; mocrop status {store}; mocrop verify {store}")
    return summary


def train(store: Path, folder: Path) -> None:
    """Run or resume the short training."""
    resumed = ["--resume"] if (folder / "last.pt").exists() else []
    run_training("train", "--store", str(store), "--view", VIEW, *TRAINING, "--output-dir", str(folder), *resumed)


def run_training(module: str, *words: str) -> None:
    """Run a command of ``training`` in a separate process, because this package does not import `training`.

    It computes with one thread: several that share so small a batch mostly wait for each other on a busy machine.
    Raises RunError if it fails.
    """
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    status = subprocess.run(own_python("-m", f"training.{module}", *words), check=False, env=one_thread).returncode
    if status:
        raise RunError(f"python -m training.{module} ended with status {status}; see its output above")
