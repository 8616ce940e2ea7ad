"""Checkpoints from strangers: whatever is wrong with one is refused in one line, and no figure comes of it."""

from __future__ import annotations

import io
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.integration.test_training_train import SYNTH, train
from training import test as testing
from training.backbones import build
from training.options import Refused
from training.weights import load_strictly, read_file

Content = dict[str, Any]


@pytest.fixture(scope="module")
def trained(synth_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of one epoch on the synthetic store."""
    out = tmp_path_factory.mktemp("trained") / "run"
    assert train(synth_store, out, *SYNTH, "--epochs", "1", "--eval-freq", "0") == 0
    return out


def score(store: Path, weights: Path, out: Path) -> int:
    return testing.main(["--store", str(store), "--weights", str(weights), "--output-dir", str(out), "--cpu"])


def first_weight(content: Content) -> tuple[str, torch.Tensor]:
    return next((key, value) for key, value in content["model"].items() if value.is_floating_point())


def with_weight(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Content], None]:
    def changed(content: Content) -> None:
        key, value = first_weight(content)
        content["model"][key] = change(value)

    return changed


def poisoned(value: float) -> Callable[[Content], None]:
    def poison(weights: torch.Tensor) -> torch.Tensor:
        weights = weights.clone(memory_format=torch.contiguous_format)
        weights.view(-1)[-1] = value
        return weights

    return with_weight(poison)


def with_args(**values: Any) -> Callable[[Content], None]:
    return lambda content: content["args"].update(values)


def laughs() -> list[Any]:
    """A list of 10**12 values in a file of some hundred bytes: pickled lists may hold one list many times."""
    value: list[Any] = ["ha"]
    for _ in range(6):
        value = [value] * 100
    return value


HOSTILE: dict[str, tuple[Callable[[Content], object], str]] = {
    "nan": (poisoned(float("nan")), "1 with values that are not finite"),
    "infinite": (poisoned(float("-inf")), "1 with values that are not finite"),
    "too large for float32": (with_weight(lambda w: w.double() * 1e300), "1 with values that are not finite"),
    "complex": (with_weight(lambda w: w.to(torch.complex64)), "complex64 there, float32 here"),
    "integer": (with_weight(lambda w: w.to(torch.int32)), "int32 there, float32 here"),
    "meta": (with_weight(lambda w: w.to("meta")), "a meta tensor, without values"),
    "sparse": (with_weight(lambda w: w.reshape(w.shape).to_sparse()), "sparse or quantised"),
    "scalar": (with_weight(lambda w: w.sum()), "1 of other shape"),
    "huge": (with_weight(lambda w: torch.zeros(1).expand(10**6, 10**6)), "1 of other shape"),
    "args a list": (lambda c: c.update(args=[1]), "its args are list"),
    "no args": (lambda c: c.pop("args"), "its args are NoneType"),
    "no arch": (lambda c: c["args"].pop("arch"), "its args: arch: field required"),
    "arch a path": (with_args(arch="\x1b[31m../../x"), "its args: arch"),
    "input size": (
        with_args(input_size=10**6),
        "input_size '1000000': input should be less than or equal to 4096",
    ),
    "input size of text": (with_args(input_size="224"), "its args: input_size '224'"),
    "split": (with_args(split=-1), "its args: split '-1'"),
    "classes": (with_args(classes=7), "its args: classes '7'"),
    "no classes": (with_args(classes=[]), "its args: classes '[]'"),
    "tensor in args": (with_args(lr=torch.zeros(3)), "its args contain more than numbers"),
    "nan in args": (with_args(lr=float("nan")), "its args contain more than numbers"),
    "laughs": (with_args(lr=laughs()), "its args contain more than numbers"),
    "deep": (with_args(lr=[[[[[[[[[[[[1]]]]]]]]]]]]), "its args contain more than numbers"),
    "huge number": (with_args(lr=10**400), "its args contain more than numbers"),
    "epoch": (lambda c: c.update(epoch="1"), "its epoch is 1"),
    "version": (lambda c: c.update(mocrop_checkpoint=2), "a checkpoint of version 2; this program reads version 1"),
    "no tensors": (lambda c: c.update(model={}), "missing"),
    "a list": (lambda c: c.update(model=[1]), "missing"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_weights_give_one_line_and_no_result(
    kind: str, synth_store: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = HOSTILE[kind]
    content = read_file(trained / "model.pt")
    change(content)
    torch.save(content, tmp_path / "x.pt")
    assert score(synth_store, tmp_path / "x.pt", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: --weights '")
    assert error.count("\n") == 1
    assert len(error) < 1000
    assert not (tmp_path / "out").exists()


def test_weights_whose_logits_are_not_finite_give_no_result(
    synth_store: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = read_file(trained / "model.pt")
    *_, last = [key for key, value in content["model"].items() if value.ndim == 2]
    content["model"][last] = torch.full_like(content["model"][last], 3e38)
    torch.save(content, tmp_path / "x.pt")
    assert score(synth_store, tmp_path / "x.pt", tmp_path / "out") == 1
    printed = capsys.readouterr()
    assert "clips are not finite (" in printed.err
    assert printed.err.count("\n") == 1
    assert "top-1" not in printed.out
    assert not list(tmp_path.glob("out/*"))


def test_a_training_whose_loss_is_not_finite_ends_and_keeps_no_epoch_of_it(
    synth_store: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = read_file(trained / "model.pt")
    *_, last = [key for key, value in content["model"].items() if value.ndim == 2]
    content["model"][last] = torch.full_like(content["model"][last], 3e38)
    torch.save(content["model"], tmp_path / "x.pt")
    out = tmp_path / "run"
    assert train(synth_store, out, *SYNTH, "--epochs", "1", "--init-weights", str(tmp_path / "x.pt")) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: epoch 1: the loss is not finite")
    assert error.count("\n") == 1
    assert not list(out.glob("*.pt"))


def test_a_mask_of_infinities_that_the_model_has_too_is_taken() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
            self.linear = nn.Linear(2, 2)

    state = Masked().state_dict()
    load_strictly(Masked(), state, "x")
    state["linear.bias"] = torch.tensor([0.0, torch.inf])
    with pytest.raises(Refused, match=r"1 with values that are not finite \(linear\.bias\)"):
        load_strictly(Masked(), state, "x")


def test_weights_of_half_precision_are_taken() -> None:
    model = build("test_resnet", 3, 32, pretrained=False).model
    state = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    fresh = build("test_resnet", 3, 32, pretrained=False).model
    load_strictly(fresh, state, "x")
    for key, value in fresh.state_dict().items():
        assert torch.equal(value, state[key].to(value.dtype)), key


RESUMED: dict[str, tuple[Callable[[Content], object], str]] = {
    "history": (lambda c: c.update(history="x"), "history 'x'"),
    "history of text": (lambda c: c["history"][0].update(test_top1="x"), "history.0.test_top1 'x'"),
    "history of another length": (lambda c: c.update(epoch=5), "it has 5 epochs and metrics of 1"),
    "no generators": (lambda c: c.update(random_states=[]), "random_states"),
    "other generators": (lambda c: c["random_states"][0].update(torch=torch.zeros(3)), "its random_states are not"),
    "generator of text": (lambda c: c["random_states"][0].update(python=["x", [], None]), "its random_states are not"),
    "optimizer": (lambda c: c.update(optimizer=None), "optimizer"),
    "empty optimizer": (lambda c: c.update(optimizer={}), "optimizer's state does not match"),
    "other shapes": (
        lambda c: c["optimizer"]["state"][0].update(exp_avg=torch.zeros(7)),
        "optimizer's state does not match",
    ),
    "meta": (
        lambda c: c["optimizer"]["state"][0].update(exp_avg=torch.zeros(7, device="meta")),
        "optimizer's state does not match",
    ),
    "rate": (lambda c: c["optimizer"]["param_groups"][0].update(lr="x"), "optimizer's state does not match"),
    "infinite rate": (
        lambda c: c["optimizer"]["param_groups"][0].update(lr=1e999),
        "optimizer's state does not match",
    ),
    "schedule": (lambda c: c.update(schedule={"step": 1}), "its schedule does not match"),
    "method": (lambda c: c["schedule"].update(step=1, get_lr=2), "its schedule does not match"),
    "nan": (poisoned(float("nan")), "1 with values that are not finite"),
    "args": (lambda c: c.update(args=None), "its args are NoneType"),
}


def test_hostile_trainings_to_go_on_with_give_one_line(
    synth_store: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    last = tmp_path / "run" / "last.pt"
    resume = [*SYNTH, "--epochs", "2", "--eval-freq", "0", "--resume"]
    for kind, (change, message) in RESUMED.items():
        content = read_file(trained / "last.pt")
        change(content)
        torch.save(content, last)
        before = last.read_bytes()
        assert train(synth_store, tmp_path / "run", *resume) == 2, kind
        error = capsys.readouterr().err
        assert message in error, kind
        assert error.count("\n") == 1, kind
        assert last.read_bytes() == before
    shutil.copy(trained / "last.pt", last)
    assert train(synth_store, tmp_path / "run", *resume) == 0, "the one that is whole goes on"


def saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def squeezed(archive: bytes) -> bytes:
    """The same archive with compressed entries."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as given, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for name in given.namelist():
            made.writestr(name, given.read(name))
    return out.getvalue()


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The file cut off, or with other bytes in some places."""
    data = bytearray(content)
    if rng.random() < 0.4:
        return bytes(data[: rng.randrange(len(data))])
    for _ in range(rng.randrange(1, 9)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files_are_read_whole_or_refused_in_one_line(zipped: bool, trained: Path, tmp_path: Path) -> None:
    content = read_file(trained / "model.pt")
    content["model"] = dict(list(content["model"].items())[:5])
    whole = saved(content, _use_new_zipfile_serialization=zipped)
    path = tmp_path / "x.pt"
    refused = []
    for seed in range(200):
        path.write_bytes(damaged(whole, random.Random(seed)))
        try:
            read_file(path)
        except Refused as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert [line for line in refused if "\n" in line or len(line) > 600] == []


def test_an_archive_that_unfolds_is_refused_before_it_does(
    synth_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bomb = squeezed(saved({"w": torch.zeros(5_000_000)}))
    assert len(bomb) < 30_000
    (tmp_path / "x.pt").write_bytes(bomb)
    assert score(synth_store, tmp_path / "x.pt", tmp_path / "out") == 2
    assert "its entries are compressed; torch.save writes them uncompressed" in capsys.readouterr().err


def test_an_input_larger_than_any_frame_is_refused(
    synth_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train(synth_store, tmp_path / "run", *SYNTH, "--input-size", "1000000")
    assert "--input-size: '1000000' is not a whole number from 8 to 4096" in capsys.readouterr().err
