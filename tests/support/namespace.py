"""Small disks of one's own: commands in a mount namespace where what they mount is theirs alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.places import ROOT

REPOSITORY = ROOT
STAGES_ONLY = """
import os, subprocess, sys
from dataclasses import replace
from pipelines.errors import RunError, RunStopped
from pipelines.runs.options import Options
from pipelines.runs.opening import open_run
from pipelines.stages.shard_task import process_shard
from pipelines.stages.tasks import STAGES
from data_specs.stored import StoreError

source, store, work, before = sys.argv[1:5]  # `before`: a stage, and a shell command to run before it
stage_of, _, command = before.partition(":")
try:
    with open_run(Options(source, store, recipe="smoke", work_dir=work)) as run:
        for stage in STAGES:
            if stage == stage_of:
                subprocess.run(command, shell=True, check=True)
            for plan in run.pending(stage):
                process_shard(plan, run.recipe)
        summary = run.publish()
except (RunError, RunStopped, StoreError) as error:
    print(error)
    sys.exit(1)
print(summary.done, len(summary.quarantined))
"""
"""A run without Prefect and Dask, which fails as the command does and takes a second."""


def private(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script that may mount; what it mounts is gone with it. Fails where the machine does not let us."""
    program = shutil.which("unshare")
    if program is None:
        pytest.fail("the program unshare (util-linux) is needed for tests with small disks")
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    known = {**os.environ, "PYTHON": sys.executable, "STAGES_ONLY": STAGES_ONLY, **environment}
    return subprocess.run(
        [program, *as_root, "--mount", "sh", "-euc", script],
        cwd=REPOSITORY,
        env=known,
        capture_output=True,
        text=True,
        timeout=600,
    )
