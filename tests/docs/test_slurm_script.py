"""The SLURM script of docs/howto/dask_cluster.md, with a stand-in for ``srun``: all other commands are real."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from data_specs.stored import open_store
from tests.docs.test_docs import BLOCKS
from tests.places import ROOT


def script() -> str:
    (block,) = [block for block in BLOCKS if "#SBATCH" in block.text]
    assert block.document == ROOT / "docs/howto/dask_cluster.md"
    return block.text


def test_the_script_is_valid_shell_and_each_directive_an_option() -> None:
    checked = subprocess.run(["bash", "-n"], input=script(), text=True, capture_output=True, timeout=60)
    assert (checked.returncode, checked.stderr) == (0, "")
    directives = [line for line in script().splitlines() if line.startswith("#SBATCH")]
    assert len(directives) > 5
    assert all(re.fullmatch(r"#SBATCH --[a-z-]+=\S+", line) for line in directives)
    assert script().startswith("#!/bin/bash\n"), "sbatch refuses a file without an interpreter"


def free_port() -> int:
    """One that a job id leads to: 20000 to 39999."""
    for port in range(20000 + os.getpid() % 10000, 40000):
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no port is free")


@pytest.mark.soak
def test_the_script_makes_a_store_and_leaves_nothing(synth_data: Path, tmp_path: Path) -> None:
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    for folder in (home / "mocrop-env/bin", scratch, tmp_path / "bin"):
        folder.mkdir(parents=True)
    (home / "mocrop-env/bin/activate").write_text(f'PATH="{Path(sys.executable).parent}:$PATH"\n')
    for name, text in {"srun": 'exec "$@"', "hostname": "echo 127.0.0.1"}.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    text = script()
    for name, value in {
        "videos": synth_data / "UCF-101",
        "splits": synth_data / "ucfTrainTestlist",
        "store": tmp_path / "slurm.zarr",
        "scratch": scratch,
    }.items():
        text, replaced = re.subn(rf"^{name}=\S+", f"{name}={value}", text, flags=re.MULTILINE)
        assert replaced == 1
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {
        "HOME": str(home),
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PREFECT_HOME": str(home / "prefect"),
        "SLURM_JOB_ID": str(free_port() - 20000),
        "SLURM_CPUS_PER_TASK": "2",
    }
    (tmp_path / "mocrop.sbatch").write_text(text)
    done = subprocess.run(
        ["bash", "mocrop.sbatch"], cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "12 clips, 12 done" in done.stdout
    assert open_store(str(tmp_path / "slurm.zarr")).table("state").tolist() == [1] * 12
    assert not list(scratch.rglob("*.mp4"))
    assert not list(home.glob(".mocrop-tls-*"))
    assert f"tls://127.0.0.1:{int(environment['SLURM_JOB_ID']) + 20000}" in done.stderr
