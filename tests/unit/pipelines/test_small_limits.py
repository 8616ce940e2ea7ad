"""Small limits of a shell (``ulimit``): a command that cannot work within them says so in one line."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from data_specs.resources import lack_of_memory
from tests.system.test_cli import MOCROP

MB = 10**6


def limited(limit: int, value: int, *command: object, hard: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program under a limit of the system."""

    def set_limit() -> None:
        resource.setrlimit(limit, (value, value if hard else resource.getrlimit(limit)[1]))

    # OpenBLAS takes memory for each core, and tells of its lack by itself
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    words = [*map(str, command)]
    return subprocess.run(
        words, capture_output=True, text=True, timeout=300, preexec_fn=set_limit, check=False, env=environment
    )


def one_line(found: subprocess.CompletedProcess[str], pattern: str) -> None:
    assert found.returncode == 1, found
    assert found.stdout == ""
    assert re.fullmatch(pattern, found.stderr), found.stderr


LACK = r"this process lacks memory or threads \(\w+\); it may have \d+ MB of address space \(ulimit -v\): .*\n"


@pytest.mark.parametrize("megabytes", [200, 260])
def test_a_command_whose_libraries_do_not_fit_says_so(megabytes: int) -> None:
    one_line(limited(resource.RLIMIT_AS, megabytes * MB, MOCROP, "status", "none.zarr"), f"error: {LACK}")


def test_a_training_whose_libraries_do_not_fit_says_so() -> None:
    command = (sys.executable, "-m", "training.train", "--store", "none.zarr")
    one_line(limited(resource.RLIMIT_AS, 300 * MB, *command), f"error: {LACK}")


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [
        (resource.RLIMIT_NOFILE, 32, r"at most 32 open files are allowed \(ulimit -n\); a run with workers 1 needs 52"),
        (resource.RLIMIT_AS, 1500 * MB, r"1500 MB of address space are allowed \(ulimit -v\); a run needs 2000"),
    ],
)
def test_a_run_that_does_not_fit_is_refused_before_anything_is_made(
    limit: int, value: int, message: str, synth_data: Path, tmp_path: Path
) -> None:
    command = ("preprocess", "--source", synth_data / "UCF-101", "--store", tmp_path / "x.zarr", "--workers", 1)
    one_line(limited(limit, value, MOCROP, *command), f"mocrop: {message}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_soft_limit_on_open_files_is_raised_as_far_as_a_run_needs() -> None:
    code = (
        "import resource; from pipelines.media.limits import too_little_for; print(repr(too_little_for(40))); "
        "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 520
    found = limited(resource.RLIMIT_NOFILE, 64, sys.executable, "-c", code, hard=False)
    assert found.stdout == "''\n520\n", found


def test_a_lack_of_memory_is_told_from_other_errors() -> None:
    assert lack_of_memory(MemoryError())
    assert lack_of_memory(RuntimeError("can't start new thread"))
    assert lack_of_memory(ImportError("libx.so: failed to map segment from shared object"))
    assert lack_of_memory(KeyError("memory")) == ""
    first = RuntimeError("cannot join thread before it is started")
    first.__context__ = RuntimeError("can't start new thread")
    assert "(RuntimeError)" in lack_of_memory(first)
