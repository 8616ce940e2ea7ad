"""A walk from nothing: the wheel in an empty environment, one video, a folder of videos. It needs a package index."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.docs.test_docs import DOCUMENTS, blocks_of
from tests.places import ROOT
from tests.support.soak import record

MOST_DISTRIBUTIONS = 26
NOT_OURS = {"pip", "setuptools", "wheel"}  # what a new environment may come with


class Bare:
    """An environment with nothing in it, and a folder to work in."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.home = folder / "environment" / "bin", folder / "home"
        self.home.mkdir()
        subprocess.run([sys.executable, "-m", "venv", str(self.bin.parent)], check=True)

    def run(self, *words: object, status: int = 0) -> str:
        """What a program of the environment prints; a test fails where it ends with another status."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
        environment = {**kept, "PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(self.home), "DO_NOT_TRACK": "1"}
        command = [str(self.bin / str(words[0])), *map(str, words[1:])]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.home, env=environment, timeout=900)
        assert done.returncode == status, f"{words}: {done.stdout[-1000:]}{done.stderr[-2000:]}"
        return done.stdout + done.stderr

    def install(self, *words: object) -> None:
        quiet = ("--quiet", "--disable-pip-version-check", "--constraint", ROOT / "constraints.txt")
        self.run("python", "-m", "pip", "install", *quiet, *words)

    def installed(self) -> dict[str, str]:
        """The distributions and their versions, without those that the environment came with."""
        listed = json.loads(self.run("python", "-m", "pip", "list", "--disable-pip-version-check", "--format=json"))
        return {one["name"]: one["version"] for one in listed if one["name"] not in NOT_OURS}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that ``python -m build`` makes of the tracked files, by way of the source distribution."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    for name in subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0"):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    builder = Bare(folder)
    builder.install("build")
    builder.run("python", "-m", "build", "--outdir", folder / "dist", source)
    (sdist,), (built,) = folder.glob("dist/*.tar.gz"), folder.glob("dist/*.whl")
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "mocrop/__init__.py"} <= inside
    return built


def library_blocks() -> list[str]:
    """The Python of README.md and of docs/reference/python.md that needs no extra."""
    shown = [document for document in DOCUMENTS if document.name in ("README.md", "python.md")]
    found = [block.text for document in shown for block in blocks_of(document) if block.language == "python"]
    return [text for text in found if "torch" not in text and "CropDataset" not in text]


@pytest.mark.soak
def test_a_stranger_installs_the_wheel_and_crops_a_video_then_a_folder(
    wheel: Path, ucf_clips: Path, ucf_store: Path, tmp_path: Path
) -> None:
    bare = Bare(tmp_path)
    bare.install(wheel)
    distributions = bare.installed()
    assert len(distributions) <= MOST_DISTRIBUTIONS
    assert not {"torch", "prefect", "dask", "obstore"} & distributions.keys()
    packages = next(bare.bin.parent.glob("lib/python*/site-packages"))
    size = sum(path.stat().st_size for path in packages.rglob("*") if not path.is_dir()
               and path.relative_to(packages).parts[0].partition("-")[0] not in NOT_OURS)  # fmt: skip

    clips = sorted(ucf_clips.rglob("*.avi"))[:3]
    shutil.copy(clips[0], bare.home / "clip.avi")
    shutil.copy(next(Path(f"{ucf_store}.work").rglob("*.mp4")), bare.home / "clip.mp4")
    (bare.home / "ucf101.zarr").symlink_to(ucf_store)
    scripts = library_blocks()
    assert scripts
    for script in scripts:
        bare.run("python", "-c", script)
    said = bare.run("mocrop", "crop", "clip.avi", "cropped.mp4", "--area", "0.5", "--size", "224", "--overwrite")
    assert "cropped.mp4: " in said
    assert (bare.home / "cropped.mp4").stat().st_size > 1000
    assert len(json.loads(bare.run("mocrop", "crop", "clip.avi", "--json"))["boxes"]) == 1
    folder = ["--source", "videos", "--store", "videos.zarr", "--recipe", "smoke"]
    for clip in clips:
        (bare.home / "videos" / clip.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, bare.home / "videos" / clip.parent.name)
    assert 'pip install "mocrop[pipeline]"' in bare.run("mocrop", "preprocess", *folder, status=1)

    bare.install(f"{wheel}[pipeline]")
    assert "3 clips, 3 done" in bare.run("mocrop", "preprocess", *folder)
    assert "OK: no problems found" in bare.run("mocrop", "verify", "videos.zarr")
    record("the wheel in an empty environment", distributions=len(distributions), megabytes=round(size / 1e6))
