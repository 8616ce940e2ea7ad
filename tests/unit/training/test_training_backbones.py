"""Backbones: the reference's models, their FLOPs, and weights that fit or are refused."""

from __future__ import annotations

import json
import urllib.error
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from training import flops
from training.backbones import TORCHVISION, build, clip_logits
from training.options import Refused
from training.weights import load_for_finetuning, load_strictly, read_file, state_of

PUBLISHED = {  # arXiv 2509.18473, table 1: at 224 and 192 px; Swin-B to one digit in the README, two in the paper
    "resnet50": ("4.11", "3.02"),
    "resnet152": ("11.56", "8.49"),
    "mobilenet_v3_large": ("0.22", "0.17"),
    "efficientnet_b1": ("0.59", "0.43"),
    "swin_b": ("15.47", "12.64"),
}
SMALL = "test_resnet"  # timm's, of 0.4 million parameters


@pytest.mark.parametrize(
    "arch",
    [
        pytest.param(arch, marks=[] if arch in ("resnet50", "mobilenet_v3_large") else pytest.mark.soak)
        for arch in PUBLISHED
    ],
)
def test_gflops_are_the_published_ones_to_the_digit(arch: str) -> None:
    assert (f"{flops.gflops(arch, 224):.2f}", f"{flops.gflops(arch, 192):.2f}") == PUBLISHED[arch]


def test_flops_are_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert flops.main(["--json", "--arch", "mobilenet_v3_large", SMALL, "--input-size", "64"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [set(row) for row in rows] == [{"arch", "input_size", "gflops"}] * 2
    assert [row["arch"] for row in rows] == ["mobilenet_v3_large", SMALL]


def test_flops_of_a_clip_are_those_of_its_frames_and_a_little(
    ucf_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--json", "--arch", "mobilenet_v3_large", "--input-size", "192", "--test-segments", "8"]
    assert flops.main([*asked, "--store", str(ucf_store)]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["clip_backbone_gflops"] == 8 * row["gflops"]
    parts = row["clip_backbone_gflops"] + row["clip_preprocessing_gflops"]
    assert row["clip_gflops"] == pytest.approx(parts, rel=1e-12)
    assert 8 * 15 * 192 * 192 < row["clip_preprocessing_gflops"] * 1e9 < 8 * 15 * 192 * 192 + 1e6
    assert flops.main(["--store", str(ucf_store)]) == 2


def test_the_box_is_counted_once_for_all_backbones_and_sizes(
    ucf_store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []
    monkeypatch.setattr(flops, "box_gflops", lambda *asked: counted.append(asked) or 1.0)
    asked = ["--json", "--arch", SMALL, "mobilenet_v3_large", "--input-size", "32", "64", "--test-segments", "2"]
    assert flops.main([*asked, "--store", str(ucf_store)]) == 0
    assert counted == [(str(ucf_store), "mocrop")]
    rows = json.loads(capsys.readouterr().out)
    assert [row["clip_preprocessing_gflops"] > 1 for row in rows] == [True] * 4


@pytest.mark.parametrize("arch", TORCHVISION)
def test_every_backbone_of_the_reference_is_torchvisions_with_a_new_last_layer(arch: str) -> None:
    with torch.device("meta"):
        ours = build(arch, 101, 192, pretrained=False)
        theirs = torchvision.models.get_model(arch, num_classes=101)
        assert {key: value.shape for key, value in ours.model.state_dict().items()} == {
            key: value.shape for key, value in theirs.state_dict().items()
        }
        assert ours.model(torch.empty(2, 3, 192, 192)).shape == (2, 101)
    assert (ours.mean, ours.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_swin_takes_192_px_and_timms_one_too() -> None:
    for arch in ("swin_t", "swin_tiny_patch4_window7_224"):
        with torch.device("meta"):
            model = build(arch, 7, 192, pretrained=False).model
        assert model(torch.empty(1, 3, 192, 192, device="meta")).shape == (1, 7)


def test_timms_models_bring_their_own_normalisation() -> None:
    backbone = build("vit_tiny_patch16_224", 5, 32, pretrained=False)
    assert backbone.mean == backbone.std == (0.5, 0.5, 0.5)
    assert backbone.model(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


def test_a_clips_logits_are_the_mean_of_its_frames() -> None:
    model = build(SMALL, 5, 32, pretrained=False).model.eval()
    images = torch.randn(3, 4, 3, 32, 32)
    expected = torch.stack([model(clip).mean(dim=0) for clip in images])
    assert torch.allclose(clip_logits(model, images), expected, atol=1e-5)


def test_an_unknown_name_is_refused_with_names_like_it() -> None:
    with pytest.raises(Refused, match=r"--arch resnet5000: unknown; give resnet50, .* or a timm name"):
        build("resnet5000", 5, 32, pretrained=False)


@pytest.mark.parametrize("arch", ["resnet50", "resnet18.a1_in1k"])
def test_weights_that_cannot_be_had_are_refused_with_the_way_out(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", offline)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", offline)
    with pytest.raises(Refused, match=rf"no ImageNet weights for {arch} .*give --init-weights FILE or --no-pretrained"):
        build(arch, 5, 224, pretrained=True)


@pytest.mark.parametrize("arch", ["resnet50", "efficientnet_b1", "mobilenet_v3_large"])
def test_downloaded_weights_are_loaded_without_running_code(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there = torchvision.models.get_model(arch)
    calls: list[tuple[str, dict[str, Any]]] = []

    def download(url: str, **options: Any) -> dict[str, Any]:
        calls.append((url, options))
        return there.state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    ours = build(arch, 5, 224, pretrained=True).model
    ((url, options),) = calls
    assert url == torchvision.models.get_model_weights(arch).DEFAULT.url
    assert (options["weights_only"], options["check_hash"]) == (True, True)
    own, theirs = ours.state_dict(), there.state_dict()
    head = [key for key in own if own[key].shape != theirs[key].shape]
    assert len(head) == 2
    assert all(torch.equal(own[key], theirs[key]) for key in own.keys() - set(head))
    assert len(own[head[0]]) == 5


def test_weights_that_timm_does_not_have_are_refused_with_those_it_has() -> None:
    with pytest.raises(Refused, match=r"--arch test_resnet\.nonsense: .*give one of: test_resnet\.r160_in1k"):
        build("test_resnet.nonsense", 5, 32, pretrained=False)
    assert build("test_resnet.r160_in1k", 5, 32, pretrained=False).mean


def small(classes: int = 5, arch: str = SMALL) -> nn.Module:
    torch.manual_seed(classes)
    return build(arch, classes, 32, pretrained=False).model


WRAPPERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "ours": lambda state: {"mocrop_checkpoint": 1, "model": state, "epoch": 3, "args": {"arch": SMALL}},
    "plain": lambda state: state,
    "the reference's training": lambda state: {f"base_model.{key}": value for key, value in state.items()},
    "the reference's test": lambda state: {"state_dict": {f"backbone.{key}": v for key, v in state.items()}},
    "in parallel": lambda state: {"model_state_dict": {f"module.base_model.{k}": v for k, v in state.items()}},
    "timm's or torchvision's training": lambda state: {"model": state, "epoch": 3, "args": Namespace(lr=0.1, out="x")},
    "compiled": lambda state: {"state_dict": {f"module._orig_mod.{k}": v for k, v in state.items()}, "best_prec1": 5.0},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_weights_load_from_whatever_holds_them(wrapper: str, tmp_path: Path) -> None:
    saved, other = small(), small(classes=5)
    nn.init.zeros_(next(other.parameters()))
    torch.save(WRAPPERS[wrapper](saved.state_dict()), tmp_path / "w.pth.tar")
    load_strictly(other, state_of(read_file(tmp_path / "w.pth.tar")), "it")
    assert other.state_dict().keys() == saved.state_dict().keys()
    for key, value in saved.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)


def test_weights_load_from_safetensors(tmp_path: Path) -> None:
    saved, other = small(), small()
    save_file(saved.state_dict(), tmp_path / "w.safetensors")
    load_strictly(other, state_of(read_file(tmp_path / "w.safetensors")), "it")
    assert torch.equal(next(other.parameters()), next(saved.parameters()))


def test_weights_for_other_classes_are_refused_with_both_numbers() -> None:
    with pytest.raises(
        Refused, match=r"it does not fit the model: 2 of other shape \(.*\); it was made for 7 classes, the"
    ):
        load_strictly(small(5), state_of(small(7).state_dict()), "it")


def test_weights_of_another_architecture_are_refused_with_the_keys() -> None:
    with pytest.raises(Refused, match=r"\d+ missing \(.*, …\); \d+ not the model's \(.*another architecture"):
        load_strictly(small(5), state_of(small(5, "test_vit").state_dict()), "it")


def test_a_missing_or_a_spare_tensor_is_not_overlooked() -> None:
    state = small().state_dict()
    key = next(iter(state))
    with pytest.raises(Refused, match=rf"1 missing \({key}\)"):
        load_strictly(small(), {k: v for k, v in state.items() if k != key}, "it")
    with pytest.raises(Refused, match=r"1 not the model's \(spare\)"):
        load_strictly(small(), {**state, "spare": torch.zeros(1)}, "it")


def test_finetuning_takes_all_but_a_last_layer_for_other_classes() -> None:
    imagenet, ours = small(1000), small(5)
    load_for_finetuning(ours, state_of(imagenet.state_dict()), "it")
    same = [
        torch.equal(value, ours.state_dict()[key]) for key, value in imagenet.state_dict().items() if "fc" not in key
    ]
    assert all(same)
    assert len(same) > 10
    with pytest.raises(Refused, match="another architecture"):
        load_for_finetuning(ours, state_of(small(5, "test_vit").state_dict()), "it")


class Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("attacked"),)


def test_a_download_with_code_in_it_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file lies where an earlier download would have left it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = torchvision.models.get_model_weights("resnet50").DEFAULT.url
    cached = tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]
    cached.parent.mkdir(parents=True)
    torch.save({"model": Attack()}, cached)
    with pytest.raises(Refused, match=r"no ImageNet weights for resnet50 \(more than plain tensors \(\S+\)\); give"):
        build("resnet50", 5, 224, pretrained=True)
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": Attack()}, r"more than plain tensors \(\S+\); save its state_dict\(\) alone"),
        (
            {"args": Namespace(out=Path("x"))},
            r"more than plain tensors \(pathlib\.\S+\); save its state_dict\(\) alone",
        ),
        (b"not a checkpoint", r"not what torch\.save writes; save its state_dict\(\) alone"),
        (b"", r"not a complete checkpoint \(.*\)"),
        ([1, 2], "holds list, not a state_dict"),
    ],
)
def test_files_that_are_no_plain_checkpoints_are_refused_in_one_line(
    content: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "w.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(Refused, match=rf"\A--weights '.*w\.pt': {message}\Z") as refused:
        read_file(file)
    assert str(refused.value).isprintable()
    assert not (tmp_path / "attacked").exists()
    with pytest.raises(Refused, match="no such file"):
        read_file(tmp_path / "none.pt")
