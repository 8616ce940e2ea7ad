"""Flags of a training, each told by what it changes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.integration.test_training_train import ONCE, train
from training.backbones import build
from training.weights import read_file


def last_of(store: Path, out: Path, *flags: str) -> dict[str, Any]:
    """The last checkpoint of a training of one step without mixup."""
    assert train(store, out, *ONCE, "-b", "14", "--num-segments", "1", "--mixup", "0", "--eval-freq", "0", *flags) == 0
    return read_file(out / "last.pt")


def test_every_optimiser_decays_weights_in_its_own_way(ucf_store: Path, tmp_path: Path) -> None:
    decayed = {}
    for name in ("adamw", "adam", "sgd"):
        found = last_of(ucf_store, tmp_path / name, "--optimizer", name, "--weight-decay", "0.5")
        moments = found["optimizer"]["state"][0]
        assert ("momentum_buffer" in moments, "exp_avg_sq" in moments) == (name == "sgd", name != "sgd")
        decayed[name] = next(iter(found["model"].values()))
    assert not torch.equal(decayed["adam"], decayed["adamw"])
    assert not torch.equal(decayed["adam"], decayed["sgd"])


def test_the_learning_rate_falls_along_a_cosine(ucf_store: Path, tmp_path: Path) -> None:
    found = last_of(ucf_store, tmp_path / "run", "--schedule", "cosine", "--lr", "0.01", "--epochs", "4")
    expected = [0.01 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)]
    assert [row["lr"] for row in found["history"]] == pytest.approx(expected)


def test_channels_last_is_the_memory_of_the_weights_and_not_their_values(ucf_store: Path, tmp_path: Path) -> None:
    plain, last = (last_of(ucf_store, tmp_path / flag, flag) for flag in ("--no-channels-last", "--channels-last"))
    kernels = [key for key, value in plain["model"].items() if value.ndim == 4 and min(value.shape[1:]) > 1]
    assert kernels
    for key in kernels:
        assert plain["model"][key].is_contiguous()
        assert not last["model"][key].is_contiguous()
        assert last["model"][key].is_contiguous(memory_format=torch.channels_last)
    assert plain["history"][0]["train_loss"] == pytest.approx(last["history"][0]["train_loss"], rel=1e-3)


def test_label_smoothing_changes_the_loss(ucf_store: Path, tmp_path: Path) -> None:
    shares = ("0", "0.5")
    plain, smooth = (last_of(ucf_store, tmp_path / s, "--lr", "0", "--label-smoothing", s) for s in shares)
    assert abs(plain["history"][0]["train_loss"] - smooth["history"][0]["train_loss"]) > 1e-3


def test_a_training_starts_from_weights_for_other_classes(ucf_store: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    theirs = build("test_resnet", 7, 32, pretrained=False).model.state_dict()
    torch.save({"state_dict": theirs}, tmp_path / "theirs.pt")
    flags = ("--lr", "0", "--weight-decay", "0", "--init-weights", str(tmp_path / "theirs.pt"))
    ours = last_of(ucf_store, tmp_path / "run", *flags)["model"]
    other = [key for key in theirs if ours[key].shape != theirs[key].shape]
    assert [len(ours[key]) for key in other] == [101, 101]
    same = [key for key in theirs if key not in other and key.endswith(("weight", "bias"))]
    assert len(same) > 10
    for key in same:
        assert torch.equal(ours[key], theirs[key]), key
