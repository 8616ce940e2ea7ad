"""Programs of the distribution that some tests need; installed by the tests themselves only where they are told to."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

INSTALL_SECONDS = 900


def needed(*packages: str) -> None:
    """Fail with one line where a Debian package is missing, or install it where the environment says so.

    ``MOCROP_TEST_INSTALL=1``, or ``CI`` as every CI service sets it, lets root install what is missing with apt-get,
    one process at a time; the package lists are fetched only if the first try finds nothing. ``MOCROP_TEST_INSTALL=0``
    forbids it in CI too.
    """
    missing = _missing(packages)
    if not missing:
        return
    wish = f"this test needs {', '.join(missing)}: apt-get install {' '.join(missing)}"
    if not may_install():
        pytest.fail(f"{wish} (or, as root, MOCROP_TEST_INSTALL=1 has the tests install it)", pytrace=False)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.fail(f"{wish} (only root on Debian or Ubuntu can have the tests install it)", pytrace=False)
    with (Path(tempfile.gettempdir()) / f"mocrop-tests-apt-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = _missing(packages)
        if missing and _apt("install", "--no-install-recommends", *missing).returncode != 0:
            _apt("update")
            last = _apt("install", "--no-install-recommends", *missing)
            if last.returncode != 0:
                said = " / ".join(last.stderr.strip().splitlines())[-500:]
                pytest.fail(f"{wish}; apt-get said: {said}", pytrace=False)


def may_install() -> bool:
    """Whether the environment lets the tests install packages."""
    said = os.environ.get("MOCROP_TEST_INSTALL") or os.environ.get("CI") or ""
    return said.lower() not in ("", "0", "false", "no")


def _missing(packages: tuple[str, ...]) -> list[str]:
    query = ["dpkg-query", "--show", "--showformat", "${db:Status-Abbrev}"]
    if shutil.which("dpkg-query") is None:
        return list(packages)
    return [
        package
        for package in packages
        if not subprocess.run([*query, package], capture_output=True, text=True).stdout.startswith("ii")
    ]


def _apt(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["apt-get", "--quiet", "--yes", "-o", "DPkg::Lock::Timeout=300", *words],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
    )
