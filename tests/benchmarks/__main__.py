"""All benchmarks: `python -m tests.benchmarks [--quick] [--only NAME ...] [--out DIR]`.

Each writes DIR/NAME.json when it has ended: the command, the machine's facts, and every line with its repetitions. The
table at the end shows the median, the lowest and the highest of the repetitions, and what is asked for. Results that
are kept are of a machine that does nothing else. `--quick` only tries the benchmarks out, and keeps its results apart.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.measuring import Result, load, machine

NAMES = (
    "import_time",
    "box_search",
    "boxes",
    "motion_vectors",
    "whole_flow",
    "tls",
    "scaling",
    "scale",
    "memory",
    "store_codecs",
    "loader",
    "motion_stream",
)
RESULTS = Path(__file__).parent / "results"


def run_one(name: str, quick: bool, out: Path) -> list[dict[str, Any]]:
    """Run a benchmark and keep what it found; its lines."""
    began, before = time.perf_counter(), machine()
    found: Sequence[Result] = importlib.import_module(f"tests.benchmarks.{name}").run(quick=quick)
    command = f"python -m tests.benchmarks{' --quick' if quick else ''} --only {name}"
    return keep(name, command, found, began, before, out)


def keep(
    name: str, command: str, found: Sequence[Result], began: float, before: dict[str, Any], out: Path
) -> list[dict[str, Any]]:
    """Write what a benchmark found since ``began``, on a machine that was as ``before``; its lines."""
    lines = [result.as_json() for result in found]
    kept = {
        "command": command,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": before | {"load_at_the_end": load()},
        "seconds": round(time.perf_counter() - began, 1),
        "lines": lines,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return lines


def table(lines: Sequence[dict[str, Any]]) -> str:
    """The lines as text: what, median, spread, target, whether it is met, remark."""
    rows = [("what", "median", "lowest – highest", "target", "", "")]
    for line in lines:
        spread = "" if line["repetitions"] == 1 else f"{line['lowest']:.4g} – {line['highest']:.4g}"
        median = f"{line['median']:.4g} {line['unit']}"
        rows.append((line["name"], median, spread, line["target"], line["verdict"], line["remark"]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def main(words: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="speed and memory, as ratios")
    parser.add_argument("--quick", action="store_true", help="try everything out, in little")
    parser.add_argument("--only", action="append", choices=NAMES, help="this one; may be given again")
    parser.add_argument(
        "--out", type=Path, help="folder for the JSON files [default: results beside this; one in /tmp with --quick]"
    )
    given = parser.parse_args(words)
    out = given.out or (Path(tempfile.mkdtemp(prefix="mocrop-benchmarks-")) if given.quick else RESULTS)
    lines = []
    for name in given.only or NAMES:
        print(f"{name} …", flush=True)
        lines += run_one(name, given.quick, out)
    print(json.dumps(machine()))
    print(table(lines))
    print(f"kept in {out}")


if __name__ == "__main__":
    main()
