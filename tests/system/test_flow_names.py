"""The bare deployment name: completed in its own place only."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from pipelines.execution import deployment_alias

RUN = ["prefect", "deployment", "run"]


@pytest.mark.parametrize(
    "words",
    [
        [*RUN, "preprocess-ucf101"],
        [*RUN, "preprocess-ucf101", "-p", "source=a", "--watch"],
        [*RUN, "--watch", "preprocess-ucf101"],
        [*RUN, "-p", "source=a", "preprocess-ucf101"],
        [*RUN, "--param=source=a", "preprocess-ucf101"],
        ["prefect", "--profile", "default", "deployment", "run", "preprocess-ucf101"],
    ],
)
def test_the_bare_name_is_completed(words: list[str]) -> None:
    found = deployment_alias.completed(words)
    assert found == [deployment_alias.DEPLOYMENT if word == deployment_alias.FLOW else word for word in words]
    assert found != words


@pytest.mark.parametrize(
    "words",
    [
        ["prefect"],
        [*RUN],
        [*RUN, "preprocess-ucf101/local"],
        [*RUN, "preprocess-ucf101/pool"],
        [*RUN, "other", "--flow-run-name", "preprocess-ucf101"],
        [*RUN, "--tag", "preprocess-ucf101", "other"],
        ["prefect", "flow-run", "ls", "--flow-name", "preprocess-ucf101"],
        ["prefect", "deployment", "inspect", "preprocess-ucf101"],
        ["pytest", "preprocess-ucf101"],
    ],
)
def test_other_words_stay_as_they_are(words: list[str]) -> None:
    assert deployment_alias.completed(words) == words


def test_prefect_finds_the_hook_by_its_entry_point() -> None:
    (found,) = [entry for entry in entry_points(group="prefect.plugins") if entry.name == "mocrop"]
    assert found.load() is deployment_alias


def test_without_prefect_the_module_does_nothing() -> None:
    code = (
        "import sys; sys.modules['prefect.plugins'] = None; import pipelines.execution.deployment_alias; print('fine')"
    )
    found = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=600)
    assert found.stdout == "fine\n"
    assert found.stderr == ""
