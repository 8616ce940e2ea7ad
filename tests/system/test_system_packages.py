"""What tests need of the distribution: named in one line, and installed only where the environment says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.system_packages import needed


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution without the package `some-tool`, and the file with what its apt-get was asked to do."""
    programs, note = tmp_path / "bin", tmp_path / "asked"
    programs.mkdir()
    for name, script in {
        "dpkg-query": f'for last; do :; done; [ "$last" = there ] || grep -q "install.* $last" {note} && printf "ii "',
        "apt-get": f'echo "$@" >> {note}',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    note.touch()
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in ("CI", "MOCROP_TEST_INSTALL"):
        monkeypatch.delenv(name, raising=False)
    return note


def said(*packages: str) -> str:
    """The line with which a test fails that needs these packages."""
    with pytest.raises(pytest.fail.Exception) as failed:
        needed(*packages)
    assert "\n" not in str(failed.value)
    return str(failed.value)


@pytest.mark.parametrize("unset", [{}, {"CI": "false"}, {"CI": "true", "MOCROP_TEST_INSTALL": "0"}])
def test_a_missing_package_fails_in_one_line_and_nothing_is_installed_unasked(
    asked: Path, monkeypatch: pytest.MonkeyPatch, unset: dict[str, str]
) -> None:
    for name, value in unset.items():
        monkeypatch.setenv(name, value)
    assert said("there", "some-tool") == (
        "this test needs some-tool: apt-get install some-tool "
        "(or, as root, MOCROP_TEST_INSTALL=1 has the tests install it)"
    )
    needed("there")
    assert asked.read_text() == ""


@pytest.mark.parametrize("name", ["CI", "MOCROP_TEST_INSTALL"])
def test_what_is_missing_is_installed_where_the_environment_says_so(
    asked: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    needed("there", "some-tool")
    (line,) = asked.read_text().splitlines()
    assert line.endswith("install --no-install-recommends some-tool")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "only root on Debian or Ubuntu" in said("other-tool")


def test_an_installation_that_fails_tells_why_in_one_line(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOCROP_TEST_INSTALL", "1")
    Path(asked.parent / "bin/apt-get").write_text("#!/bin/sh\necho 'E: no\nnetwork' >&2\nexit 100\n")
    assert said("some-tool").endswith("apt-get said: E: no / network")
