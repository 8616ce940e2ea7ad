"""The frame codecs' benchmark as lines of the table; `frame_codecs` says more, and shows all that it measured."""

from __future__ import annotations

import warnings

from tests.benchmarks import frame_codecs
from tests.benchmarks.footage import real_clips
from tests.benchmarks.frame_codecs import SIDE
from tests.benchmarks.measuring import REPETITIONS, Result
from tests.places import DATA

SHOWN = ("raw", "blosc lz4", "zstd1", "zstd3", "jpeg q95", "jpeg q90")  # what a recipe can ask for, and their next


def run(quick: bool = False) -> list[Result]:
    """Bytes a clip of each codec, and its speed: writing, and reading three frames of a clip at random."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr")
        data, repetitions, reads, side = (real_clips()[0].parent, 1, 2, 32) if quick else (DATA, REPETITIONS, 20, SIDE)
        found = frame_codecs.run(data, repetitions, reads, side)
    results = []
    for codec in SHOWN:
        row = found["codecs"][codec]
        reading = row.get("read_tensorstore_ms") or row["read_zarr_ms"]
        by = "tensorstore" if "read_tensorstore_ms" in row else "zarr-python"
        results += [
            Result(f"store, {codec}", "MB/clip", (row["bytes_a_clip"] / 1e6,), None, f"{row['share']:.0%} of raw"),
            Result(f"store, {codec}, writing", "MB/s", tuple(row["write_mb_s"]["samples"])),
            Result(f"store, {codec}, three frames of a clip", "ms", tuple(reading["samples"]), None, by),
        ]
    results[0] = Result(results[0].name, results[0].unit, results[0].samples, None, results[0].remark, found)
    return results
