"""Who imports whom: the layers of CONTRIBUTING.md, and the one module that each large library is behind."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "mocrop_core": set(),
    "data_specs": {"mocrop_core"},
    "pipelines": {"mocrop_core", "data_specs"},
    "training": {"mocrop_core", "data_specs"},
}
BEHIND = {
    "av": "pipelines/video.py",
    "ffmpeg": "pipelines/ffmpeg.py",
    "dask": "pipelines/cluster.py",
    "distributed": "pipelines/cluster.py",
    "prefect": "pipelines/flow.py",
}


def imports_of(module: Path) -> set[str]:
    """The top names that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


IMPORTS = {
    str(path.relative_to(ROOT)): imports_of(path) for name in MAY_IMPORT for path in sorted((ROOT / name).glob("*.py"))
}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_those_below_it(package: str) -> None:
    modules = {module: found for module, found in IMPORTS.items() if module.startswith(f"{package}/")}
    assert len(modules) > 3
    for module, found in modules.items():
        assert found & MAY_IMPORT.keys() <= MAY_IMPORT[package] | {package}, module


@pytest.mark.parametrize("library", BEHIND)
def test_a_large_library_is_behind_one_module(library: str) -> None:
    # Prefect calls the one; the other is the program of its server's own process
    others = {"pipelines/bare_name.py", "pipelines/server_process.py"} if library == "prefect" else set()
    assert {module for module, found in IMPORTS.items() if library in found} - others == {BEHIND[library]}


def test_the_algorithm_needs_numpy_alone() -> None:
    found = set().union(*(found for module, found in IMPORTS.items() if module.startswith("mocrop_core/")))
    assert found - sys.stdlib_module_names == {"numpy", "mocrop_core"}
