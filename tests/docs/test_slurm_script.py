"""The SLURM script of docs/howto/dask_cluster.md, on a SLURM cluster of this machine, and with a stand-in."""

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
from tests.support.slurm import run_on_slurm


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


def adapted(synth_data: Path, tmp_path: Path, **values: str) -> str:
    """The script with its first lines adapted; what it needs is made."""
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    for folder in (home / "mocrop-env/bin", scratch, tmp_path / "bin"):
        folder.mkdir(parents=True)
    (home / "mocrop-env/bin/activate").write_text(f'PATH="{Path(sys.executable).parent}:$PATH"\n')
    text = script()
    values |= {
        "videos": f"{synth_data}/UCF-101",
        "splits": f"{synth_data}/ucfTrainTestlist",
        "store": f"{tmp_path}/slurm.zarr",
        "scratch": f"{scratch}",
    }
    for name, value in values.items():
        text, replaced = re.subn(rf"^((?:#SBATCH --)?{name})=\S+", rf"\1={value}", text, flags=re.MULTILINE)
        assert replaced == 1
    return text


def check_result(tmp_path: Path, said: str) -> None:
    assert "12 clips, 12 done" in said
    assert open_store(str(tmp_path / "slurm.zarr")).table("state").tolist() == [1] * 12
    assert not list((tmp_path / "scratch").rglob("*.mp4"))
    assert not list((tmp_path / "home").glob(".mocrop-tls-*"))


@pytest.mark.soak
def test_the_script_makes_a_store_and_leaves_nothing(synth_data: Path, tmp_path: Path) -> None:
    (tmp_path / "mocrop.sbatch").write_text(adapted(synth_data, tmp_path))
    for name, text in {"srun": 'while case $1 in --*) ;; *) false;; esac; do shift; done; exec "$@"',
                       "hostname": "echo 127.0.0.1"}.items():  # fmt: skip
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {
        "HOME": str(tmp_path / "home"),
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PREFECT_HOME": str(tmp_path / "home/prefect"),
        "SLURM_JOB_ID": str(free_port() - 20000),
        "SLURM_CPUS_PER_TASK": "2",
    }
    done = subprocess.run(
        ["bash", "mocrop.sbatch"], cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    check_result(tmp_path, done.stdout)
    assert f"tls://127.0.0.1:{int(environment['SLURM_JOB_ID']) + 20000}" in done.stderr


CANCELLED_AND_SUBMITTED_AGAIN = """
submit() { sbatch --parsable --output=%j.out --export="$EXPORT" mocrop.sbatch; }
left() { squeue --noheader --jobs="$1" --format=%T 2>/dev/null; }
job=$(submit)
while [ "$(ls "$STORE/progress/transcode" 2>/dev/null | grep -c '^0')" -lt 3 ]; do
    [ -n "$(left "$job")" ]
    sleep 0.2
done
scancel "$job"
while [ -n "$(left "$job")" ] || [ -e "$STORE/progress/lock" ]; do sleep 0.2; done
job=$(submit)
while [ -n "$(left "$job")" ]; do sleep 0.5; done
scontrol show job "$job"
cat "$job.out"
"""


@pytest.mark.soak
@pytest.mark.parametrize("export", ["ALL", "NIL"])
def test_two_nodes_of_a_cluster_go_on_after_a_job_was_cancelled(export: str, synth_data: Path, tmp_path: Path) -> None:
    """With NIL, jobs get the environment of a login, and ``srun`` hands on nothing of the job's unless it is told."""
    directives = {"nodes": "2", "cpus-per-task": "2", "mem-per-cpu": "2G", "time": "10"}
    (tmp_path / "mocrop.sbatch").write_text(adapted(synth_data, tmp_path, **directives))
    home = {"HOME": str(tmp_path / "home"), "PREFECT_HOME": str(tmp_path / "home/prefect")}
    exported = ",".join([export, *(f"{name}={value}" for name, value in home.items())])
    said = run_on_slurm(
        tmp_path, CANCELLED_AND_SUBMITTED_AGAIN, EXPORT=exported, STORE=f"{tmp_path}/slurm.zarr", **home
    )
    assert "JobState=COMPLETED" in said
    assert re.search(r"one-pass: [1-9]\d? of 12 clips", said), "it goes on where it was"
    assert "NodeList=n[1-2]" in said
    check_result(tmp_path, said)
