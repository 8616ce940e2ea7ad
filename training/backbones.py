"""Backbones: torchvision models under the names of the MoCrop reference, all others from timm."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import timm
import torchvision
from torch import Tensor, nn

from training.augmentation import Draws, prepared
from training.motion import STEPS, ZERO, MotionInput
from training.options import Refused
from training.weights import State, what_is_unsafe
from training.weights_packages import LITE, MEAN, STD, load_package

TORCHVISION = ("resnet50", "resnet152", "mobilenet_v3_large", "efficientnet_b1", "swin_t", "swin_b")
"""Names of torchvision models, which match the reference's checkpoints and GFLOPs."""
FLOW_DEVIATION = 1 / 16
"""What flow maps are divided by, as a share of their limit: their root mean square, .062 on 60 clips of Weizmann and
.069 on 60 of fights, cropped by `actor` to half of the frame."""
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Backbone:
    """A 2-D network for images with pixels 0..1, normalised with ``mean`` and ``std`` per channel.

    The channels are R, G and B, or with ``motion`` those of a stack of flow maps.
    """

    model: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    motion: bool = False

    def input(self, frames: Tensor, draws: Draws | None, size: int) -> Tensor:
        """Return the network's input for a batch's frames: `training.augmentation.prepared`."""
        return prepared(frames, draws, size, self.mean, self.std, motion=self.motion)


def check_arch(arch: str) -> None:
    """Raise `Refused` for an unknown name, with similar names."""
    if arch in TORCHVISION or arch in LITE:
        return
    if not timm.is_model(arch):
        near = timm.list_models(f"*{arch.split('_')[0]}*")[:4]
        hint = f"; timm has {', '.join(near)}" if near else ""
        raise Refused(f"--arch {arch}: unknown; give {', '.join(TORCHVISION)} or a timm name{hint}")
    try:
        timm.get_pretrained_cfg(arch)
    except RuntimeError as error:
        known = timm.list_pretrained(f"{arch.partition('.')[0]}.*")
        raise Refused(
            f"--arch {arch}: timm has no such weights; omit the part after the dot, or give one of: {', '.join(known)}"
        ) from error


def build(
    arch: str,
    num_classes: int,
    input_size: int,
    *,
    pretrained: bool,
    otherwise: str = "--init-weights FILE or --no-pretrained",
) -> Backbone:
    """Build the network with a new last layer for ``num_classes``; ``pretrained`` loads ImageNet weights for the rest.

    `Refused` if those weights are not available (``otherwise`` names the flags to use instead), or if the network does
    not support ``input_size``.
    """
    check_arch(arch)
    try:
        if arch in TORCHVISION:
            return _torchvision(arch, num_classes, pretrained=pretrained)
        if arch in LITE:
            return _lite(arch, num_classes, pretrained=pretrained)
        return _timm(arch, num_classes, input_size, pretrained=pretrained)
    except (AssertionError, TypeError, ValueError) as error:
        raise Refused(f"--arch {arch} cannot be built for --input-size {input_size}: {_line(error)}") from error
    except Refused as error:
        raise Refused(f"{error}; or give {otherwise}") from error
    except Exception as error:  # downloads raise undocumented exceptions: show any
        if not pretrained:
            raise
        raise Refused(f"--arch: no ImageNet weights for {arch} ({_line(error)}); give {otherwise}") from error


def _line(error: BaseException) -> str:
    if isinstance(error, pickle.UnpicklingError):
        return what_is_unsafe(error)
    return " ".join(str(error).split())[:200] or type(error).__name__


def _torchvision(arch: str, num_classes: int, *, pretrained: bool) -> Backbone:
    model = torchvision.models.get_model(arch, weights=None)
    if pretrained:  # not by get_model, which would unpickle the downloaded file
        weights = torchvision.models.get_model_weights(arch).DEFAULT
        model.load_state_dict(weights.get_state_dict(progress=True, check_hash=True, weights_only=True))
    name, last = _last_linear(model)
    model.set_submodule(name, nn.Linear(last.in_features, num_classes))
    return Backbone(model, *_IMAGENET)


def _last_linear(model: nn.Module) -> tuple[str, nn.Linear]:
    return [(name, part) for name, part in model.named_modules() if isinstance(part, nn.Linear)][-1]


def _lite(arch: str, num_classes: int, *, pretrained: bool) -> Backbone:
    model: Any = timm.create_model(LITE[arch], num_classes=1000 if pretrained else num_classes)
    if pretrained:
        load_package(model, arch)
        model.reset_classifier(num_classes)
    return Backbone(model, MEAN, STD)


def _timm(arch: str, num_classes: int, input_size: int, *, pretrained: bool) -> Backbone:
    config: Any = timm.get_pretrained_cfg(arch)
    sized: dict[str, Any] = {"img_size": input_size} if config is not None and config.fixed_input_size else {}
    model = timm.create_model(arch, pretrained=pretrained, num_classes=num_classes, **sized)
    own: Any = model.pretrained_cfg
    return Backbone(model, tuple(own.get("mean", _IMAGENET[0])), tuple(own.get("std", _IMAGENET[1])))


def for_motion(backbone: Backbone, motion: MotionInput, *, mean_filters: bool) -> Backbone:
    """Give the first convolution of an RGB network the channels of the motion stream, in place.

    ``mean_filters``: each channel gets the mean of the three filters of R, G and B, times 3 / channels, so that equal
    channels give what they gave before; else its weights are random. Maps are normalised to 0 at rest and
    `FLOW_DEVIATION` to 1. `Refused` for a network that does not begin with a convolution of three channels. Source:
    temporal segment networks (arXiv 1608.00859), which do not scale the mean filters.
    """
    convolution = first_convolution(backbone.model)
    if convolution is None:
        raise Refused("--stream motion: this --arch does not begin with a convolution of 3 channels; give another")
    filters = convolution.weight.detach().mean(dim=1, keepdim=True) * (3 / motion.channels)
    convolution.in_channels = motion.channels
    convolution.weight = nn.Parameter(filters.repeat(1, motion.channels, 1, 1))
    if not mean_filters:
        convolution.reset_parameters()
    rest, scale = ZERO / 255, STEPS * FLOW_DEVIATION / 255
    return Backbone(backbone.model, (rest,) * motion.channels, (scale,) * motion.channels, motion=True)


def takes_channels(model: nn.Module, state: State, channels: int) -> bool:
    """Say whether weights are of a network whose first convolution has so many channels."""
    convolution = first_convolution(model)
    name = next((name for name, part in model.named_modules() if part is convolution), None)
    weight = state.get(f"{name}.weight")
    return weight is not None and weight.ndim == 4 and weight.shape[1] == channels


def first_convolution(model: nn.Module) -> nn.Conv2d | None:
    """Return the first convolution of a network if it has three channels, else None."""
    first = next((part for part in model.modules() if isinstance(part, nn.Conv2d)), None)
    return first if first is not None and first.in_channels == 3 and first.groups == 1 else None


def clip_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Average a clip's logits over its frames: images (clips, segments, 3, y, x) to (clips, classes)."""
    logits: Tensor = model(images.flatten(0, 1))
    return logits.unflatten(0, images.shape[:2]).mean(dim=1)


def without_head(backbone: Backbone) -> Backbone:
    """Remove the last layer in place: the network then maps images (n, 3, y, x) to features (n, features)."""
    model: Any = backbone.model
    if hasattr(model, "reset_classifier"):  # timm's
        model.reset_classifier(0)
    else:
        model.set_submodule(_last_linear(model)[0], nn.Identity())
    return backbone
