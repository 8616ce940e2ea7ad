"""The checks of `mocrop doctor`: whether this machine can run everything, and how to fix what is wrong."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
from packaging.requirements import Requirement
from packaging.version import Version

from data_specs.resources import usable_cores, usable_memory
from data_specs.stored import shown
from pipelines.execution.process_setup import own_python

GIB = 2**30
LEAST_DISK, LEAST_MEMORY = 2 * GIB, 2 * GIB  # the demo fits; `mocrop plan` knows what a data set needs
_TORCH_SECONDS = 300.0
_FRAMES = 12


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: its name, whether it is in order, what was found, and the remedy ("" if it is in order).

    ``absent`` marks an optional part that is not installed, which is in order.
    """

    name: str
    ok: bool
    found: str
    remedy: str = ""
    absent: bool = False


def checks(folder: Path | None = None, *, on_check: Callable[[Check], None] | None = None) -> list[Check]:
    """Check everything and return the findings in a fixed order; ``on_check`` is called with each of them.

    ``folder`` is the future place of the work folder or the store (default: the working folder); it may not exist yet.
    Nothing is changed: the trial videos are in a temporary folder. It takes some seconds, most of them for
    importing torch in a separate process. Faults are returned as `Check`, never raised.
    """
    found: list[Check] = []
    for check in _each(Path.cwd() if folder is None else Path(folder)):
        found.append(check)
        if on_check is not None:
            on_check(check)
    return found


def _each(folder: Path) -> Iterator[Check]:
    yield python_check()
    yield from package_checks()
    yield torch_check()
    yield from video_checks()
    yield disk_check(folder)
    yield memory_check()
    yield prefect_check()


def python_check() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    ok = (3, 11) <= sys.version_info[:2] < (3, 14)
    return Check("python", ok, found, "" if ok else "create the environment with Python 3.11, 3.12 or 3.13")


def package_checks() -> Iterator[Check]:
    """The versions of the packages in this package's metadata; those of extras may be absent."""
    try:
        lines = importlib.metadata.requires("mocrop") or []
    except importlib.metadata.PackageNotFoundError:
        yield Check("mocrop", False, "not installed", "run pip install -e . in the repository (or make setup)")
        return
    yield Check("mocrop", True, importlib.metadata.version("mocrop"))
    for needed in map(Requirement, lines):
        extra = re.search(r"extra == ['\"](\w+)['\"]", str(needed.marker or ""))
        if extra and extra[1] in ("all", "dev"):
            continue
        yield package_check(needed, extra[1] if extra else None)


def package_check(needed: Requirement, extra: str | None) -> Check:
    """Whether one requirement is met; an absent package is an error unless it belongs to an ``extra``."""
    wanted = f"{needed.name}{needed.specifier}"
    remedy = f'pip install "{wanted}"'
    try:
        version = importlib.metadata.version(needed.name)
    except importlib.metadata.PackageNotFoundError:
        if extra:
            return Check(needed.name, True, f'not installed; part of the extra "{extra}"', absent=True)
        return Check(needed.name, False, "not installed", remedy)
    if needed.specifier.contains(Version(version), prereleases=True):
        return Check(needed.name, True, version)
    why = "; the Prefect server does not start with it" if needed.name == "fastapi" else ""
    return Check(needed.name, False, f"{version}, needed {needed.specifier}{why}", remedy)


def torch_check() -> Check:
    """Whether torch and torchvision work together, tested by importing both in a separate process."""
    name = "torch with torchvision"
    try:
        versions = [importlib.metadata.version(package) for package in ("torch", "torchvision")]
    except importlib.metadata.PackageNotFoundError as absent:
        return Check(name, True, f'no {absent.name}; training needs: pip install "mocrop[train]"', absent=True)
    script = "import torch, torchvision; print(torch.cuda.device_count())"
    try:
        child = subprocess.run(
            own_python("-c", script),
            capture_output=True,
            text=True,
            timeout=_TORCH_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Check(name, False, f"importing them took over {_TORCH_SECONDS:g} s", "check the disk and memory")
    found = f"torch {versions[0]}, torchvision {versions[1]}"
    if child.returncode == 0:
        gpus = int(child.stdout.split()[-1])
        return Check(name, True, f"{found}, {f'{gpus} GPU' if gpus else 'no GPU: training runs on the CPU'}")
    last = (child.stderr.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
    remedy = "install both from one index: pip install --force-reinstall torch torchvision (a CPU-only torch "
    remedy += "does not work with the usual torchvision)"
    return Check(name, False, f"{found} cannot be imported: {last}", remedy)


def video_checks() -> Iterator[Check]:
    """ffmpeg, and a test with a tiny video: write MPEG-4, read it, transcode it to H.264, and read that."""
    try:
        from pipelines.media import (  # imported here, so that a broken installation is a finding and not a crash
            decoder,
            encoder,
            ffmpeg_binary,
        )
    except ImportError as error:
        yield Check("ffmpeg", False, f"the search for it failed: {error}", "install mocrop again")
        return
    try:
        tool = ffmpeg_binary.find_ffmpeg()
    except ffmpeg_binary.FfmpegError as error:
        remedy = "install an ffmpeg with libx264 (Debian, Ubuntu: apt install ffmpeg; macOS: brew install ffmpeg)"
        if os.environ.get("MOCROP_FFMPEG"):
            remedy += ", or unset MOCROP_FFMPEG or set it to such a program"
        yield Check("ffmpeg", False, str(error), remedy)
        return
    origin = "bundled with imageio-ffmpeg" if "imageio_ffmpeg" in tool.path else "of the system"
    origin = "named by MOCROP_FFMPEG" if os.environ.get("MOCROP_FFMPEG") else origin
    yield Check("ffmpeg", True, f"{tool.version} with libx264, {origin}: {tool.path}")
    with tempfile.TemporaryDirectory(prefix="mocrop-doctor-") as scratch:
        source, target = Path(scratch, "trial.avi"), Path(scratch, "trial.mp4")
        yield _trial("MPEG-4", decoder, lambda: encoder.write_video(source, _moving(), 25, codec="mpeg4"), source)
        encode = encoder.EncodeSettings()
        yield _trial("H.264", decoder, lambda: encoder.transcode(str(source), str(target), encode, tool, 60.0), target)


def _trial(codec: str, video: ModuleType, write: Callable[[], object], path: Path) -> Check:
    """Whether a video of a moving texture can be written and read back with its frames and some motion vectors."""
    name = f"{codec} round trip"
    remedy = 'reinstall the decoders with pip install --force-reinstall "av>=18,<19", or try another ffmpeg by '
    remedy += "MOCROP_FFMPEG"
    try:
        write()
        motion = video.extract(path, lambda vectors: None)
    except Exception as error:  # any failure of the test is a finding
        return Check(name, False, f"{type(error).__name__}: {error}", remedy)
    found = f"{motion.num_frames} frames, {motion.num_vectors} motion vectors"
    if motion.num_frames == _FRAMES and motion.num_vectors > 0:
        return Check(name, True, found)
    return Check(name, False, f"{found}, expected {_FRAMES} frames and some vectors", remedy)


def _moving() -> Iterator[np.ndarray]:
    """Frames (96, 128, 3) uint8 of a random texture that moves to the right by 3 px per frame."""
    coarse = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    texture = coarse.repeat(4, axis=0).repeat(4, axis=1)
    for frame in range(_FRAMES):
        yield np.roll(texture, 3 * frame, axis=1)


def disk_check(folder: Path) -> Check:
    """Free space and write permission at ``folder``, or where it would be created."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        return Check("disk", False, f"{place} is a file", "give a folder")
    free = shutil.disk_usage(place).free
    found = f"{free / GIB:.1f} GiB free at {place}"
    if not os.access(place, os.W_OK | os.X_OK):
        return Check("disk", False, f"{found}, not writable", "choose another folder or change its permissions")
    if free < LEAST_DISK:
        remedy = f"free some space: the demo needs {LEAST_DISK / GIB:g} GiB; mocrop plan estimates it for a data set"
        return Check("disk", False, found, remedy)
    return Check("disk", True, f"{found}; mocrop plan estimates what a data set needs")


def memory_check() -> Check:
    """Memory and cores that this process may use, within its container's limits."""
    cores, memory = usable_cores(), usable_memory()
    found = f"{f'{memory / GIB:.1f} GiB' if memory else 'unknown'} of memory, {cores} core{'s'[: cores > 1]}"
    if memory and memory < LEAST_MEMORY:
        return Check("memory", False, found, f"use a machine with {LEAST_MEMORY / GIB:g} GiB, or --workers 1")
    return Check("memory", True, found)


def prefect_check() -> Check:
    """Whether a server answers at ``PREFECT_API_URL`` or at the URL in ./prefect.toml; none is required."""
    name, url = "prefect server", os.environ.get("PREFECT_API_URL", "")
    if find_spec("prefect") is None:
        return Check(name, True, 'no prefect; mocrop preprocess needs: pip install "mocrop[pipeline]"', absent=True)
    from pipelines.execution import server_address

    settings = Path("prefect.toml")
    if not url and settings.is_file():
        try:
            url = str(tomllib.loads(settings.read_text(encoding="utf-8")).get("api", {}).get("url", ""))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, AttributeError) as error:
            return Check(name, False, f"prefect.toml cannot be read: {error}", "correct or remove prefect.toml")
    if not url:
        return Check(name, True, "PREFECT_API_URL is not set: each run starts its own server")
    if server_address.answers(url):
        return Check(name, True, f"answers at {shown(url)}")
    return Check(name, True, f"none answers at {shown(url)}: mocrop preprocess and mocrop serve start their own")
