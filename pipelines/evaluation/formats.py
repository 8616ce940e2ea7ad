"""An evaluation as text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from typing import Any

from data_specs.text import csv_cell, printable
from mocrop_core.bootstrap import LEVELS, RESAMPLES, SEED
from pipelines.evaluation.evaluation import ALL, MEASURES, Evaluation, Row, bootstrap_settings

TITLES = {
    "kept": "Mean share of the actor kept",
    "mostly": "Share of actor boxes kept to at least 90 %",
}
EXPLANATION = (
    "kept: the view's boxes. Shares are averaged over the actor boxes of a clip (one per actor and frame), then over "
    "clips.",
    "centre: a box of the same area and the frame's shape in the middle of the frame.",
    "random: such a box at a random position (average over 32 × 32 positions).",
    "best: the static box of the same area, of any shape, that keeps most of the actor; it is found with the "
    "annotations and is an upper bound for one static box per clip.",
)
SHOWN = 10  # kinds of problems, and clips per kind, listed as text
_DIFFERING = re.compile(r"'[^']*'|\d+(\.\d+)?")  # the parts in which lines of one kind differ


def as_json(found: Evaluation) -> dict[str, Any]:
    """The evaluation as JSON-like values."""
    return {**dataclasses.asdict(found), "bootstrap": bootstrap_settings()}


def as_csv(found: Evaluation) -> str:
    """The rows, with one column per number."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(found.rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in found.rows)
    return out.getvalue()


def as_markdown(found: Evaluation) -> str:
    """Tables for each measure, over all clips and by class, with a legend."""
    parts = ["\n".join(f"- {printable(line)}" for line in heading(found)) + "\n"]
    for title, rows in tables(found):
        parts.append(f"### {title}\n\n{markdown_table(rows)}")
    if lines := problem_lines(found):
        parts.append("### Annotations that do not match\n\n" + "".join(f"- {printable(line)}\n" for line in lines))
    return "\n".join(parts)


def markdown_table(rows: list[Row]) -> str:
    """A Markdown table of rows with the same columns."""
    lines = [
        [str(name) for name in rows[0]],
        ["---"] * len(rows[0]),
        *([_cell(v) for v in row.values()] for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def heading(found: Evaluation) -> list[str]:
    """Lines that say what was evaluated and what the columns mean."""
    lines = [
        f"{found.clips} of {found.annotated} annotated clips, {found.boxes:,} actor boxes; {found.store} has "
        f"{found.stored} clips, {found.unannotated} of them not annotated",
        *EXPLANATION,
        f"view − centre: kept minus centre, with intervals by percentile bootstrap over groups of clips "
        f"({found.groups}, {found.grouped}), {RESAMPLES:,} resamples, seed {SEED}.",
    ]
    if found.scaled:
        lines.append(f"The boxes of {found.scaled} clips were scaled from the annotations' frame size to the clip's.")
    return lines


def tables(found: Evaluation) -> list[tuple[str, list[Row]]]:
    """Title and rows of each table: each measure over all clips, and by class if there are several."""
    whole = [row for row in found.rows if row["class"] is ALL]
    parts = [row for row in found.rows if row["class"] is not ALL]
    made = [(TITLES[measure], [_short(row, measure) for row in whole]) for measure in MEASURES]
    if len({row["class"] for row in parts}) > 1:
        made += [
            (f"{TITLES[measure]}, by class", [{"class": row["class"], **_short(row, measure)} for row in parts])
            for measure in MEASURES
        ]
    return made


def _short(row: Row, measure: str) -> Row:
    """The columns shown in tables."""
    kept = {
        "view": row["view"],
        "clips": row["clips"],
        "groups": row["groups"],
        "area": row["area"],
        "kept": row[measure],
        **{way: row[f"{measure}_{way}"] for way in ("centre", "random", "best")},
        "view − centre": signed(row[f"{measure}_minus_centre"]),
    }
    for level in (f"{100 * level:.0f}" for level in LEVELS):
        low, high = row[f"{measure}_low_{level}"], row[f"{measure}_high_{level}"]
        kept[f"{level} % interval"] = "one group" if low is None else f"{signed(low)} to {signed(high)}"
    return kept


def problem_lines(found: Evaluation) -> list[str]:
    """One line per kind of problem with the annotations, ignoring its numbers, with the first affected clips."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for id, lines in found.problems.items():
        for line in lines:
            kinds.setdefault(_DIFFERING.sub("…", line), []).append((id, line))
    listed = []
    for kind, cases in sorted(kinds.items(), key=lambda item: -len(item[1]))[:SHOWN]:
        count, ids = len(cases), ", ".join(id for id, _ in cases[:SHOWN])
        what = kind if len({line for _, line in cases}) > 1 else cases[0][1]
        more = f" and {count - SHOWN} more" if count > SHOWN else ""
        listed.append(f"{count} {'clip' if count == 1 else 'clips'}: {what} ({ids}{more})")
    if len(kinds) > SHOWN:
        listed.append(f"and {len(kinds) - SHOWN} more kinds; --json lists them all")
    return listed


def signed(value: float) -> str:
    """The value with three decimals and its sign; 0 without a sign."""
    return f"{value:+.3f}" if abs(value) >= 0.0005 else "0.000"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return printable(str(value)).replace("|", r"\|")
