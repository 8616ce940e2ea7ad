"""``make test`` in fresh clones, one after the other: ``python -m tests.support.stress [--runs N] [--busy N]``.

Five runs, of which the last two run beside processes that keep every core busy. Each clones the last commit of this
checkout, sets it up (with pip's cache) and runs its tests; nothing is shared but the cache, the clips and the machine.
A table of the runs ends the output; a run that failed leaves its log. A run is stopped after an hour.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data_specs.resources import usable_cores
from tests.places import ROOT

DATA = ROOT.parent / "shared" / "data"
SECONDS = 3600


@contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """So many processes that do nothing but take time; they end by themselves, whatever becomes of us."""
    loops = [subprocess.Popen(["timeout", str(2 * SECONDS), "sh", "-c", "while :; do :; done"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.terminate()
            loop.wait()


def timed(command: list[str], folder: Path, log: Path) -> tuple[int, float]:
    """A command's exit status and seconds; its output is appended to a file."""
    known = {"MOCROP_TEST_DATA": str(DATA), **os.environ}
    known.pop("MAKEFLAGS", None)  # of the make that may have started us
    began = time.monotonic()
    with log.open("ab") as output:
        process = subprocess.Popen(command, cwd=folder, env=known, stdout=output, stderr=output, start_new_session=True)
        try:
            status = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            status = 124
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()
    return status, time.monotonic() - began


def run(number: int, beside: int) -> tuple[str, bool]:
    """One run, as a line of the table, and whether it passed."""
    log = Path(tempfile.gettempdir()) / f"mocrop-stress-{os.getpid()}-{number}.log"
    with tempfile.TemporaryDirectory(prefix="mocrop-clone-") as folder:
        clone = Path(folder) / "mocrop"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        made, setting_up = timed(["make", "setup"], clone, log)
        with busy_cores(beside):
            status, seconds = timed(["make", "test"], clone, log) if made == 0 else (made, 0.0)
    last = (re.findall(r"^=+ (.*\b(?:passed|failed|error).*?) =+$", log.read_text(errors="replace"), re.M) or ["-"])[-1]
    if status == 0:
        log.unlink()
    result = "passed" if status == 0 else f"FAILED ({status}), see {log}"
    return f"{number:3}  {beside:4}  {setting_up:9.0f}  {seconds:6.0f}  {result}  {last}", status == 0


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.stress", description="make test in fresh clones")
    parser.add_argument("--runs", type=int, default=5, help="clones, one after the other [default: 5]")
    parser.add_argument("--busy", type=int, default=2, help="the last so many beside busy cores [default: 2]")
    given = parser.parse_args()
    lines, passed = ["run  busy  setup (s)  test (s)  result"], []
    for number in range(1, given.runs + 1):
        line, well = run(number, usable_cores() if number > given.runs - given.busy else 0)
        lines.append(line)
        passed.append(well)
        print(line, flush=True)
    print("\n".join(["", *lines]))
    sys.exit(not all(passed))


if __name__ == "__main__":
    main()
