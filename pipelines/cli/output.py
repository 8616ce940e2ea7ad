"""Output of commands: lines, JSON, the summary of a store."""

from __future__ import annotations

from typing import Any, TextIO

from data_specs.text import json_text, printable
from pipelines.runs.outcome import notes
from pipelines.store.software import mixed


def print_json(value: Any) -> None:
    print(json_text(value))


def say(text: object, file: TextIO | None = None, flush: bool = False) -> None:
    """Print one line; control characters from names in a store or of files are escaped."""
    print(printable(str(text)), file=file, flush=flush)


def print_summary(summary: Any, as_json: bool, more: dict[str, Any] | None = None) -> None:
    if as_json:
        print_json(summary.as_json() | (more or {}))
        return
    say(f"{summary.store}: {summary.what}, {summary.done} done, {summary.pending} pending, "
          f"{len(summary.quarantined)} quarantined")  # fmt: skip
    for stage, (done, total) in summary.stages.items():
        say(f"  {stage:<10} {done} of {total} {'shard' if total == 1 else 'shards'}")
    for line in mixed(summary.software):
        say(f"  {line}")
    for id, reason in sorted(summary.quarantined.items()):
        say(f"  quarantined {id}: {reason}")
    for kind, about, count, examples in notes(summary):
        say(f"  {kind}: {count} {'clip' if count == 1 else 'clips'}, {about}")
        for id, text in examples:
            say(f"    {id}: {text}")
        if count > len(examples):
            say(f"    and {count - len(examples)} more; --json lists them all")
