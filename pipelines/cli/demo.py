"""The whole pipeline in small: a synthetic data set, its store, two trainings, and a report page."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from pipelines.acquire.synthetic import write_dataset
from pipelines.errors import RunError
from pipelines.execution.process_setup import own_python
from pipelines.runs.options import Options
from pipelines.store.records import Summary

RECIPE = "smoke"
CLIPS_PER_CLASS = 40  # fewer clips would leave too few for testing


def run_demo(out: Path, *, say: Callable[[str], None]) -> Summary:
    """Make the data set and the store in ``out``, run short trainings and tests, and write the report page.

    An interrupted demo is resumed. Without torch, the trainings are left out.
    """
    from pipelines.cli.progress_bars import stage_progress
    from pipelines.flow_runs import run_here
    from pipelines.report.page import write_report

    store = out / "synth.zarr"
    try:
        made = write_dataset(out / "synth", clips_per_class=CLIPS_PER_CLASS)
    except (FileExistsError, ValueError) as error:
        raise RunError(f"{error}; give another --out") from None
    say(f"1. {made.clips} synthetic clips of {len(made.class_names)} classes in {made.source}")
    options = Options(str(made.source), str(store), str(made.splits), RECIPE)
    with stage_progress() as show:
        summary = run_here(options, show)
    say(f"2. {summary.done} of {summary.clips} clips preprocessed into {store}")
    if find_spec("torch") is None:
        say('3. no training, which needs: pip install "mocrop[train]"')
    else:
        say("3. two short trainings, on whole frames and on crops, and a test of every view")
        train(store, out)
    page = write_report(str(store), out / "report.html", annotations=made.annotations)
    say(f"4. a report with every clip's box, density and crop: {page.out}")
    say(f"Next: open {page.out}; mocrop boxes {store} --view mocrop; mocrop status {store}; mocrop verify {store}")
    return summary


def train(store: Path, out: Path) -> None:
    """Run the demo's trainings in a separate process, because this package does not import `training`."""
    command = own_python("-m", "training.demo", str(store), "--out", str(out / "training"))
    if status := subprocess.run(command, check=False).returncode:
        raise RunError(f"the training ended with status {status}; see its output above")
