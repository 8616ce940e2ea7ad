"""Every command on every hostile store, each in a process of its own: ``python -m tests.support.hostile_corpus``.

    python -m tests.support.hostile_corpus GOOD.zarr SOURCE SPLITS WEIGHTS FOLDER --out cases.json [--only TEXT]

The parent has all that the commands import and forks a child for each case, which spoils a copy of the good store, runs
the command as its command line does, and ends. A case is good if the child ends by itself in time and in bounded
memory with the status 0, 1 or 2, writes no traceback and nothing that moves a terminal's cursor, says why where it
does not end well, and leaves the folder beside the store as it was.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import fvcore.nn.flop_count  # noqa: F401  what is imported late is imported before any child is forked
import torch

import data_specs.recipes
import pipelines.cli.app
import pipelines.flow_runs
import pipelines.store.verify
import training.results
import training.test
import training.train
from pipelines.runs.options import Options
from tests.conftest import run_stages
from tests.support import hostile_chunks  # noqa: F401  enters its stores
from tests.support.hostile_stores import ESCAPES, PRECIOUS, STORES
from tests.support.hostile_texts import CHECKPOINTS, SAID, TEXTS

SECONDS = 90  # of one case, on a machine that does something else too
MEGABYTES = 1200  # of which torch and what else is imported take 400
NEW_VIEW = '\n[[views]]\nname = "again"\nkind = "motion"\npreset = "paper-v1"\ngrid = [6, 8]\ncrop_ratio = 0.5\n'
HARNESS = 99  # the status of a child whose case could not be made
_CURSOR = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_BARS = re.compile(r"\r|\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class World:
    """What a case has: a copy of the good store, the sources it was made from, weights, and a folder to write into."""

    store: Path
    source: Path
    splits: Path
    weights: Path
    out: Path


Command = Callable[[World], object]


def mocrop(*arguments: str) -> Command:
    """A command of ``mocrop``; STORE, OUT, SOURCE and SPLITS stand for places."""

    def run(world: World) -> None:
        places = {"STORE": world.store, "OUT": world.out, "SOURCE": world.source, "SPLITS": world.splits}
        sys.argv = ["mocrop", *(str(places.get(word, word)).replace("OUT/", f"{world.out}/") for word in arguments)]
        pipelines.cli.app.main()

    return run


def _first_id(world: World) -> str:
    from data_specs.stored import StoreError, open_store

    try:
        return open_store(world.store).ids[0]
    except (StoreError, OSError):
        return "Class/clip"


def _draw(flag: str, name: str) -> Command:
    return lambda world: mocrop("boxes", "STORE", "--clip", _first_id(world), flag, f"OUT/{name}")(world)


def _evaluate(world: World) -> None:
    tube = {"start_frame": 0, "end_frame": 2, "boxes_xywh": [[0, 0, 30, 20], [2, 2, 30, 20]]}
    (world.out / "a.json").write_text(json.dumps({_first_id(world): {"tubes": [tube]}}))
    mocrop("evaluate", "STORE", "--annotations", "OUT/a.json")(world)


def _preprocess(world: World, *more: str, recipe: str = "smoke") -> None:
    """The command with its stages in this process: Prefect and Dask schedule them and read no store."""

    def run_here(options: Options, *_: Any, **__: Any) -> Any:
        return run_stages(options)[0]

    pipelines.flow_runs.run_here = run_here
    _asked("preprocess", *more, recipe=recipe)(world)


def _asked(command: str, *more: str, recipe: str = "smoke") -> Command:
    words = ("--source", "SOURCE", "--splits", "SPLITS", "--store", "STORE", "--recipe", recipe)
    return mocrop(command, *words, *more)


def _new_view(world: World) -> None:
    """Computed from the vectors that the store has."""
    smoke = (Path(data_specs.recipes.__file__).parent / "smoke.toml").read_text()
    (world.out / "wider.toml").write_text(smoke + NEW_VIEW)
    _preprocess(world, "--retry-quarantined", recipe="OUT/wider.toml")


_SMALL = ["--arch", "test_resnet", "--input-size", "32", "--cpu", "--split", "1", "-b", "4", "-j", "1"]


def _train(world: World) -> None:
    flags = ["--no-pretrained", "--epochs", "1", "--store", str(world.store), "--output-dir", str(world.out)]
    sys.exit(training.train.main([*_SMALL, *flags]))


def _test(world: World) -> None:
    flags = ["--weights", str(world.weights), "--view", "full", "mocrop"]
    sys.exit(training.test.main([*_SMALL, *flags, "--store", str(world.store), "--output-dir", str(world.out)]))


COMMANDS: dict[str, Command] = {
    "status": mocrop("status", "STORE"),
    "status --json": mocrop("status", "STORE", "--json"),
    "verify": mocrop("verify", "STORE"),
    "verify --json": mocrop("verify", "STORE", "--json"),
    "boxes": mocrop("boxes", "STORE"),
    "boxes --json": mocrop("boxes", "STORE", "--json"),
    "boxes --csv": mocrop("boxes", "STORE", "--csv"),
    "boxes --png": _draw("--png", "clip.png"),
    "boxes --video": _draw("--video", "clip.avi"),
    "report": mocrop("report", "STORE", "--out", "OUT/page.html", "--clips", "4"),
    "evaluate": _evaluate,
    "gc": mocrop("gc", "STORE"),
    "gc --yes": mocrop("gc", "STORE", "--yes"),
    "export-npy": mocrop("export-npy", "STORE", "OUT"),
    "plan": _asked("plan"),
    "preprocess": _preprocess,
    "preprocess, a new view": _new_view,
    "training.train": _train,
    "training.test": _test,
}
ALWAYS = ("status", "preprocess")


@dataclass(frozen=True)
class Ended:
    """How a case ended; ``problem`` is "" for a good one."""

    case: str
    command: str
    status: int
    seconds: float
    megabytes: float
    problem: str
    said: str


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder with its size and time of change."""
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if not path.is_dir()
    }


class Corpus:
    """Runs cases, each in a child of this process."""

    def __init__(self, good: World, folder: Path) -> None:
        self.good, self.folder = good, folder

    def run(self, number: int, case: str, command: str, prepare: Callable[[World], object], work: Command) -> Ended:
        """One case: a folder is made for it, and removed after it."""
        folder = self.folder / str(number)
        (folder / PRECIOUS / "h264").mkdir(parents=True)
        for name in ("film.mkv.part", "h264/film.mkv.part", "film#1", "00000"):
            (folder / PRECIOUS / name).write_text("precious")
        world = World(folder / "s.zarr", self.good.source, self.good.splits, self.good.weights, folder / "out")
        world.out.mkdir()
        began = time.monotonic()
        child = os.fork()
        if not child:
            _child(folder, self.good.store, world, prepare, work)
        _, status, usage = os.wait4(child, 0)
        ended = Ended(
            case,
            command,
            os.waitstatus_to_exitcode(status),
            round(time.monotonic() - began, 2),
            round(usage.ru_maxrss / 1024),
            "",
            "".join((folder / name).read_text(errors="replace") for name in ("stdout", "stderr")),
        )
        problem = self._problem(ended, folder)
        shutil.rmtree(folder, ignore_errors=True)
        return replace(ended, problem=problem, said=ended.said[-600:] if problem else ended.said[-150:])

    def _problem(self, ended: Ended, folder: Path) -> str:
        if ended.status == HARNESS:
            return f"the case cannot be made: {ended.said[-400:]}"
        if ended.status < 0:
            return f"ended by signal {-ended.status}"
        if ended.status not in (0, 1, 2):
            return f"status {ended.status}"
        if "Traceback" in ended.said:
            return "a traceback"
        if found := _CURSOR.search(_BARS.sub("", ended.said) if ESCAPES[:4] not in ended.said else ended.said):
            return f"{found[0]!r} reached the terminal"
        if ended.status and not ended.said.strip():
            return "no reason was given"
        if (wanted := SAID.get(ended.case)) and (not ended.status or not re.search(wanted, ended.said)):
            return f"status {ended.status}, and not {wanted!r}"
        if ended.megabytes > MEGABYTES:
            return f"{ended.megabytes} MB"
        before = json.loads((folder / "before.json").read_text())
        if json.loads(json.dumps(tree(folder / PRECIOUS))) != before or (folder / PRECIOUS / "pwned").exists():
            return "what lies beside the store was touched"
        return ""


def _child(folder: Path, good: Path, world: World, prepare: Callable[[World], object], work: Command) -> None:
    """Never returns."""
    status = HARNESS
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(place, "w"), "utf-8") for place in (1, 2))
        os.chdir(world.out)
        for suffix in ("", ".work"):
            shutil.copytree(f"{good}{suffix}", f"{world.store}{suffix}")
        prepare(world)
        (folder / "before.json").write_text(json.dumps(tree(folder / PRECIOUS)))
        signal.alarm(SECONDS)
        torch.set_num_threads(1)
        status = _status(lambda: work(world))
    except BaseException:
        traceback.print_exc(file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _status(work: Callable[[], object]) -> int:
    try:
        work()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc(file=sys.stderr)
        return 1
    return 0


def cases(only: str, more: int) -> list[tuple[str, str, Callable[[World], object], Command]]:
    """The cases: their names, the command, what spoils the world, and what is run.

    Each store meets the commands of ``ALWAYS`` and ``more`` of the others, which take turns; each text meets its own.
    """
    found: list[tuple[str, str, Callable[[World], object], Command]] = []
    others = cycle(command for command in COMMANDS if command not in ALWAYS)
    for name, spoil in STORES.items():
        for command in (*ALWAYS, *islice(others, more)):
            found.append((name, command, lambda world, spoil=spoil: spoil(world.store), COMMANDS[command]))
    for name, (write, command, work) in (TEXTS | CHECKPOINTS).items():
        found.append((name, command, write, work))
    return [case for case in found if only in f"{case[0]} | {case[1]}"]


def main() -> None:
    """Run the cases and write how each ended."""
    parser = argparse.ArgumentParser()
    for name in ("store", "source", "splits", "weights", "folder"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--more", type=int, default=3, help="other commands that each store meets, in turn")
    args = parser.parse_args()
    corpus = Corpus(World(args.store, args.source, args.splits, args.weights, args.folder), args.folder)
    todo = cases(args.only, args.more)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        ended = list(pool.map(lambda one: corpus.run(one[0], *one[1]), enumerate(todo)))
    args.out.write_text(json.dumps([asdict(one) for one in ended], indent=1))


if __name__ == "__main__":
    main()
