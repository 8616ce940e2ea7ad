"""What the boxes of each method keep of annotated actors: `python -m tests.benchmarks.box_coverage --stores DIR`.

Each set of clips with annotations is made into a store with views of every preset at three areas, as `mocrop
preprocess` does it, and measured as `mocrop evaluate` does it. The stores stay in DIR, so that the same command goes on
where it stopped, and makes only what is new. docs/reference/boxes.md is made from the result.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from data_specs.recipes import MotionView
from data_specs.stored import open_store
from pipelines.evaluation.evaluation import ALL, bootstrap_settings, evaluate
from pipelines.runs.options import Options
from tests.benchmarks.box_steps import contributions
from tests.benchmarks.footage import run_alone
from tests.places import DATA

RESULT = Path(__file__).parent / "results" / "box_coverage.json"
AREAS = (75, 50, 25)  # % of the frame
PRESETS = tuple(name for name in get_args(MotionView.model_fields["preset"].annotation) if name != "reference")


@dataclass(frozen=True, slots=True)
class Clips:
    """A set of clips: folders under the data, and what makes clips of it one group of the intervals."""

    source: str
    annotations: str
    group_by: str | None = None


SETS = {
    "UCF-101": Clips("UCF-101", "annotations/ucf101_24.json"),
    "DAVIS": Clips("davis", "annotations/davis.json"),
    "Weizmann": Clips("weizmann", "annotations/weizmann.json", "/([a-z]+)_"),
}


def recipe_text() -> str:
    """The recipe: the default encode, hardly any cached frames, the whole frame, centres, and each preset."""
    views = ['kind = "full"']
    for area in AREAS:
        views.append(f'kind = "centre"\nname = "centre-{area}"\ncrop_ratio = {area / 100}')
        views += [
            f'kind = "motion"\nname = "{preset}-{area}"\npreset = "{preset}"\ncrop_ratio = {area / 100}'
            for preset in PRESETS
        ]
    tables = "".join(f"\n[[views]]\n{view}\n" for view in views)
    return f'name = "boxes"\nshard_clips = 8\n\n[frames]\nslots = 1\nsize = 8\n{tables}'


def measure(name: str, stores: Path) -> dict[str, Any]:
    """Make or complete the store of a set, and evaluate it."""
    clips, recipe, store = SETS[name], stores / "boxes.toml", stores / f"{name}.zarr"
    stores.mkdir(parents=True, exist_ok=True)
    recipe.write_text(recipe_text(), encoding="utf-8")
    run_alone(Options(str(DATA / clips.source), str(store), recipe=str(recipe)))
    found = asdict(evaluate(str(store), DATA / clips.annotations, clips.group_by))
    opened = open_store(store)
    return {
        **{key: found[key] for key in ("clips", "boxes", "groups", "grouped", "problems")},
        "steps": contributions(store, DATA / clips.annotations, [area / 100 for area in AREAS]),
        "rows": [row for row in found["rows"] if row["class"] is ALL],
        "group_by": clips.group_by,
        "software": opened.attrs["software"],
    }


def main(words: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.box_coverage")
    parser.add_argument("--stores", type=Path, required=True, help="folder for the stores, kept for the next time")
    parser.add_argument("--out", type=Path, default=RESULT, help="the JSON file to write")
    parser.add_argument("--only", action="append", choices=SETS, help="this set; may be given again")
    given = parser.parse_args(words)
    sets = {}
    for name in given.only or SETS:
        began = time.perf_counter()
        sets[name] = measure(name, given.stores)
        print(f"{name}: {sets[name]['clips']} clips, {time.perf_counter() - began:.0f} s", flush=True)
    kept = {
        "command": "python -m tests.benchmarks.box_coverage --stores DIR",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "bootstrap": bootstrap_settings(),
        "sets": sets,
    }
    given.out.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
