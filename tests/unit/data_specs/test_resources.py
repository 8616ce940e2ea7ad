"""Cores and memory within limits of control groups, as Docker, Kubernetes, systemd and older systems lay them out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data_specs.resources import usable_cores, usable_memory
from tests.places import ROOT

CORES = 64
PHYSICAL = 256 * 2**30
V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw,nsdelegate"


@pytest.fixture(autouse=True)
def large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 cores and 256 GiB, so that no limit below is the testing machine's own."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(CORES)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: CORES)
    monkeypatch.setattr(os, "sysconf", lambda name: PHYSICAL if name == "SC_PHYS_PAGES" else 1)


def system(root: Path, groups: str, mounts: str, **files: str) -> Path:
    """A root folder with the files that the kernel shows: ``files`` are contents by path below /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups + "\n")
    (root / "proc/self/mountinfo").write_text(f"22 1 8:1 / / rw - ext4 /dev/root rw\n{mounts}\n")
    for path, content in files.items():
        file = root / "sys/fs/cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content + "\n")
    return root


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("400000 100000", 4), ("max 100000", CORES), ("150000 100000", 2), ("5000 100000", 1), ("9900000 100000", CORES)],
)
def test_the_quota_of_a_container_counts(tmp_path: Path, limit: str, cores: int) -> None:
    root = system(tmp_path, "0::/", V2, **{"cpu.max": limit})
    assert usable_cores(root) == cores


def test_the_smallest_limit_of_nested_groups_counts(tmp_path: Path) -> None:
    root = system(
        tmp_path,
        "0::/kubepods.slice/pod 1/box",
        V2,
        **{
            "kubepods.slice/cpu.max": "1600000 100000",
            "kubepods.slice/pod 1/cpu.max": "300000 100000",
            "kubepods.slice/pod 1/box/cpu.max": "max 100000",
            "kubepods.slice/memory.max": str(8 * 2**30),
            "kubepods.slice/pod 1/box/memory.max": "max",
            "other/cpu.max": "100000 100000",
        },
    )
    assert usable_cores(root) == 3
    assert usable_memory(root) == 8 * 2**30


@pytest.mark.parametrize("name", ["cpu", "cpu,cpuacct", "cpuacct,cpu"])
def test_the_quota_of_version_1_counts_wherever_it_is_mounted(tmp_path: Path, name: str) -> None:
    """A container sees its group as the top of the mount, while its path is the host's."""
    mounts = (
        rf"32 31 0:29 /docker/a\040b /sys/fs/cgroup/{name} rw - cgroup cgroup rw,{name}"
        "\n35 31 0:32 /docker/a\\040b /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
        "\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
    )
    groups = f"5:memory:/docker/a b\n4:{name}:/docker/a b/job\n1:name=systemd:/docker/a b\n0::/"
    files = {
        f"{name}/cpu.cfs_quota_us": "-1",
        f"{name}/cpu.cfs_period_us": "100000",
        f"{name}/job/cpu.cfs_quota_us": "250000",
        f"{name}/job/cpu.cfs_period_us": "50000",
        "memory/memory.limit_in_bytes": str(3 * 2**30),
    }
    root = system(tmp_path, groups, mounts, **files)
    assert usable_cores(root) == 5
    assert usable_memory(root) == 3 * 2**30


def test_a_group_outside_the_mount_is_taken_for_the_top_of_it(tmp_path: Path) -> None:
    root = system(tmp_path / "a", "0::/../../other", V2, **{"cpu.max": "200000 100000"})
    assert usable_cores(root) == 2
    mount = V2.replace(" / ", " /system.slice/docker ", 1)
    root = system(tmp_path / "b", "0::/user.slice", mount, **{"cpu.max": "300000 100000"})
    assert usable_cores(root) == 3


def test_without_control_groups_the_cores_are_those_it_may_run_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert usable_cores(tmp_path) == CORES
    assert usable_memory(tmp_path) == PHYSICAL
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    root = system(tmp_path, "0::/", V2, **{"cpu.max": "400000 100000"})
    assert usable_cores(root) == 2


def test_no_other_module_counts_cores() -> None:
    root = ROOT
    counting = [
        str(path.relative_to(root))
        for folder in ("mocrop_core", "data_specs", "pipelines", "training")
        for path in sorted((root / folder).rglob("*.py"))
        if any(name in path.read_text(encoding="utf-8") for name in ("cpu_count(", "sched_getaffinity("))
    ]
    assert counting == ["data_specs/resources.py"]
