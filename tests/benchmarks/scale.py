"""CPU time, memory, files and requests against the number of clips, of tiny clips whose own work is next to nothing.

`python -m tests.benchmarks.scale 2000 100000` measures other numbers of clips than those of the kept result, and prints
the table. The clips are hard links to a few files, read as they are (``keep``), so that what is left is the cost of
shards, records and tables. The reading side of a data set of the size of Kinetics is measured on tables that are
written directly.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_specs.datasets import Clip, Dataset
from data_specs.recipes import Recipe, load_recipe
from data_specs.schema import State
from data_specs.stored import open_store, zarr_store
from mocrop_core import SOURCE_FIXED
from pipelines.runs.options import Options
from pipelines.store.verify import verify
from pipelines.store.writer import create, write_table
from tests.benchmarks.footage import many, real_clips, run_alone, small
from tests.benchmarks.measuring import Result, Usage, answer, called, cpu_seconds, most, peak_mb, run_command
from tests.benchmarks.scaling import SMALL_RECIPE
from tests.support.object_store import environment, faulty, make_bucket, s3_server

FEW = 16  # clips of a run that is little but its start
CLIPS = (2_000,)
ROWS = 650_000  # about those of Kinetics-700
SHARDS = (2, 6)  # of a store on S3: their difference gives the requests of a shard
VIEWS = 2


def run(quick: bool = False) -> list[Result]:
    """All lines for `CLIPS`."""
    return measured((32,) if quick else CLIPS, 1_000 if quick else ROWS)


def measured(sizes: Sequence[int], rows: int) -> list[Result]:
    """All lines: the commands for each number of clips, tables of ``rows``, and requests to an object store."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = small(real_clips(), folder / "small")
        _commands(many(clips, FEW, folder / "warm"), folder, "warm")
        few, _ = _commands(many(clips, FEW, folder / "few"), folder, "few")
        results = []
        for size in sizes:
            used, counts = _commands(many(clips, size, folder / f"clips{size}"), folder, f"{size}")
            results += [_line(what, size, usage, few[what]) for what, usage in used.items()]
            for what, count in counts.items():
                results.append(Result(f"{what}, {size:,} clips", "a clip", (count / size,), None, f"{count:,} in all"))
        return [*results, *_reading(folder, rows), *_requests(clips, folder)]


def _line(what: str, size: int, usage: Usage, few: Usage) -> Result:
    each = 1e3 * (usage.cpu_s - few.cpu_s) / (size - FEW)
    details = {"wall_s": round(usage.wall_s, 1), "peak_mb": round(usage.peak_mb), "ms_a_clip": round(each, 3)}
    target = most(20) if what == "resume" and size >= 100_000 else None
    about = f"{each:.2f} ms a clip beyond the start; {usage.peak_mb:.0f} MB in the largest process"
    return Result(f"{what}, {size:,} clips", "s CPU", (usage.cpu_s,), target, about, details)


def _commands(source: Path, folder: Path, name: str) -> tuple[dict[str, Usage], dict[str, int]]:
    """What each command takes for a data set, and the files and folders of its store."""
    recipe, store = folder / "small.toml", folder / f"{name}.zarr"
    recipe.write_text(SMALL_RECIPE)
    mocrop = Path(sysconfig.get_path("scripts"), "mocrop")
    run = ["--source", source, "--store", store, "--recipe", recipe]
    commands: dict[str, list[Any]] = {
        "plan": ["plan", *run],
        "preprocess": ["preprocess", *run, "--workers", "2"],
        "resume": ["preprocess", *run, "--workers", "2"],
        "status": ["status", store, "--json"],
        "verify": ["verify", store],
        "boxes": ["boxes", store, "--csv"],
        "report": ["report", store, "--out", folder / "report.html"],
    }
    known = {"PREFECT_HOME": str(folder / "prefect"), "DO_NOT_TRACK": "1"}
    used = {what: run_command([mocrop, *map(str, words)], folder, **known) for what, words in commands.items()}
    for what, seconds in answer(called("tests.benchmarks.scale:training_side", location=str(store))).items():
        used[what] = Usage(*seconds)
    return used, _counts(store)


def _counts(store: Path) -> dict[str, int]:
    counts = Counter[str]()
    for _, folders, files in os.walk(store):
        counts += Counter({"folders": len(folders), "files": len(files)})
    return dict(counts)


def training_side(location: str) -> dict[str, tuple[float, float, float]]:
    """CPU seconds, wall time and memory of opening a store for training, and of planning an epoch."""
    from training.clips import read_all_clips
    from training.stream import plan_of_training

    used, began, wall = {}, cpu_seconds(), time.perf_counter()
    clips = read_all_clips(location, "full")
    used["opening for training"] = cpu_seconds() - began, time.perf_counter() - wall, peak_mb()
    began, wall = cpu_seconds(), time.perf_counter()
    plan_of_training(clips, 3, 0, 0)
    used["planning an epoch"] = cpu_seconds() - began, time.perf_counter() - wall, peak_mb()
    return used


def _reading(folder: Path, rows: int) -> list[Result]:
    """The reading side of a finished store of so many clips, whose tables are written directly."""
    location = str(folder / "tables.zarr")
    clips = tuple(Clip(f"class{row % 700:03d}/video{row:07d}", "", row % 700) for row in range(rows))
    dataset = Dataset("tables", folder, tuple(f"class{label:03d}" for label in range(700)), clips)
    recipe = load_recipe("ucf101").sized_for(rows)
    create(location, dataset, recipe, {"ffmpeg": "not used"})
    store, zarr = open_store(location), zarr_store(location, read_only=False)
    tables = {"state": State.DONE, "views/full/frame_index": np.arange(16), "views/full/source": SOURCE_FIXED}
    tables |= {"views/full/box": [0, 0, 320, 240], "num_frames": 192, "frame_size": [240, 320]}
    for path, value in tables.items():
        spec = store.spec(path)
        write_table(zarr, spec, np.broadcast_to(np.array(value, spec.dtype), spec.shape))
    used = answer(called("tests.benchmarks.scale:training_side", location=location))
    return [
        Result(f"{what}, tables of {rows:,} clips", "s CPU", (cpu,), None, f"{peak:.0f} MB in the process")
        for what, (cpu, _, peak) in used.items()
    ]


def _requests(clips: Sequence[Path], folder: Path) -> list[Result]:
    """The requests of a shard of two views, and those of a run that do not depend on the number of shards."""
    counts: dict[str, list[int]] = {"preprocess": [], "resume": [], "verify": []}
    recipe = Recipe.model_validate({**_small().model_dump(mode="json"), "shard_clips": 2})
    before = dict(os.environ)
    with s3_server() as behind:
        make_bucket(behind, "bucket")
        for shards in SHARDS:
            source = many(clips, 2 * shards, folder / f"s3-{shards}")
            work = str(folder / f"work{shards}")
            options = Options(str(source), f"s3://bucket/{shards}.zarr", recipe=recipe, work_dir=work)
            with faulty(behind, lambda *_: "") as (address, proxy):
                os.environ.update(environment(address))
                for what in counts:
                    proxy.answers.clear()
                    verify(options.store) if what == "verify" else run_alone(options)
                    counts[what].append(len(proxy.answers))
    os.environ.clear()
    os.environ.update(before)
    results, targets = [], {"preprocess": most(40), "resume": most(2)}
    for what, (few, more) in counts.items():
        each = (more - few) / (SHARDS[1] - SHARDS[0])
        about = f"{VIEWS} views, S3; {few - SHARDS[0] * each:.0f} more for a run"
        results.append(Result(f"{what} on an object store", "requests a shard", (each,), targets.get(what), about))
    return results


def _small() -> Recipe:
    import tomllib

    return Recipe.model_validate(tomllib.loads(SMALL_RECIPE))


def main() -> None:
    """Measure the numbers of clips that are given and print the lines."""
    from tests.benchmarks.__main__ import table

    sizes = [int(word) for word in sys.argv[1:]] or list(CLIPS)
    print(table([result.as_json() for result in measured(sizes, ROWS)]))


if __name__ == "__main__":
    main()
