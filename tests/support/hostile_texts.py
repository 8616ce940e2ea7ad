"""Annotations, recipes, lists, results and checkpoints from a stranger, each with the command that reads it.

``TEXTS`` and ``CHECKPOINTS`` have, by name, what writes the file into a world, the command's name and the command.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

import pipelines.cli.app
import training.results
import training.test
import training.train

ESCAPES = "\x1b[2J\x1b]0;owned\x07\r\nid \u202eevil\u2066 \x9b31m"
Entry = tuple[Callable[[Any], object], str, Callable[[Any], object]]
TEXTS: dict[str, Entry] = {}
CHECKPOINTS: dict[str, Entry] = {}


def _file(name: str, content: str | bytes) -> Callable[[Any], object]:
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    return lambda world: (world.out / name).write_bytes(data)


def _mocrop(*arguments: str) -> Callable[[Any], object]:
    def run(world: Any) -> None:
        places = {"STORE": str(world.store), "SOURCE": str(world.source), "SPLITS": str(world.splits)}
        sys.argv = ["mocrop", *(places.get(word, word).replace("OUT", str(world.out)) for word in arguments)]
        pipelines.cli.app.main()

    return run


_DEEP = "[" * 200_000
_LATE = {"start_frame": 10**30, "end_frame": 10**30 + 1}
_FAR = {"boxes_xywh": [[1e308, 0, 1e308, float("nan")]]}
_TUBE = {"start_frame": 0, "end_frame": 1, "boxes_xywh": [[0, 0, 5, 5]]}
ANNOTATIONS = {
    "nested 200,000 times": _DEEP,
    "not UTF-8": "\udcff{",
    "ids with escapes": json.dumps({ESCAPES: {"num_frames": 3, "tubes": [_TUBE]}}),
    "keys with escapes": json.dumps({ESCAPES: {ESCAPES: 3}}),
    "frames of 1e30": json.dumps({"a": {"num_frames": 3, "tubes": [_TUBE | _LATE]}}),
    "frames below zero": json.dumps({"a": {"num_frames": -3, "tubes": []}}),
    "boxes of infinity": json.dumps({"a": {"num_frames": 3, "tubes": [_TUBE | _FAR]}}),
    "a number of 5,000 digits": '{"a": 1' + "0" * 5000 + "}",
    "a list": "[1, 2]",
    "an empty file": "",
}  # fmt: skip
for _name, _text in ANNOTATIONS.items():
    TEXTS[f"annotations: {_name}"] = (
        _file("a.json", _text),
        "report --annotations",
        _mocrop("report", "STORE", "--out", "OUT/p.html", "--clips", "2", "--annotations", "OUT/a.json"),
    )
RECIPES = {
    "nested 100,000 times": "a = " + "[" * 100_000,
    "a number of 5,000 digits": "seed = 1" + "0" * 5000,
    "NUL": 'name = "a\0b"',
    "not UTF-8": "name = '\udcff'",
    "keys with escapes": f"{json.dumps(ESCAPES)} = 1\n",
    "names with escapes": "name = " + json.dumps(ESCAPES),
    "50 MB": "# " + "x" * (50 << 20),
    "a frame of 1e12 px": "[frames]\nsize = 1000000000000",
}
for _name, _text in RECIPES.items():
    TEXTS[f"recipe: {_name}"] = (
        _file("r.toml", _text),
        "plan --recipe",
        _mocrop("plan", "--source", "SOURCE", "--splits", "SPLITS", "--store", "OUT/n.zarr", "--recipe", "OUT/r.toml"),
    )  # fmt: skip
RESULTS = {
    "nested 200,000 times": _DEEP,
    "fields of other types": {"split": [1]},
    "names with escapes": {"arch": ESCAPES, "dataset": ESCAPES},
    "names that are formulas": {"arch": "=1+1", "dataset": "@A1"},
    "an accuracy of infinity": {"top1": 1e308},
    "no flops": {"gflops": 0},
    "trained is a list": {"trained": [1]},
    "settings are a number": {"trained": {"settings": 7}},
    "checkpoint is a number": {"checkpoint": 7},
}
_RESULT = {
    "mocrop_result": 1, "name": "a", "arch": "resnet50", "dataset": "d", "split": 1, "view": "full", "input_size": 224,
    "view_fingerprint": "0" * 32, "segments": 8, "clips": 4, "top1": 50.0, "gflops": 4.1, "amp": False,
    "checkpoint": {"sha256": "0" * 64},
    "trained": {"view": "full", "input_size": 224, "seed": 0, "select": "last", "settings": {}},
}  # fmt: skip
for _name, _change in RESULTS.items():
    for _form in ("text", "markdown", "csv"):
        TEXTS[f"results as {_form}: {_name}"] = (
            _file("r.json", _change if isinstance(_change, str) else json.dumps(_RESULT | _change)),
            f"training.results --format {_form}",
            lambda world, form=_form: sys.exit(training.results.main([str(world.out), "--format", form])),
        )
LISTS = {
    "escapes": f"A/{ESCAPES}.avi 1\n",
    "labels of 1e30": "A/a.avi 1" + "0" * 30,
    "NUL": "A/a\0.avi 1\n",
    "paths that lead out": "../../../etc/shadow.avi 1\n/etc/passwd.avi 2\n",
    "a line of 20 MB": "A/" + "x" * (20 << 20) + ".avi 1\n",
}
for _name, _text in LISTS.items():
    TEXTS[f"lists: {_name}"] = (
        lambda world, text=_text: [
            (world.out / "lists").mkdir(),
            (world.out / "lists/trainlist01.txt").write_bytes(text.encode("utf-8", "surrogateescape")),
        ],
        "plan --splits",
        _mocrop("plan", "--source", "SOURCE", "--splits", "OUT/lists", "--store", "OUT/new.zarr", "--recipe", "smoke"),
    )


class Pwned:
    """Unpickled, it leaves a folder."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.where,)


def _saved(change: Callable[[dict[str, Any]], object]) -> Callable[[Any], object]:
    def write(world: Any) -> None:
        content = torch.load(world.weights, weights_only=True)
        torch.save(change(content) or content, world.out / "w.pt")

    return write


def _each_weight(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any], object]:
    """Change what a model computes with: its counters of batches stay integers."""

    def each(content: dict[str, Any]) -> None:
        for key, value in content["model"].items():
            content["model"][key] = change(value) if value.is_floating_point() else value

    return _saved(each)


def _one_weight(number: float) -> Callable[[Any], object]:
    def one(content: dict[str, Any]) -> None:
        weights = next(value for value in content["model"].values() if value.is_floating_point())
        weights[(0,) * weights.ndim] = number

    return _saved(one)


def _pickled(world: Any) -> None:
    (world.out / "w.pt").write_bytes(pickle.dumps(Pwned(str(world.store.parent / "precious" / "pwned"))))


def _saved_pickle(world: Any) -> None:
    torch.save({"model": Pwned(str(world.store.parent / "precious" / "pwned"))}, world.out / "w.pt")


_NOT_FINITE, _OF_ANOTHER_KIND = "with values that are not finite", "of another kind"
_WEIGHTS: dict[str, tuple[Callable[[Any], object], str]] = {
    "a pickle that runs code": (_pickled, "not what torch.save writes"),
    "a checkpoint that runs code": (_saved_pickle, r"more than plain tensors \(posix.mkdir\)"),
    "an empty file": (_file("w.pt", b""), "not a complete checkpoint"),
    "noise": (_file("w.pt", bytes(range(256)) * 64), "not what torch.save writes"),
    "a cut checkpoint": (
        lambda world: (world.out / "w.pt").write_bytes(world.weights.read_bytes()[:5000]), "not a complete checkpoint",
    ),
    "no model": (_saved(lambda it: it.update(model=None)), "missing"),
    "a model of a number": (_saved(lambda it: it.update(model={"a": 7})), "missing"),
    "weights that are NaN": (_each_weight(lambda it: it * float("nan")), _NOT_FINITE),
    "a weight that is NaN": (_one_weight(float("nan")), f"1 {_NOT_FINITE}"),
    "a weight of infinity": (_one_weight(float("inf")), f"1 {_NOT_FINITE}"),
    "weights too large for float32": (_each_weight(lambda it: it.double() * 1e300), _NOT_FINITE),
    "weights that are complex": (_each_weight(lambda it: it.to(torch.complex64)), _OF_ANOTHER_KIND),
    "weights that are integers": (_each_weight(lambda it: it.to(torch.int8)), _OF_ANOTHER_KIND),
    "weights without memory": (_each_weight(lambda it: it.to("meta")), _OF_ANOTHER_KIND),
    "a list": (_saved(lambda it: [1, 2]), "holds list"),  # type: ignore[arg-type, return-value]
}  # fmt: skip
_ARGUMENTS: dict[str, tuple[Callable[[Any], object], str]] = {
    "args that are a list": (_saved(lambda it: it.update(args=[1])), "its args are list"),
    "args with escapes": (_saved(lambda it: it["args"].update(arch=ESCAPES)), "its args: arch"),
    "args of NaN": (_saved(lambda it: it["args"].update(lr=float("nan"))), "its args contain more than"),
    "classes that are a number": (_saved(lambda it: it["args"].update(classes=7)), "its args: classes"),
    "an input of 1e6 px": (_saved(lambda it: it["args"].update(input_size=10**6)), "its args: input_size"),
    "an epoch in words": (_saved(lambda it: it.update(epoch=ESCAPES)), "its epoch is"),
    "a version of 1e9": (_saved(lambda it: it.update(mocrop_checkpoint=10**9)), "of version 1000000000"),
}
_TRAININGS: dict[str, tuple[Callable[[Any], object], str]] = {
    "no optimizer": (_saved(lambda it: it.pop("optimizer") and None), "no training to resume"),
    "an optimizer of NaN": (
        _saved(lambda it: it["optimizer"]["param_groups"][0].update(lr=float("nan"))), "its optimizer's state",
    ),
    "an optimizer of other tensors": (
        _saved(lambda it: it["optimizer"]["state"].update({0: {"exp_avg": torch.zeros(10**6)}})),
        "its optimizer's state",
    ),
    "figures of other epochs": (_saved(lambda it: it.update(history=[])), "metrics of 0"),
    "states of no generator": (_saved(lambda it: it.update(random_states=[{"torch": 7}])), "its random_states"),
}  # fmt: skip
_SMALL = ["--arch", "test_resnet", "--cpu", "--split", "1", "-b", "4", "-j", "1"]
_TRAINING = [*_SMALL, "--no-pretrained", "--input-size", "32", "--epochs", "2"]


def _tested(world: Any) -> None:
    places = ["--store", str(world.store), "--output-dir", str(world.out), "--weights", str(world.out / "w.pt")]
    sys.exit(training.test.main([*_SMALL, *places]))


def _trained(flag: str) -> Callable[[Any], object]:
    def train(world: Any) -> None:
        places = ["--store", str(world.store), "--output-dir", str(world.out), flag, str(world.out / "w.pt")]
        sys.exit(training.train.main([*_TRAINING, *places]))

    return train


def _of_training(write: Callable[[Any], object]) -> Callable[[Any], object]:
    """The same change of the checkpoint that a training goes on with."""
    return lambda world: write(replace(world, weights=world.weights.with_name("last.pt")))


SAID: dict[str, str] = {}
"""What a command must say of a case that it must refuse, by the case's name."""
for _name, (_write, _said) in (_WEIGHTS | _ARGUMENTS).items():
    CHECKPOINTS[f"checkpoint: {_name}"] = (_write, "training.test --weights", _tested)
    SAID[f"checkpoint: {_name}"] = _said
for _name, (_write, _said) in _WEIGHTS.items():
    CHECKPOINTS[f"first weights: {_name}"] = (_write, "training.train --init-weights", _trained("--init-weights"))
    SAID[f"first weights: {_name}"] = _said
for _name, (_write, _said) in (_WEIGHTS | _ARGUMENTS | _TRAININGS).items():
    CHECKPOINTS[f"training to go on with: {_name}"] = (
        _of_training(_write), "training.train --resume", _trained("--resume"),
    )  # fmt: skip
    SAID[f"training to go on with: {_name}"] = _said
