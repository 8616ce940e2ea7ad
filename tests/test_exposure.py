"""Nobody from outside gets in: no pickle is loaded from a file, and what listens is seen by those tests that look."""

from __future__ import annotations

import ast
import os
import socket
from pathlib import Path

from tests.listening import is_loopback, listening

REPOSITORY = Path(__file__).parents[1]
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


def faults(source: str) -> list[str]:
    """The calls that would load a pickle from a file."""
    wrong = []
    for name, given in calls(ast.parse(source)):
        if name in ("torch.load", "load") and "torch" in name and given.get("weights_only") is not True:
            wrong.append(f"{name} without weights_only=True")
        if given.get("allow_pickle", False) is not False or given.get("weights_only", True) is not True:
            wrong.append(f"{name} that allows pickles")
        if name.split(".")[0] in ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"):
            wrong.append(name)
    return wrong


def test_no_pickle_is_loaded_from_a_file() -> None:
    sources = [path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py")]
    assert len(sources) > 40
    assert {path.name: wrong for path in sources if (wrong := faults(path.read_text(encoding="utf-8")))} == {}
    assert (
        len(faults("torch.load(f)\nnp.load(f, allow_pickle=True)\npickle.load(f)\ntorch.load(f, weights_only=False)"))
        == 5
    )
