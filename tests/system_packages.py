"""Programs of the distribution that some tests need: installed by the tests themselves where they may."""

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
    """Have Debian packages installed; where that cannot be, fail with one line that says what to install.

    Root installs what is missing with apt-get, one process at a time; the package lists are fetched only if the
    first try finds nothing. Everyone else gets the line.
    """
    missing = _missing(packages)
    if not missing:
        return
    wish = f"this test needs {', '.join(missing)}: apt-get install {' '.join(missing)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.fail(f"{wish} (only root on Debian or Ubuntu has it done here)", pytrace=False)
    with (Path(tempfile.gettempdir()) / "mocrop-tests-apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = _missing(packages)
        if missing and _apt("install", "--no-install-recommends", *missing).returncode != 0:
            _apt("update")
            last = _apt("install", "--no-install-recommends", *missing)
            if last.returncode != 0:
                pytest.fail(f"{wish}; apt-get said: {last.stderr.strip()[-500:]}", pytrace=False)


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
