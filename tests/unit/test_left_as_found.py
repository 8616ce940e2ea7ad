"""A test leaves the process as it found it, whatever a command that ran in it has set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def _surroundings() -> Iterator[None]:
    """What is there before the first and after the last test of this module."""

    def found() -> dict[str, str]:
        return {**os.environ, "PYTEST_CURRENT_TEST": "", "PWD of the process": os.getcwd()}

    before = found()
    yield
    assert found() == before


@pytest.mark.usefixtures("_surroundings")
def test_the_environment_and_the_folder_are_put_back(tmp_path: Path) -> None:
    os.environ["MOCROP_LEFT_BEHIND"] = "1"
    os.environ.pop("OMP_NUM_THREADS")
    os.chdir(tmp_path)
