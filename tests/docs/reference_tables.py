"""Tables that follow from code or kept results: ``python -m tests.docs.reference_tables`` rewrites them.

They are those of docs/reference. A table stands in its document between
``<!-- table: NAME -->`` and ``<!-- end of table -->``. ``test_docs`` fails where one is not what the code says.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import typer.main
from pydantic import BaseModel

from data_specs import recipes, schema
from data_specs.motion_format import MOTION_COLUMNS
from mocrop_core.actor import ACTOR, ActorMethod
from mocrop_core.method import PRESETS, Method
from pipelines.cli.app import app
from tests.benchmarks.__main__ import NAMES, RESULTS
from tests.docs.box_tables import BOX_TABLES
from tests.docs.library_reference import library_reference
from tests.docs.markdown import plain, table
from tests.places import ROOT
from tests.support import soak

REFERENCE = ROOT / "docs" / "reference"
DOCUMENTS = tuple(sorted(REFERENCE.glob("*.md")))
_STATED = re.compile(r" \[default: (.+?)\]")
_PLACE = re.compile(r"(<!-- table: ([^>]+?) -->\n).*?(<!-- end of table -->)", re.DOTALL)
_NAME = "letters, digits, `_` `.` `-`; at most 64 of them"

_KEYS = {
    "kind": "rule that chooses the box",
    "preset": "version of the method, with the numbers below",
    "transcode": "",
    "frames": "which frames are cached, and how",
    "codec": "how a cached frame is stored",
    "grid": "rows and columns of the density map",
    "crop_ratio": "area of the box as a share of the grid",
}
"""Descriptions of the keys that have none in their model."""

_SECTIONS = {"Encode": "transcode", "Frames": "frames", "FrameCodec": "framescodec"}
"""The headings of docs/reference/recipes.md that these models stand under, as links have them."""

_NUMBERS = {
    "grid": "rows and columns of the density map",
    "crop_ratio": "target share of the grid's cells, above 0, at most 1",
    "keep": '`["threshold", px]`: vectors longer than px; `["fastest", share]`: that share of all vectors, the longest',
    "sample": '`["uniform", count]`, or `["speed", share, power]`: odds proportional to length ** power',
    "tolerance": "allowed relative deviation of the rectangle's area",
    "sum_weight": "weight of the sum of a rectangle's cells in its score",
    "mean_weight": "weight of the mean of its cells",
    "arithmetic": '`"exact"`: the pixels of the chosen cells; `"reference"`: the public code\'s rounding and fallback',
}
"""Descriptions of the fields of mocrop_core.method.Method."""
_ACTOR_NUMBERS = {
    "crop_ratio": "area of the box as a share of the picture's, above 0, at most 1; met to rounding",
    "blur": "standard deviations of the map's blur, as shares of its rows and its columns",
    "centre": "standard deviations of the centre weights, as shares of the picture's height and width",
    "max_speed": "largest movement of a moving box from one frame to the next, as a share of the picture's side",
}


def recipe_keys(model: type[BaseModel]) -> str:
    """The keys of a part of a recipe: values that they may have, default, meaning."""
    whole = model.model_json_schema()
    needed = set(whole.get("required", ()))
    rows = []
    for key, field in whole["properties"].items():
        own = _without_null(field)
        about = field.get("description") or own.get("description") or _KEYS[key]
        rows.append([f"`{key}`", _values(own), _default(key, field, needed), about])
    return table(("key", "values", "default", "what"), rows)


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    branches = [branch for branch in field.get("anyOf", ()) if branch.get("type") != "null"]
    return branches[0] if len(branches) == 1 else field


def _values(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_values(branch) for branch in field["anyOf"] if branch.get("type") != "null")
    if "$ref" in field:
        return f"a table, [below](#{_SECTIONS[field['$ref'].rpartition('/')[2]]})"
    if "const" in field:
        return f'`"{field["const"]}"`'
    if "enum" in field:
        return ", ".join(f'`"{value}"`' for value in field["enum"])
    if "pattern" in field:
        return _NAME
    match field["type"]:
        case "boolean":
            return "`true`, `false`"
        case "array" if "prefixItems" in field:
            return f"two of: {_values(field['prefixItems'][0])}"
        case "array":
            return "one table or more, [below](#views)"
        case "object":
            return "a table, [below](#the-numbers-of-the-method)"
        case kind:
            return f"{'whole number' if kind == 'integer' else 'number'} {_range(field)}"


def _range(field: dict[str, Any]) -> str:
    most = f"{field['maximum']:,}" if "maximum" in field else ""
    if "exclusiveMaximum" in field:
        most = f"2**{field['exclusiveMaximum'].bit_length() - 1} - 1"
    if "exclusiveMinimum" in field:
        return f"above {field['exclusiveMinimum']}" + (f", at most {most}" if most else "")
    return f"{field['minimum']} to {most}" if most else f"from {field['minimum']} on"


def _default(key: str, field: dict[str, Any], needed: set[str]) -> str:
    if key == "kind":  # it tells the tables apart
        return "must be given"
    if key == "overrides":
        return "-"
    if key in ("grid", "crop_ratio") and field.get("default") is None and "anyOf" in field:
        return "the preset's"
    if key == "views":
        return "a `full` view and a `motion` view"
    if "default" in field:
        return "-" if field["default"] is None else f"`{_toml(field['default'])}`"
    if key == "name":
        return "the `kind`"
    return "must be given" if key in needed else "all its defaults" if "properties" not in field else "-"


def _toml(value: Any) -> str:
    if isinstance(value, str | bool):
        return json.dumps(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def method_numbers() -> str:
    """The numbers of the method in each preset, by their names in ``overrides``."""
    rows = [
        [f"`{field.name}`", *(f"`{_toml(getattr(method, field.name))}`" for method in PRESETS.values()), about]
        for field, about in zip(dataclasses.fields(Method), _in_order(Method), strict=True)
    ]
    return table(("number", *(f"`{name}`" for name in PRESETS), "what"), rows)


def actor_numbers() -> str:
    """The numbers of the preset actor, by their names in ``overrides``."""
    rows = [[f"`{name}`", f"`{_toml(getattr(ACTOR, name))}`", about] for name, about in _ACTOR_NUMBERS.items()]
    assert _ACTOR_NUMBERS.keys() == {field.name for field in dataclasses.fields(ActorMethod)} - {"segments", "aspect"}
    return table(("number", "`actor`", "what"), rows)


def _in_order(method: type[Method]) -> list[str]:
    return [_NUMBERS[field.name] for field in dataclasses.fields(method)]


def arrays() -> str:
    """The arrays of a store with one motion view called ``<view>``."""
    known = {7919: "clips", 13: "slots", 251: "size", 5: "shard_clips", 211: "rows", 223: "cols"}
    specs = schema.all_arrays(7919, 13, 251, 5, [("<view>", (211, 223), True)])

    def lengths(values: Iterable[int]) -> str:
        return " × ".join(known.get(value, str(value)) for value in values)

    return table(
        ("array", "type", "dimensions", "shape", "chunk", "shard", "fill", "what"),
        [
            [f"`{spec.path}`", spec.dtype, ", ".join(spec.dims), lengths(spec.shape), lengths(spec.chunks),
             lengths(spec.shards or ()), "empty" if spec.fill == "" else f"{spec.fill:g}", spec.about]  # type: ignore[str-format]
            for spec in specs
        ],
    )  # fmt: skip


def motion_columns() -> str:
    """The columns of ``motion/<shard>``."""
    return table(("column", "what"), ([f"`{name}`", about] for name, about in MOTION_COLUMNS.items()))


def notes() -> str:
    """The kinds of notes that a clip may have."""
    return table(("kind", "what"), ([f"`{kind}`", about] for kind, about in schema.NOTES.items()))


def commands() -> str:
    """Every command of ``mocrop`` with its arguments and flags."""
    group = typer.main.get_command(app)
    return "\n".join(_command(name, command) for name, command in group.commands.items())  # type: ignore[attr-defined]


def _command(name: str, command: Any) -> str:
    arguments = [one for one in command.params if not one.opts[0].startswith("-")]
    words = " ".join(["mocrop", name, *(one.metavar for one in arguments)])
    rows = [
        [
            f"`{', '.join(one.opts)}`" if one.opts[0].startswith("-") else f"`{one.metavar}`",
            _flag_default(one),
            _STATED.sub("", one.help or ""),
        ]
        for one in command.params
    ]
    flags = table(("flag", "default", "what"), rows) if rows else ""
    return f"### `{words}`\n\n{plain(command.help)}\n\n{flags}\n{plain(command.epilog or '')}\n"


def _flag_default(one: Any) -> str:
    if one.required:
        return "must be given"
    if stated := _STATED.search(one.help or ""):
        return stated[1]
    return "-" if one.default is None or getattr(one, "is_flag", False) else f"`{one.default}`"


def script(parser: Callable[[], argparse.ArgumentParser]) -> str:
    """The flags of a script of ``training``."""
    made = parser()
    rows = []
    for action in made._actions:
        if not isinstance(action, argparse._HelpAction):
            flags = ", ".join(action.option_strings) or str(action.metavar)
            rows.append([f"`{flags}`", _script_default(action), str(action.help or "")])
    return table(("flag", "default", "what"), rows)


def _script_default(action: argparse.Action) -> str:
    if action.required:
        return "must be given"
    if action.default is None or action.default is False:
        return "-"
    value = " ".join(map(str, action.default)) if isinstance(action.default, list) else action.default
    return f"`{value}`"


def _script(name: str) -> Callable[[], str]:
    def made() -> str:
        from importlib import import_module

        return script(import_module(f"training.{name}").parser)

    return made


def benchmark(name: str) -> str:
    """Every line of a benchmark's kept result, and what it was measured with."""
    kept = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    rows = [
        (line["name"], f"{figure(line['median'])} {line['unit']}", _spread(line), line["target"], line["remark"])
        for line in kept["lines"]
    ]
    made = table(("benchmark", "median", "lowest – highest", "target", "remark"), rows)
    about = kept["machine"]
    packages = ", ".join(f"{key} {about[key]}" for key in about if key not in _MACHINE)
    return (
        f"{made}\n`{kept['command']}`, {kept['date']}, {kept['seconds'] / 60:.0f} min, {about['cores']} cores of "
        f"{about['cpu']}, {about['memory_gib']:.0f} GiB, {about['system']}; {packages}.\n"
    )


_MACHINE = ("cores", "cpu", "memory_gib", "system", "load", "load_at_the_end", "commit")


_PROMISED = [
    (
        "box search against a loop over all rectangles, 6 × 8 cells",
        "box_search",
        "box search, 6 × 8 cells, against the loop",
    ),
    ("… 9 × 16 cells", "box_search", "box search, 9 × 16 cells, against the loop"),
    ("… 30 × 40 cells", "box_search", "box search, 30 × 40 cells, against the loop"),
    ("… its share of a clip's CPU time", "box_search", "box search, share of a clip's CPU time"),
    (
        "vectors against motion-vector-extractor, the same vectors",
        "motion_vectors",
        "vectors, against motion-vector-extractor without frames",
    ),
    ("vectors against PyAV decoding alone", "motion_vectors", "vectors, against PyAV decoding alone"),
    (
        "vectors, density and 8 frames against motion-vector-extractor and OpenCV",
        "motion_vectors",
        "vectors, density, 8 key frames, against motion-vector-extractor and OpenCV, an open for each",
    ),
    ("CPU of the whole flow against its bare parts", "whole_flow", "whole flow against its bare parts"),
    (
        "a new view against a run from the start, both without Prefect's start",
        "whole_flow",
        "a new view on a store, against the run from the start, without starts",
    ),
    ("two workers against one", "scaling", "two workers against one"),
    ("cost of a clip at 5,000 rows against 200", "scaling", "cost of a clip at 5,000 rows against 200"),
    ("memory of a worker, 16 clips of UCF-101", "memory", "memory of a worker, clips, 16 clips of UCF-101"),
    ("memory of a worker, one video of 20 minutes", "memory", "memory of a worker, boxes, one video of 20 minutes"),
    ("loader against the public code's reading", "loader", "loader of zstd against the reference's items"),
    ("loader of raw frames against a memory map", "loader", "loader of raw against a memory map"),
    ("loader of zstd frames (the default) against a memory map", "loader", "loader of zstd against a memory map"),
    ("memory of a reading process", "loader", "peak of a reading process above its start"),
    ("… its growth over ten epochs", "loader", "growth of a reading process"),
]
"""The rows of promises.md: their text, the benchmark, and the name of its line."""


def promised() -> str:
    """The targets and results of promises.md."""
    rows = []
    for what, benchmark, name in _PROMISED:
        line = _line(benchmark, name)
        missed = ", **missed**" if line["verdict"] == "MISSED" else ""
        rows.append((what, f"{line['target']}{missed}", f"{figure(line['median'])} {line['unit']}", _spread(line)))
    return table(("benchmark", "target", "median", "lowest – highest"), rows)


def whole() -> str:
    """Projected time and space for the whole of UCF-101."""
    names = {"time": "wall time", "store": "store", "H.264 files": "H.264 files (needed for new views)"}
    lines = {what: _line("whole_flow", f"UCF-101 whole, projected {name}") for name, what in names.items()}
    rows = [(what, f"{figure(line['median'])} {line['unit']}", _spread(line)) for what, line in lines.items()]
    return table(("13,320 clips", "median", "lowest – highest"), rows)


def backbones() -> str:
    """Seconds that ``make soak`` took to train and test each backbone of the reference on a CPU."""
    from training.backbones import TORCHVISION

    kept = json.loads(soak.RESULTS.read_text(encoding="utf-8"))["tests"]
    sizes = (192, 224)
    found = {(arch, size): kept[f"{arch} at {size} px on a CPU"] for arch in TORCHVISION for size in sizes}
    cells = {which: f"{took['train_seconds']:.0f} + {took['test_seconds']:.0f}" for which, took in found.items()}
    rows = [(f"`{arch}`", *(cells[arch, size] for size in sizes)) for arch in TORCHVISION]
    return table(("backbone", *(f"{size} px, s" for size in sizes)), rows)


def _line(benchmark: str, name: str) -> dict[str, Any]:
    kept = json.loads((RESULTS / f"{benchmark}.json").read_text(encoding="utf-8"))["lines"]
    (line,) = [one for one in kept if one["name"] == name]
    return dict(line)


def _spread(line: dict[str, Any]) -> str:
    if line["repetitions"] == 1:
        return "once"
    return f"{figure(line['lowest'])} – {figure(line['highest'])} (n = {line['repetitions']})"


def figure(value: float) -> str:
    """A number with three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


TABLES: dict[str, Callable[[], str]] = {
    "Recipe": lambda: recipe_keys(recipes.Recipe),
    "Encode": lambda: recipe_keys(recipes.Encode),
    "Frames": lambda: recipe_keys(recipes.Frames),
    "FrameCodec": lambda: recipe_keys(recipes.FrameCodec),
    "FullView": lambda: recipe_keys(recipes.FullView),
    "FixedView": lambda: recipe_keys(recipes.FixedView),
    "MotionView": lambda: recipe_keys(recipes.MotionView),
    "numbers of the method": method_numbers,
    "arrays": arrays,
    "motion columns": motion_columns,
    "numbers of the preset actor": actor_numbers,
    "notes": notes,
    "commands": commands,
    "library": library_reference,
    **{f"training.{name}": _script(name) for name in ("train", "test", "fuse", "probe", "results", "compare", "flops")},
    **{f"benchmark {name}": partial(benchmark, name) for name in NAMES},
    **BOX_TABLES,
    "promised": promised,
    "whole": whole,
    "backbones": backbones,
}


def with_tables(text: str) -> str:
    """A document with its tables as the code has them."""
    return _PLACE.sub(lambda place: f"{place[1]}{TABLES[place[2]]()}{place[3]}", text)


def main() -> int:
    """Rewrite the tables; return the documents that changed."""
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        if (made := with_tables(text)) != text:
            document.write_text(made, encoding="utf-8")
            print(document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
