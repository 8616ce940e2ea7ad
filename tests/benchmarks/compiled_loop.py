"""One step of the method `actor`, the persistence of motion, against the same step as a compiled C loop.

It shows what compiling would give; the package itself stays without compiled code of its own.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mocrop_core import KeyFrames
from mocrop_core.camera import camera_residual
from mocrop_core.cells import cell_displacements, cell_grid
from mocrop_core.persistence import FRAMES, LEAST_SUPPORT, REACH, persistent_motion, weighted
from mocrop_core.texture import smooth_texture
from mocrop_core.vectors import Vectors
from tests.benchmarks.measuring import Result, interleaved, ratios, spent_here

SOURCE = Path(__file__).with_name("persistence.c")
TIMES = 20
Arrays = tuple[npt.NDArray[Any], ...]


def inputs(vectors: Vectors, num_frames: int, keys: KeyFrames, frame_size: tuple[int, int]) -> Arrays:
    """The step's input for a clip: residuals along x and y, where there are vectors, texture."""
    frames = np.setdiff1d(np.arange(num_frames), keys.frames)
    dx, dy, has = cell_displacements(vectors, frames, cell_grid(frame_size))
    latest = np.maximum(np.searchsorted(keys.frames, frames, side="right") - 1, 0)
    texture = smooth_texture(keys.textures)[latest]
    return (*camera_residual(dx, dy, has, texture), has, texture)


def with_numpy(along: Any, down: Any, has: Any, texture: Any) -> npt.NDArray[np.float32]:
    """The step as the package does it."""
    sums = weighted((along, down), has, texture)
    first, last = (np.repeat(sums[:, end], REACH, axis=1) for end in (slice(1), slice(-1, None)))
    return persistent_motion(np.concatenate([first, sums, last], axis=1), texture)


def compared(arrays: Arrays, repetitions: int) -> list[Result]:
    """Time of the step with NumPy over that of the compiled loop; nothing where there is no C compiler."""
    if (compiler := shutil.which("cc")) is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "persistence.so")
        # not -ffast-math, whose start-up code changes the arithmetic of the whole process
        options = ("-O3", "-march=native", "-fno-math-errno", "-shared", "-fPIC")
        subprocess.run([compiler, *options, "-o", library, SOURCE, "-lm"], check=True)
        loop = ctypes.CDLL(str(library)).persistent
    out = np.empty(arrays[0].shape, np.float32)
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (*arrays, out)]
    least = ctypes.c_float(LEAST_SUPPORT * 9 * FRAMES)
    loop(*pointers, *out.shape, least)
    assert np.abs(out - with_numpy(*arrays)).max() < 1e-4
    arms = {
        "numpy": lambda: spent_here(lambda: with_numpy(*arrays), TIMES),
        "compiled": lambda: spent_here(lambda: loop(*pointers, *out.shape, least), TIMES),
    }
    samples = interleaved(arms, repetitions)
    micro = {arm: round(float(np.median(values)) / len(out) * 1e6, 1) for arm, values in samples.items()}
    name = "actor's persistence step with NumPy, of the same as a compiled C loop"
    remark = f"{micro['numpy']} and {micro['compiled']} µs a frame of 320 × 240"
    return [Result(name, "times", ratios(samples["numpy"], samples["compiled"]), None, remark, micro)]
