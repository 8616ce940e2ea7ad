"""How long ``import mocrop`` takes, and how long until the first box and the first store can be asked for."""

from __future__ import annotations

import subprocess
import sys

from tests.benchmarks.measuring import REPETITIONS, Result, interleaved, most

STATEMENTS = {
    "import mocrop": "import mocrop",
    "import mocrop, and what finds a box": "import mocrop; mocrop.find_box, mocrop.crop",
    "import mocrop, and what opens a store": "import mocrop; mocrop.open_store",
}


def seconds(statement: str) -> float:
    """How long a new process takes for a statement, once Python itself has started."""
    script = f"import time; began = time.perf_counter(); {statement}; print(time.perf_counter() - began)"
    return float(subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, check=True).stdout)


def run(*, quick: bool = False) -> list[Result]:
    """Wall time in a new process, with the compiled files of a process before it."""
    repetitions = 2 if quick else 2 * REPETITIONS
    for statement in STATEMENTS.values():
        seconds(statement)
    samples = interleaved(
        {name: lambda statement=statement: seconds(statement) for name, statement in STATEMENTS.items()}, repetitions
    )
    target = {"import mocrop": most(0.3)}
    return [Result(name, "s", tuple(values), target.get(name)) for name, values in samples.items()]
