"""What works with the base install alone, and what a command says that lacks its extra; the files of a wheel."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from data_specs.extras import DISTRIBUTIONS, EXTRAS, missing_extra
from tests.places import GOLDEN, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WITHOUT_EXTRAS = f"""
import json, sys
for name in {sorted(name for names in EXTRAS.values() for name in names)!r}:
    sys.modules[name] = None  # its import fails as that of a package that is not installed
"""
COMMANDS = """
import contextlib, io
from pipelines.cli.app import main
said = {}
for words in json.loads(sys.argv[1]):
    sys.argv = ["mocrop", *words]
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code
    said[" ".join(words)] = [status or 0, out.getvalue()]
print(json.dumps(said))
"""


def without_extras(script: str, *words: str, folder: Path) -> str:
    """What a script prints in a process that finds none of the libraries that extras bring."""
    command = [sys.executable, "-P", "-c", WITHOUT_EXTRAS + script, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_command_that_lacks_its_extra_says_what_to_install(
    synth_data: Path, synth_store: Path, tmp_path: Path
) -> None:
    source = str(synth_data / "UCF-101")
    lacking = {
        "pipeline": [
            ["preprocess", "--source", source, "--store", "s.zarr", "--recipe", "smoke"],
            ["serve"],
            ["fetch", "ucf101", "data"],
        ],
        "s3": [["status", "s3://bucket/name.zarr"]],
    }
    whole = [
        ["--version"],
        ["status", str(synth_store)],
        ["boxes", str(synth_store), "--view", "mocrop"],
        ["synth", "-h"],
    ]
    commands = [*whole, *(words for group in lacking.values() for words in group)]
    said = json.loads(without_extras(COMMANDS, json.dumps(commands), folder=tmp_path))
    for words in whole:
        assert said[" ".join(words)][0] == 0, said[" ".join(words)]
    for extra, group in lacking.items():
        for words in group:
            status, text = said[" ".join(words)]
            assert status == 1
            assert text.endswith(f'); install it with: pip install "mocrop[{extra}]"\n')
            assert "Traceback" not in text


def test_the_library_works_without_the_extras(synth_store: Path, tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "moving_disc.mp4", tmp_path / "clip.mp4")
    script = f"""
import mocrop
found = mocrop.find_box("clip.mp4")
store = mocrop.open_store({str(synth_store)!r})
print(mocrop.crop("clip.mp4", found.box, size=32, frames=2).shape, store.done.sum())
mocrop.crop_video("clip.mp4", "cropped.mp4")
for name in ("CropDataset", "transforms"):
    try:
        getattr(mocrop, name)
    except ModuleNotFoundError as error:
        print(error)"""
    advice = "this needs the extra 'train' (no package torch); install it with: pip install \"mocrop[train]\""
    assert without_extras(script, folder=tmp_path).splitlines() == ["(2, 32, 32, 3) 12", advice, advice]


def test_training_without_torch_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    for module in ("training.train", "training.test"):
        done = subprocess.run(
            [sys.executable, "-m", module, "--help"],
            capture_output=True, text=True, env={"PYTHONPATH": f"{tmp_path}:{ROOT}"}, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 1
        advice = "this needs the extra 'train' (no package torch); install it with: pip install \"mocrop[train]\"\n"
        assert done.stderr == advice


def test_every_library_of_an_extra_is_known_by_it() -> None:
    extras = PROJECT["optional-dependencies"]
    assert EXTRAS.keys() == extras.keys() - {"all", "dev"}
    for extra, names in EXTRAS.items():
        assert {Requirement(line).name for line in extras[extra]} == {DISTRIBUTIONS.get(name, name) for name in names}
        for name in names:
            advice = missing_extra(ModuleNotFoundError(f"No module named '{name}'", name=f"{name}.inner"))
            assert advice is not None
            assert advice.endswith(f'pip install "mocrop[{extra}]"')
    assert missing_extra(ModuleNotFoundError("No module named 'numpy'", name="numpy")) is None
    assert extras["all"] == [f"mocrop[{','.join(sorted(EXTRAS))}]"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the tracked files, built by setuptools alone."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0"):
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    script = f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", script], cwd=folder / "source", check=True, capture_output=True)
    (built,) = folder.glob("mocrop-*.whl")
    return built


def test_a_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith("/METADATA"))
        about = archive.read(metadata).decode()
    packages = {"mocrop", "mocrop_core", "data_specs", "pipelines", "training"}
    assert {name.partition("/")[0] for name in names} == {*packages, metadata.partition("/")[0]}
    tracked = subprocess.check_output(["git", "ls-files", *packages], cwd=ROOT, text=True).split()
    assert {name for name in names if name.partition("/")[0] in packages} == set(tracked)
    assert {f"{package}/py.typed" for package in packages} <= names
    assert f"Version: {PROJECT['version']}" in about
    assert "Author: The mocrop authors" in about
    assert "Project-URL: Paper, https://arxiv.org/abs/2509.18473" in about


def test_the_citation_names_this_version() -> None:
    assert f"\nversion: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_workflow_runs_the_tests_on_each_python_that_is_supported() -> None:
    workflow = ROOT / ".github" / "workflows" / "test.yml"
    check = [Path(sys.executable).parent / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", workflow]
    done = subprocess.run(list(map(str, check)), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    versions = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert re.findall(r'"(3\.\d+)"', workflow.read_text()) == versions
    assert "run: .ci/run" in workflow.read_text()
