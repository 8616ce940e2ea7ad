"""Nobody from outside gets in: no pickle is loaded from a file, and what listens is seen by those tests that look."""

from __future__ import annotations

import ast
import os
import socket

import pytest

from tests.places import ROOT
from tests.support.listening import is_loopback, listening

REPOSITORY = ROOT
PACKAGES = ("mocrop_core", "data_specs", "pipelines", "training")


def test_listening_is_noticed_and_told_apart() -> None:
    with socket.socket() as inside, socket.socket() as outside:
        inside.bind(("127.0.0.1", 0))
        outside.bind(("0.0.0.0", 0))
        inside.listen()
        outside.listen()
        found = listening(os.getpid())
        assert f"127.0.0.1 {inside.getsockname()[1]}" in found
        assert f"0.0.0.0 {outside.getsockname()[1]}" in found
    assert not is_loopback("0.0.0.0 80")
    assert not is_loopback(":: 80")
    assert is_loopback("::1 80")
    assert is_loopback("::ffff:127.0.0.1 80")


def calls(tree: ast.AST) -> list[tuple[str, dict[str, object]]]:
    """The calls in a module: what is called, as it is written, and its constant keyword arguments."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            given = {word.arg or "**": getattr(word.value, "value", word.value) for word in node.keywords}
            found.append((ast.unparse(node.func), given))
    return found


PICKLERS = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")


def escapes(tree: ast.AST) -> list[str]:
    """The imports that would let `torch.load` or a pickler be called by another name."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            root = (node.module or "").split(".")[0]
            names = {name.name for name in node.names}
            if root in PICKLERS or (root == "torch" and names & {"load", "*"}):
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Import):
            found += [ast.unparse(node) for name in node.names if name.asname and name.name in (*PICKLERS, "torch")]
    return found


def faults(source: str) -> list[str]:
    """What would load a pickle from a file, or let it be done unseen."""
    tree = ast.parse(source)
    wrong = escapes(tree)
    for name, given in calls(tree):
        if name in ("torch.load", "torch.serialization.load") and given.get("weights_only") is not True:
            wrong.append(f"{name} without weights_only=True")
        if given.get("allow_pickle", False) is not False or given.get("weights_only", True) is not True:
            wrong.append(f"{name} that allows pickles")
        if name.split(".")[0] in PICKLERS:
            wrong.append(name)
    return wrong


def test_no_pickle_is_loaded_from_a_file() -> None:
    sources = [path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py")]
    assert len(sources) > 40
    assert {path.name: wrong for path in sources if (wrong := faults(path.read_text(encoding="utf-8")))} == {}


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("torch.load(f)", 1),
        ("torch.load(f, weights_only=False)", 2),
        ("torch.load(f, weights_only=wanted)", 2),
        ("torch.load(f, weights_only=True)", 0),
        ("np.load(f, allow_pickle=True)", 1),
        ("np.load(f)", 0),
        ("pickle.load(f)", 1),
        ("from torch import load", 1),
        ("from torch.serialization import load", 1),
        ("from torch import nn", 0),
        ("import torch as t", 1),
        ("import torch", 0),
        ("from pickle import load", 1),
        ("import pickle as p", 1),
        ("json.load(f)", 0),
    ],
)
def test_whatever_loads_a_pickle_is_seen(line: str, count: int) -> None:
    assert len(faults(line)) == count
