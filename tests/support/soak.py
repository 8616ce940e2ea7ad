"""The record of the long tests: what each measured when it last passed, on which machine."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from pathlib import Path

from data_specs.resources import usable_cores

RESULTS = Path(__file__).with_name("soak_results.json")
COMMAND = "make soak"


def record(test: str, **facts: object) -> None:
    """Write down what a long test found and on which machine, in place of what it found before."""
    known = json.loads(RESULTS.read_text())["tests"] if RESULTS.is_file() else {}
    about = {"cores": usable_cores(), "python": platform.python_version(), "system": platform.machine()}
    results = known | {test: {"passed": f"{datetime.now(UTC):%Y-%m-%d}", **about, **facts}}
    document = {"command": COMMAND, "tests": dict(sorted(results.items()))}
    RESULTS.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
