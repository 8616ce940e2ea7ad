"""CPU time, memory, files and requests against the number of clips, of tiny clips whose own work is next to nothing.

    python -m tests.benchmarks.scale 2000 10000 100000 650000 --folder /tmp/scale

The clips are hard links to a few files, read as they are (``keep``), so that what is left is the cost of shards,
records and tables; once, they are transcoded. The runs of the largest data sets are killed in each stage and completed.
The reading side of a data set of the size of Kinetics is measured on tables that are written directly.

Each line is printed when it is measured. With ``--folder``, the data and a journal stay there: the same command goes on
after the last whole measurement. The results are written as JSON at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_specs.datasets import Clip, Dataset
from data_specs.recipes import Recipe, load_recipe
from data_specs.schema import STAGES, State
from data_specs.stored import StoreError, open_store, zarr_store
from mocrop_core import SOURCE_FIXED
from pipelines.runs.options import Options
from pipelines.store.summary import summarise
from pipelines.store.verify import verify
from pipelines.store.writer import create, write_table
from tests.benchmarks.footage import many, real_clips, run_alone, small
from tests.benchmarks.measuring import (
    Result,
    Usage,
    answer,
    called,
    cpu_seconds,
    most,
    peak_mb,
    process_peak_mb,
    run_watched,
)
from tests.benchmarks.scaling import SMALL_RECIPE
from tests.support.object_store import environment, faulty, make_bucket, s3_server

QUICK = 32  # clips where benchmarks are only tried out: the run may end before it can be killed
FEW = 16  # clips of a run that is little but its start
CLIPS = (2_000,)
TRANSCODED = 500  # clips
ROWS = 650_000  # about those of Kinetics-700
SHARDS = (32, 48)  # of a store on S3, whose records are packed: their difference gives the requests of a shard
VIEWS = 2
KILLED = 100_000  # clips from which on a run is killed, or the largest number if that is smaller
KILLS = {"transcode": 1 / 12, "motion": 1 / 4, "boxes": 1 / 2, "clips": 5 / 6}
"""The share of the records at which a run is killed: the middle of each stage, with two views."""
PARTS = ("commands", "transcoding", "tables", "requests")
CPU_TARGETS = {("resume", 100_000): most(20), ("status", 650_000): most(10)}
TARGETS = {  # of files and folders a clip, from 16 clips a shard on
    "files": most(0.4),
    "folders": most(0.3),
}


class Journal:
    """What was measured so far, by name; in a file, from which an interrupted measurement goes on."""

    def __init__(self, file: Path) -> None:
        self._file = file
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        self._known: dict[str, Any] = dict(json.loads(line) for line in lines)

    def once(self, name: str, measure: Callable[[], Any]) -> Any:
        """What ``measure`` returns, as JSON gives it back; from the journal if it is there."""
        if name not in self._known:
            print(f"{time.strftime('%H:%M:%S')} {name} …", flush=True)
            value = json.loads(json.dumps(measure()))
            with self._file.open("a", encoding="utf-8") as journal:
                journal.write(json.dumps([name, value]) + "\n")
            self._known[name] = value
        return self._known[name]


def run(quick: bool = False) -> list[Result]:
    """All lines for `CLIPS`."""
    with tempfile.TemporaryDirectory() as name:
        return measured(Path(name), (QUICK,) if quick else CLIPS, PARTS, quick=quick)


def measured(folder: Path, sizes: Sequence[int], parts: Sequence[str], *, quick: bool = False) -> list[Result]:
    """The lines of some parts: the commands for each number of clips, once transcoded, tables, an object store."""
    journal, results = Journal(folder / "journal.jsonl"), list[Result]()

    def add(*lines: Result) -> None:
        results.extend(lines)
        for line in lines:
            print(f"  {line.name}: {line.median:.4g} {line.unit}  {line.verdict}  {line.remark}", flush=True)

    journal.once("making the clips", lambda: [str(path) for path in small(real_clips(), folder / "small")])
    clips = sorted((folder / "small").glob("*/*.mp4"))
    if "commands" in parts:
        _commands(journal, clips, FEW, folder, "warm")
        few = _commands(journal, clips, FEW, folder, "few")
        each = {}
        for size in sizes:
            killed = size >= min(KILLED, max(sizes))
            used = _commands(journal, clips, size, folder, f"{size}", killed=killed)
            add(*(_line(what, size, usage, few[what]) for what, usage in used.items() if what in few))
            add(*(_after_kills(size, used) if killed else ()))
            add(*_kept(journal, size, folder))
            starts = 1 + len(KILLS) if killed else 1
            each[size] = (used["preprocess"].cpu_s - starts * few["preprocess"].cpu_s) / (size - FEW)
        for size in sizes[1:]:
            about = f"{size:,} against {sizes[0]:,} clips"
            add(Result("growth of the CPU time of a clip", "×", (each[size] / each[sizes[0]],), most(1.1), about))
    if "transcoding" in parts:
        add(*_transcoding(journal, clips, FEW if quick else TRANSCODED, folder))
    if "tables" in parts:
        add(*_reading(journal, folder, 1_000 if quick else ROWS))
    if "requests" in parts:
        add(*_requests(journal, clips, folder, (2, 3) if quick else SHARDS))
    return results


def _line(what: str, size: int, usage: Usage, few: Usage) -> Result:
    each = 1e3 * (usage.cpu_s - few.cpu_s) / (size - FEW)
    details = {"wall_s": round(usage.wall_s, 1), "peak_mb": round(usage.peak_mb), "ms_a_clip": round(each, 3)}
    target = CPU_TARGETS.get((what, size))
    about = f"{each:.2f} ms a clip beyond the start; {usage.peak_mb:.0f} MB in the largest process"
    return Result(f"{what}, {size:,} clips", "s CPU", (usage.cpu_s,), target, about, details)


def _after_kills(size: int, used: Mapping[str, Usage]) -> list[Result]:
    """The lines about the run that was killed and completed; the wall time of "first task" is that until it is done."""
    clips = f"{size:,} clips"
    return [
        *(
            Result(
                f"first task after a kill in {stage}, {clips}", "s", (used[f"first task, {stage}"].wall_s,), most(30)
            )
            for stage in KILLS
        ),
        Result(f"memory of the client, {clips}", "MB", (used["preprocess"].peak_mb,), most(1000), "mocrop preprocess"),
        Result(f"memory of status, {clips}", "MB", (used["status"].peak_mb,), most(500)),
    ]


def _mocrop() -> Path:
    return Path(sysconfig.get_path("scripts"), "mocrop")


def _commands(
    journal: Journal, clips: Sequence[Path], size: int, folder: Path, name: str, *, killed: bool = False
) -> dict[str, Usage]:
    """What each command takes for a data set of so many clips."""
    source, recipe, store = folder / f"clips-{name}", folder / "small.toml", folder / f"{name}.zarr"
    recipe.write_text(SMALL_RECIPE)

    def link() -> None:
        shutil.rmtree(source, ignore_errors=True)
        many(clips, size, source)

    journal.once(f"{name}: linking the clips", link)
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
    used: dict[str, Usage] = {}
    for what, words in commands.items():
        command = [str(_mocrop()), *map(str, words)]
        if what != "preprocess":
            used[what] = _usage(journal.once(f"{name}: {what}", lambda command=command: _measured(command, folder)))
        elif killed:
            used |= _killed(journal, name, command, folder, store, size)
        else:
            used[what] = _usage(
                journal.once(f"{name}: {what}", lambda command=command: _from_nothing(command, folder, store))
            )
    sides = journal.once(
        f"{name}: training", lambda: answer(called("tests.benchmarks.scale:training_side", location=str(store)))
    )
    return used | {what: _usage(seconds) for what, seconds in sides.items()}


def _usage(values: Sequence[float]) -> Usage:
    return Usage(*values)


Watch = Callable[[int], object]


def _measured(command: Sequence[str], folder: Path, watch: Watch | None = None) -> list[float]:
    known = {"PREFECT_HOME": str(folder / "prefect"), "DO_NOT_TRACK": "1"}
    usage = run_watched(command, folder, known, watch)
    return [usage.cpu_s, usage.wall_s, usage.peak_mb]


def _from_nothing(command: Sequence[str], folder: Path, store: Path, watch: Watch | None = None) -> list[float]:
    """The same for a store that does not exist yet; what an interrupted measurement left is removed."""
    for left in (store, Path(f"{store}.work")):
        shutil.rmtree(left, ignore_errors=True)
    return _measured(command, folder, watch)


def _killed(journal: Journal, name: str, command: list[str], folder: Path, store: Path, size: int) -> dict[str, Usage]:
    """A run that is killed with -9 in each stage, and completed by the same command."""

    def part(share: float, *, new: bool) -> list[list[float]]:
        """Run until this share of the records is written: what it took, and the time until its first record."""
        before, began = 0 if new else _records(store), time.perf_counter()
        peak = first = wanted = 0.0
        killed = False

        def watch(client: int) -> None:
            nonlocal peak, first, wanted, killed
            if killed:  # what remains after it ends by itself
                return
            peak, found = max(peak, process_peak_mb(client)), _records(store)
            first = first or (time.perf_counter() - began if found != before else 0)
            wanted = wanted or share * _all_records(store)
            if share < 1 and first and wanted and found >= wanted:
                os.kill(client, signal.SIGKILL)
                killed = True

        cpu, wall, _ = _from_nothing(command, folder, store, watch) if new else _measured(command, folder, watch)
        if share < 1 and not killed and size > QUICK:
            raise RuntimeError(f"{name}: the run ended before {share:.0%} of its records were seen")
        return [[cpu, wall, peak], [0, first or wall, 0]]

    used: dict[str, Usage] = {}
    parts: list[Usage] = []
    for number, share in enumerate((*KILLS.values(), 1)):
        said = f"{name}: preprocess, part {number + 1}"
        whole, first = map(_usage, journal.once(said, lambda share=share: part(share, new=not parts)))
        if parts:
            used[f"first task, {list(KILLS)[number - 1]}"] = first
        parts.append(whole)
    most_memory = max(part.peak_mb for part in parts)
    used["preprocess"] = Usage(sum(part.cpu_s for part in parts), sum(part.wall_s for part in parts), most_memory)
    return used


def _records(store: Path) -> int:
    """The records of a store that are not packed."""
    folders = [store / "progress" / stage for stage in STAGES]
    folders += [view for folder in folders[2:] if folder.is_dir() for view in folder.iterdir() if view.is_dir()]
    return sum(name.isdigit() for folder in folders if folder.is_dir() for name in os.listdir(folder))


def _all_records(store: Path) -> int:
    """The records that a store has when it is done; 0 while it is not made."""
    try:
        opened = open_store(store)
        return opened.num_shards * (2 + 2 * len(opened.views))
    except StoreError:
        return 0


def _kept(journal: Journal, size: int, folder: Path) -> list[Result]:
    """The files and folders of a store."""
    counts: dict[str, int] = journal.once(f"{size}: counting files", lambda: _counts(folder / f"{size}.zarr"))
    shard_clips = _small().sized_for(size).clips_per_shard
    about = f"{shard_clips} clips a shard; "
    targets = TARGETS if shard_clips >= 16 else {}
    return [
        Result(f"{what}, {size:,} clips", "a clip", (count / size,), targets.get(what), f"{about}{count:,} in all")
        for what, count in counts.items()
    ]


def _counts(store: Path) -> dict[str, int]:
    counts = Counter[str]()
    for _, folders, files in os.walk(store):
        counts += Counter({"folders": len(folders), "files": len(files)})
    return dict(counts)


def _transcoding(journal: Journal, clips: Sequence[Path], size: int, folder: Path) -> list[Result]:
    """A run that transcodes the clips, and one with nothing to do after it."""
    source, recipe, store = folder / "clips-transcoded", folder / "transcoding.toml", folder / "transcoded.zarr"
    recipe.write_text(SMALL_RECIPE.replace('transcode = "keep"\n', ""))

    def link() -> None:
        shutil.rmtree(source, ignore_errors=True)
        many(clips, size, source)

    journal.once("transcoding: linking the clips", link)
    words = ["preprocess", "--source", source, "--store", store, "--recipe", recipe, "--workers", "2"]
    command = [str(_mocrop()), *map(str, words)]
    results = []
    for what, do in (
        ("preprocess", lambda: _from_nothing(command, folder, store)),
        ("resume", lambda: _measured(command, folder)),
    ):
        usage = _usage(journal.once(f"transcoding: {what}", do))
        about = f"{1e3 * usage.cpu_s / size:.1f} ms a clip with the start; {usage.wall_s:.0f} s of wall time"
        results.append(Result(f"{what} with transcoding, {size:,} clips", "s CPU", (usage.cpu_s,), None, about))
    return results


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


def _reading(journal: Journal, folder: Path, rows: int) -> list[Result]:
    """The reading side of a finished store of so many clips, whose tables are written directly."""
    used = journal.once(f"tables of {rows:,} clips", lambda: _of_tables(folder, rows))
    return [
        Result(f"{what}, tables of {rows:,} clips", "s CPU", (cpu,), None, f"{peak:.0f} MB in the process")
        for what, (cpu, _, peak) in used.items()
    ]


def _of_tables(folder: Path, rows: int) -> dict[str, Any]:
    shutil.rmtree(folder / "tables.zarr", ignore_errors=True)
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
    found: dict[str, Any] = answer(called("tests.benchmarks.scale:training_side", location=location))
    return found


def _requests(journal: Journal, clips: Sequence[Path], folder: Path, shards: tuple[int, int]) -> list[Result]:
    """The requests of a shard of two views, and those of a run that do not depend on the number of shards."""
    counts = journal.once(f"requests of {shards[0]} and {shards[1]} shards", lambda: _counted(clips, folder, shards))
    results, targets = [], {"preprocess": most(40), "resume": most(2)}
    for what, (few, more) in counts.items():
        each = (more - few) / (shards[1] - shards[0])
        about = f"{VIEWS} views, S3; {few - shards[0] * each:.0f} more for a run"
        results.append(Result(f"{what} on an object store", "requests a shard", (each,), targets.get(what), about))
    return results


def _counted(clips: Sequence[Path], folder: Path, shards: Sequence[int]) -> dict[str, list[int]]:
    counts: dict[str, list[int]] = {"preprocess": [], "resume": [], "status": [], "verify": []}
    recipe = Recipe.model_validate({**_small().model_dump(mode="json"), "shard_clips": 2})
    before = dict(os.environ)
    with s3_server() as behind:
        make_bucket(behind, "bucket")
        for number in shards:
            source, work = folder / f"s3-{number}", folder / f"work{number}"
            for left in (source, work):
                shutil.rmtree(left, ignore_errors=True)
            options = Options(
                str(many(clips, 2 * number, source)), f"s3://bucket/{number}.zarr", recipe=recipe, work_dir=str(work)
            )
            does: dict[str, Callable[[], object]] = {"preprocess": lambda options=options: run_alone(options)}
            does |= {"resume": does["preprocess"], "status": lambda options=options: summarise(options.store)}
            does |= {"verify": lambda options=options: verify(options.store)}
            with faulty(behind, lambda *_: "") as (address, proxy):
                os.environ.update(environment(address))
                for what in counts:
                    proxy.answers.clear()
                    does[what]()
                    counts[what].append(len(proxy.answers))
    os.environ.clear()
    os.environ.update(before)
    return counts


def _small() -> Recipe:
    import tomllib

    return Recipe.model_validate(tomllib.loads(SMALL_RECIPE))


def main() -> None:
    """Measure the numbers of clips that are given, print each line when it is measured, and write the results."""
    from tests.benchmarks.__main__ import RESULTS, keep, table
    from tests.benchmarks.measuring import machine

    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scale", description="cost against clips")
    parser.add_argument("clips", nargs="*", type=int, default=list(CLIPS), help="numbers of clips")
    parser.add_argument("--only", action="append", choices=PARTS, help="this part; may be given again")
    parser.add_argument("--folder", type=Path, help="keep data and journal here, and go on from them")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for scale.json [default: results]")
    given = parser.parse_args()
    began, before = time.perf_counter(), machine()
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        results = measured(folder.resolve(), given.clips, given.only or PARTS)
    words = [*map(str, given.clips), *(f"--only {part}" for part in given.only or ())]
    lines = keep("scale", f"python -m tests.benchmarks.scale {' '.join(words)}", results, began, before, given.out)
    print(table(lines))


if __name__ == "__main__":
    main()
