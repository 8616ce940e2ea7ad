"""Paths that begin with ``~``, which shells leave alone in ``--store=~/x`` and in the parameters of a deployment."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest
import typer

from data_specs.locations import expanded
from pipelines.cli.app import app
from pipelines.errors import RunError
from pipelines.runs.options import Options
from training import flops, probe, results, test, train

NO_PATHS = {"dataset", "url", "dask_address", "view", "clip", "method", "size", "group_by", "format"}
"""The parameters of commands that are texts and no paths."""

OF_TRAINING = {
    train: ["--store", "--output-dir", "--init-weights", "--resume"],
    test: ["--store", "--output-dir", "--weights"],
    flops: ["--store"],
    probe: ["--store", "--weights", "--groups", "--output-dir"],
    results: ["folder"],
}


def test_every_path_of_every_command_may_begin_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    paths = 0
    groups = [group.typer_instance for group in app.registered_groups]
    for command in (command for group in groups if group for command in group.registered_commands):
        assert command.callback is not None
        for name, hint in get_type_hints(command.callback, include_extras=True).items():
            kind, *flag = get_args(hint) if get_origin(hint) is Annotated else (hint,)
            path = next((one for one in (str, Path) if one in (kind, *get_args(kind))), None)
            if path is None or name in NO_PATHS:
                continue
            assert flag[0].callback(path("~/x")) == path("/home/me/x"), f"{command.callback.__name__} {name}"
            with pytest.raises(typer.BadParameter, match="'~nobody-here/x' names a home folder that does not"):
                flag[0].callback(path("~nobody-here/x"))
            paths += 1
    assert paths > 25


def test_every_path_of_training_may_begin_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for module, names in OF_TRAINING.items():
        parser: argparse.ArgumentParser = module.parser()
        actions = {name: action for action in parser._actions for name in (*action.option_strings, action.dest)}
        for name in names:
            kind = actions[name].type
            assert callable(kind), name
            assert kind("~/x") == "/home/me/x"
            with pytest.raises(argparse.ArgumentTypeError, match="home folder that does not exist"):
                kind("~nobody-here/x")


def test_options_of_a_run_and_of_the_deployment_may_begin_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    options = Options("~/videos", "~/x.zarr", "~/lists", "~/r.toml", "~/work")
    assert (options.source, options.store, options.splits) == ("/home/me/videos", "/home/me/x.zarr", "/home/me/lists")
    assert (options.recipe, options.work_dir) == ("/home/me/r.toml", "/home/me/work")
    assert Options("s", "s3://bucket/~/x.zarr").store == "s3://bucket/~/x.zarr"
    with pytest.raises(RunError, match=r"^store '~nobody-here/x' names a home folder .*; .* give \./~nobody-here/x$"):
        Options("s", "~nobody-here/x")


def test_a_folder_that_is_named_by_a_tilde_can_be_given(tmp_path: Path) -> None:
    assert [expanded(path) for path in ("./~/x", str(tmp_path / "~"), "", "a~b")] == [
        "./~/x", str(tmp_path / "~"), "", "a~b",
    ]  # fmt: skip
