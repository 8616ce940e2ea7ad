"""Which room may import which (CONTRIBUTING.md, "Rooms"), and which one module each large library is behind."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from tests.places import ROOT

CORE, SPECS = "mocrop_core", "data_specs"
FOUNDATION = ("pipelines.errors", "pipelines.atomic_files", "pipelines.disk_space", "pipelines.internal_errors")


def below(*rooms: str) -> set[str]:
    """What rooms of ``pipelines`` may import: the packages under it, what every room may use, and ``rooms``."""
    return {CORE, SPECS, *FOUNDATION, *(f"pipelines.{room}" for room in rooms)}


MAY_IMPORT: dict[str, set[str]] = {
    CORE: set(),
    SPECS: {CORE},
    "training": {CORE, SPECS},
    **{module: {CORE, SPECS} for module in FOUNDATION},
    "pipelines.media": below(),
    "pipelines.acquire": below("media"),
    "pipelines.store": below("media"),
    "pipelines.stages": below("media", "store"),
    "pipelines.runs": below("media", "store", "stages"),
    "pipelines.one_video": below("media"),
    "pipelines.evaluation": below("store"),
    "pipelines.report": below("media", "store", "stages", "evaluation"),
    "pipelines.execution": below("media", "store", "stages", "runs"),
    "pipelines.flow": below("media", "store", "stages", "runs", "report", "execution"),
    "pipelines.flow_runs": below("media", "store", "stages", "runs", "execution", "flow"),
    "pipelines.cli": below(
        "media",
        "store",
        "stages",
        "runs",
        "report",
        "execution",
        "flow",
        "flow_runs",
        "acquire",
        "one_video",
        "evaluation",
    ),
}
MAY_IMPORT["mocrop"] = set(MAY_IMPORT)  # everything; as no other room has it in its set, nothing imports it
"""By room: the rooms that its modules may import besides their own."""
BEHIND = {
    "av": "pipelines/media/decoder.py",
    "ffmpeg": "pipelines/media/encoder.py",
    "dask": "pipelines/execution/dask_cluster.py",
    "distributed": "pipelines/execution/dask_cluster.py",
    "prefect": "pipelines/flow.py",
}


def imported(path: Path) -> set[str]:
    """The dotted names of the modules, or of names in them, that a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(name: str) -> str | None:
    """The room that a dotted name lies in; None for what is not ours."""
    package, _, rest = name.partition(".")
    if package not in {CORE, SPECS, "training", "pipelines", "mocrop"}:
        return None
    return f"pipelines.{rest.partition('.')[0]}" if package == "pipelines" and rest else package


MODULES = {
    path.relative_to(ROOT): imported(path)
    for package in (CORE, SPECS, "pipelines", "training", "mocrop")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def dotted(path: Path) -> str:
    """The dotted name of a module."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    inside = {path: names for path, names in MODULES.items() if room_of(dotted(path)) == room}
    assert inside, f"{room} has no module"
    allowed = MAY_IMPORT[room] | {room}
    for path, names in inside.items():
        above = {name for name in names if (other := room_of(name)) and other not in allowed}
        assert not above, f"{path} imports {sorted(above)}, but {room} may import only {sorted(allowed)}"


def test_a_module_of_pipelines_fits_in_350_lines() -> None:
    lines = {path: (ROOT / path).read_text(encoding="utf-8").count("\n") for path in MODULES}
    assert {path: count for path, count in lines.items() if path.parts[0] == "pipelines" and count > 350} == {}


def test_every_module_is_in_a_room() -> None:
    assert {room_of(dotted(path)) for path in MODULES} - {"pipelines"} == MAY_IMPORT.keys()


def test_the_rooms_have_levels() -> None:
    placed: set[str] = set()
    while len(placed) < len(MAY_IMPORT):
        level = {room for room, below in MAY_IMPORT.items() if room not in placed and below <= placed}
        assert level, f"{sorted(MAY_IMPORT.keys() - placed)} import each other in a circle"
        placed |= level


@pytest.mark.parametrize("library", BEHIND)
def test_a_large_library_is_behind_one_module(library: str) -> None:
    # what starts the flow, a hook that Prefect calls, and the program of its server's own process
    others = {"flow_runs.py", "execution/deployment_alias.py", "execution/server_process.py"}
    others = {f"pipelines/{name}" for name in others}
    users = {str(path) for path, names in MODULES.items() if library in {name.partition(".")[0] for name in names}}
    assert users - (others if library == "prefect" else set()) == {BEHIND[library]}


def test_the_algorithm_needs_numpy_alone() -> None:
    names = set().union(*(names for path, names in MODULES.items() if path.parts[0] == CORE))
    assert {name.partition(".")[0] for name in names} - sys.stdlib_module_names == {"numpy", CORE}
