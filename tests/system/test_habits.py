"""Habits that people rely on: completion in their shell, NO_COLOR, hooks that check what CI checks, a changelog."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.places import ROOT

BIN = Path(sys.executable).parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
MAKEFILE = (ROOT / "Makefile").read_text()
COLOUR = re.compile(rb"\x1b\[(?:\d+;)*(?:3[0-7]|4[0-7]|9[0-7]|10[0-7]|38;[\d;]+|48;[\d;]+)[;\d]*m")


def with_mocrop(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "TERM")}
    return kept | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"} | more


@pytest.mark.soak
def test_bash_completes_commands_and_flags() -> None:
    script = """
        eval "$(_MOCROP_COMPLETE=source_bash mocrop)"
        complete -p mocrop >/dev/null || exit 3
        for words in "mocrop pre" "mocrop preprocess --max-q"; do
            COMP_WORDS=($words); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            _mocrop_completion mocrop
            printf '%s\\n' "${COMPREPLY[@]}"
        done
    """
    found = subprocess.run(["bash", "-c", script], env=with_mocrop(), capture_output=True, text=True, timeout=600)
    assert (found.returncode, found.stdout.split()) == (0, ["preprocess", "--max-quarantined"]), found.stderr


@pytest.mark.parametrize("shell", [pytest.param("zsh", marks=pytest.mark.soak), "fish"])
def test_other_shells_are_given_the_same_commands(shell: str) -> None:
    ask = with_mocrop(
        _MOCROP_COMPLETE=f"complete_{shell}",
        _TYPER_COMPLETE_ARGS="mocrop pre",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    )
    found = subprocess.run([BIN / "mocrop"], env=ask, capture_output=True, text=True, timeout=600)
    assert re.findall(r"\bpre\w+", found.stdout)[0] == "preprocess", found.stderr
    source = subprocess.run(
        [BIN / "mocrop"],
        env=with_mocrop(_MOCROP_COMPLETE=f"source_{shell}"),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert f"complete_{shell}" in source.stdout


def on_a_terminal(store: Path, **more: str) -> bytes:
    """All that a command with a progress bar writes to a terminal."""
    leader, terminal = pty.openpty()
    words = [BIN / "mocrop", "verify", store]
    shown = b""
    with subprocess.Popen(words, stdin=terminal, stdout=terminal, stderr=terminal, env=with_mocrop(**more)) as process:
        os.close(terminal)
        try:
            while chunk := os.read(leader, 65536):
                shown += chunk
        except OSError:  # how Linux says that nobody holds the terminal any more
            pass
        assert process.wait(600) == 0, shown
    os.close(leader)
    return shown


def test_no_color_is_obeyed_on_a_terminal(synth_store: Path) -> None:
    coloured = on_a_terminal(synth_store, TERM="xterm-256color")
    assert COLOUR.search(coloured), "without NO_COLOR the bar has colours, or this test sees nothing"
    plain = on_a_terminal(synth_store, TERM="xterm-256color", NO_COLOR="1")
    assert b"OK: no problems found" in plain
    assert not COLOUR.search(plain)


def targets(text: str) -> set[str]:
    return set(re.findall(r"\bmake ([a-z-]+)\b", text))


def test_the_hooks_run_what_make_test_runs(tmp_path: Path) -> None:
    """The real hooks on a repository whose Makefile only writes down what it is asked for."""
    shutil.copy(ROOT / ".pre-commit-config.yaml", tmp_path)
    (tmp_path / "Makefile").write_text("lint test:\n\techo $@ >> asked\n\ttest ! -e bad-$@\n")
    environment = with_mocrop(PRE_COMMIT_HOME=str(tmp_path / "home"), GIT_CONFIG_GLOBAL="/dev/null")

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            list(map(str, words)), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
        )

    assert run("git", "init", "--quiet").returncode == 0
    assert run("git", "add", ".pre-commit-config.yaml", "Makefile").returncode == 0
    for stage, target in (("pre-commit", "lint"), ("pre-push", "test")):
        hooks = (BIN / "pre-commit", "run", "--all-files", "--hook-stage", stage)
        good = run(*hooks)
        assert good.returncode == 0, good.stdout + good.stderr
        assert (tmp_path / "asked").read_text().split()[-1] == target
        (tmp_path / f"bad-{target}").touch()
        assert run(*hooks).returncode == 1
    assert re.search(r"^test: lint", MAKEFILE, re.MULTILINE), "make test begins with what make lint does"


def test_the_hooks_are_valid_and_installed_for_both_stages() -> None:
    found = subprocess.run([BIN / "pre-commit", "validate-config", ROOT / ".pre-commit-config.yaml"], timeout=600)
    assert found.returncode == 0
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert config["default_install_hook_types"] == ["pre-commit", "pre-push"]
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_the_changelog_has_the_form_and_a_place_for_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:])
    kinds = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert kinds
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert VERSION in text


def test_what_contributing_names_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    asked = targets(text)
    assert {"setup", "lint", "test", "check-docs", "bench", "soak", "stress"} <= asked
    assert asked <= set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    paths = re.findall(r"[`(]((?:tests|mocrop_core|data_specs|pipelines|docs|training)/[\w./]+|[A-Z]+\.md)[`)]", text)
    assert len(paths) > 5
    assert [path for path in paths if not (ROOT / path).exists()] == []
    for word in re.findall(r"-m (tests\.[\w.]+)", text):
        assert (ROOT / word.replace(".", "/")).with_suffix(".py").is_file(), word
    named = {
        "motion_choice": "pipelines/stages/boxes.py",
        "PRESETS": "mocrop_core/method.py",
        "published_box": "tests/unit/mocrop_core/test_core_method.py",
        "View = ": "data_specs/recipes.py",
    }
    for name, module in named.items():
        assert name in (ROOT / module).read_text(), f"{module} has no {name}"
