"""The tables of docs/reference/boxes.md, from the records of what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.evaluation.formats import signed
from tests.benchmarks import encoder_presets
from tests.benchmarks.box_coverage import AREAS, RESULT, SETS
from tests.benchmarks.box_coverage import PRESETS as BOX_PRESETS
from tests.benchmarks.box_steps import STEPS
from tests.docs.markdown import table

_RULES = {"centre": "centre crop, same area", "paper-v1": "`paper-v1`", "paper-v2": "`paper-v2`", "actor": "`actor`"}
"""The rules whose coverage was measured."""


def boxes_kept() -> str:
    """The mean share of the actor that each rule keeps, on each set, at each area."""
    sets = _coverage()["sets"]
    whole = {name: {row["view"]: row for row in kept["rows"]} for name, kept in sets.items()}

    def cells(view: str, measure: str) -> list[str]:
        return [" / ".join(f"{rows[f'{view}-{area}'][measure]:.3f}" for area in AREAS) for rows in whole.values()]

    rows = [(_RULES[rule], *cells(rule, "kept")) for rule in ("centre", *BOX_PRESETS)]
    rows.insert(1, ("random place, same area", *cells("centre", "kept_random")))
    rows.append(("best static box (sees the answer)", *cells("centre", "kept_best")))
    heads = [f"{name} ({kept['clips']} clips, {kept['groups']} groups)" for name, kept in sets.items()]
    return table(("box", *heads), rows)


def boxes_steps() -> str:
    """The mean share of the actor that the method ``actor`` keeps with each of its steps left out."""
    sets = _coverage()["sets"]
    rows = [(step, *(_by_area(kept["steps"][step]) for kept in sets.values())) for step in STEPS]
    return table(("left out", *sets), rows)


def boxes_of(name: str) -> str:
    """How much of the actor each view keeps on a set, and boxes of the same area."""
    heads = ("view", "area", "kept", "centre", "random", "best", "− centre", "90 %", "95 %", "≥ 90 % kept", "centre")
    numbers = ("area", "kept", "kept_centre", "kept_random", "kept_best")
    return table(
        heads,
        [
            (f"`{row['view']}`", *(f"{row[key]:.3f}" for key in numbers), signed(row["kept_minus_centre"]),
             *(f"{signed(row[f'kept_low_{level}'])} to {signed(row[f'kept_high_{level}'])}" for level in (90, 95)),
             f"{row['mostly']:.3f}", f"{row['mostly_centre']:.3f}")
            for row in _coverage()["sets"][name]["rows"]
        ],
    )  # fmt: skip


def boxes_made() -> str:
    """Command, date and package versions of the box measurements."""
    kept = _coverage()
    software = next(iter(kept["sets"].values()))["software"]
    return f"`{kept['command']}`, {kept['date']}; {', '.join(f'{name} {what}' for name, what in software.items())}.\n"


def _coverage() -> dict[str, Any]:
    return _record(RESULT)


def _record(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _by_area(shares: list[float]) -> str:
    return " / ".join(f"{share:.3f}" for share in shares)


def encoder_settings() -> str:
    """What each of x264's settings costs and gives."""
    record = _record(encoder_presets.RESULT)
    rows = []
    for name, found in record["sets"].items():
        for setting, one in found["settings"].items():
            cpu, size, psnr = (one[key] for key in ("cpu_ratio", "bytes_ratio", "psnr_difference"))
            rows.append(
                (
                    f"{name} ({found['clips']} clips, {found['annotated']} annotated)",
                    f"`{setting}`",
                    f"{one['cpu_ms_a_frame']:.2f}",
                    f"{cpu[0]:.2f} ({cpu[1]:.2f} – {cpu[2]:.2f})",
                    f"{one['bytes_a_frame']:,}",
                    f"{size[0]:.2f} ({size[1]:.2f} – {size[2]:.2f})",
                    f"{one['psnr_db']:.1f}",
                    f"{psnr[0]:+.1f} ({psnr[1]:+.1f} – {psnr[2]:+.1f})",
                    _by_area(one["kept"]),
                )
            )
    first = "relative to the first"
    heads = ("set", "x264", "CPU, ms per frame", first, "bytes per frame", first, "key frames, dB", first, "actor kept")
    about = record["machine"]
    made = f"`{record['command']}`, {record['date']}, {about['cores']} cores of {about['cpu']}; {about['ffmpeg']}."
    return f"{table(heads, rows)}\n{made}\n"


BOX_TABLES: dict[str, Callable[[], str]] = {
    "boxes kept": boxes_kept,
    **{f"boxes {name}": partial(boxes_of, name) for name in SETS},
    "boxes made": boxes_made,
    "boxes steps": boxes_steps,
    "boxes encoder": encoder_settings,
}
