"""``mocrop evaluate``: how much of the annotated actors each view of a store keeps."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli.flags import JsonFlag, StoreArgument, path_option
from pipelines.cli.output import print_json, say
from pipelines.errors import RunError

app = typer.Typer()


class Format(StrEnum):
    """Output format."""

    TEXT = "text"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"


@app.command(epilog="Example: mocrop evaluate ucf101.zarr --annotations pyannot.pkl --format markdown > boxes.md")
def evaluate(
    store: StoreArgument,
    annotations: Annotated[
        Path,
        path_option(
            "Actor boxes: a JSON file, a MOTChallenge CSV file, UCF101-24's pyannot.pkl, or a folder of such CSV "
            "files, of J-HMDB's .mat files or of masks (CLIP/00000.png).",
            metavar="FILE",
        ),
    ],
    group_by: Annotated[
        str | None,
        typer.Option(
            help="Regular expression that finds the group in a clip's id (the whole match, or its parentheses); the "
            "bootstrap for the intervals resamples groups [default: the clip table's groups, else UCF-101's "
            "v_CLASS_gNN, else each clip].",
            metavar="REGEX",
        ),
    ] = None,
    format: Annotated[Format | None, typer.Option(help="Output format [default: text].")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure how much of actors boxes keep. Compares each view with control boxes of exactly the same area."""
    from pipelines.cli.progress_bars import count_progress
    from pipelines.evaluation import formats
    from pipelines.evaluation.evaluation import evaluate as measure

    if as_json and format not in (None, Format.JSON):
        raise RunError(f"--json with --format {format}: give only one of them")
    with count_progress("evaluate", "clips") as show:
        found = measure(store, annotations, group_by, show, show)
    match Format.JSON if as_json else format or Format.TEXT:
        case Format.JSON:
            print_json(formats.as_json(found))
        case Format.CSV:
            sys.stdout.write(formats.as_csv(found))
        case Format.MARKDOWN:
            sys.stdout.write(formats.as_markdown(found))
        case Format.TEXT:
            _print_text(found)


def _print_text(found: Any) -> None:
    from pipelines.cli.tables import print_table
    from pipelines.evaluation import formats

    for line in formats.heading(found):
        say(line)
    for title, rows in formats.tables(found):
        print()
        say(title)
        print_table(rows)
    for line in formats.problem_lines(found):
        say(f"does not match: {line}")
