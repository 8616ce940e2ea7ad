"""A SLURM cluster of two nodes on this machine, in namespaces of its own, where it listens on no other network.

It needs root and Debian's `PACKAGES`.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.system_packages import needed

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "iproute2")
_CONFIGURATION = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SlurmdParameters=config_overrides
KillWait=5
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port=17001 CPUs=2 RealMemory=8000
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port=17002 CPUs=2 RealMemory=8000
PartitionName=cpu Nodes=n1,n2 Default=YES State=UP
"""
_START = """
set -eu
ip link set lo up
ip link add v0 type veth peer name v1  # names are not resolved where there is no network
ip addr add 10.99.0.1/24 dev v0
ip link set v0 up
ip link set v1 up
hostname localhost
trap 'kill $(jobs -p); wait' EXIT
munged --force --foreground --socket="$FOLDER/run/munge.socket" --key-file="$FOLDER/munge/key" \
    --pid-file="$FOLDER/munge/pid" --log-file="$FOLDER/munge/log" --seed-file="$FOLDER/munge/seed" &
until [ -S "$FOLDER/run/munge.socket" ]; do kill -0 $!; sleep 0.1; done
slurmctld -D &
slurmd -N n1 -D &
slurmd -N n2 -D &
until [ "$(sinfo --noheader --states=idle --format=%D)" = 2 ]; do sleep 0.2; done
"""


def run_on_slurm(folder: Path, script: str, **variables: str) -> str:
    """Start the cluster, run a shell script that may use ``sbatch``, and end the cluster; what all of them wrote."""
    needed(*PACKAGES)
    for name in ("run", "munge", "state"):
        (folder / name).mkdir()
    (folder / "slurm.conf").write_text(_CONFIGURATION.format(folder=folder))
    (folder / "munge/key").write_bytes(os.urandom(1024))
    (folder / "munge/key").chmod(0o400)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "SLURM_"))}
    kept |= {"FOLDER": str(folder), "SLURM_CONF": str(folder / "slurm.conf"), **variables}
    kept["PATH"] += ":/usr/sbin:/sbin"
    done = subprocess.run(
        ["unshare", "--uts", "--net", "bash", "-c", _START + script],
        env=kept, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout
