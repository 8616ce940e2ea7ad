"""What describes the clips in a probe: a frozen network for each stream, or a histogram of flow."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from data_specs.locations import shown
from data_specs.stored import Store
from training.backbones import Backbone, build, for_motion, takes_channels, without_head
from training.checkpoint_checks import arguments_of
from training.flow_histogram import ARCH as HISTOGRAM
from training.flow_histogram import histogram_backbone
from training.motion import MotionInput, motion_input
from training.options import Refused
from training.probe_table import MOTION, RGB
from training.weights import load_for_finetuning, read_file, state_of

ARCH = "efficientnet_lite0"


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """The network of a stream before it is built: its name, what it sees, its weights and the flag that gave them.

    ``weights`` is empty for ImageNet weights, or a histogram; ``motion`` is None for the RGB stream.
    """

    stream: str
    arch: str
    motion: MotionInput | None
    weights: Mapping[str, Any]
    path: str | None
    flag: str

    def built(self, size: int, device: torch.device) -> Backbone:
        """Return the network without its last layer, with its weights, on the device."""
        if self.arch == HISTOGRAM:
            assert self.motion is not None
            backbone = histogram_backbone(self.motion)
            backbone.model.to(device).eval()
            return backbone
        backbone = build(self.arch, 1000, size, pretrained=not self.weights, otherwise=f"{self.flag} FILE")
        adapted = self.motion is None
        if self.weights:
            state = state_of(self.weights)
            if self.motion is not None and takes_channels(backbone.model, state, self.motion.channels):
                backbone, adapted = for_motion(backbone, self.motion, mean_filters=True), True
            load_for_finetuning(backbone.model, state, f"{self.flag} {shown(str(self.path))!r}")
        if not adapted and self.motion is not None:
            backbone = for_motion(backbone, self.motion, mean_filters=True)
        backbone = without_head(backbone)
        backbone.model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        return backbone


def networks_of(args: argparse.Namespace, store: Store) -> list[Network]:
    """Return the network of each stream that is asked for; `Refused` for flags that do not go together."""
    streams = list(dict.fromkeys(args.stream))
    for flag, stream in (("weights", RGB), ("arch", RGB), ("motion_weights", MOTION), ("motion_arch", MOTION)):
        if getattr(args, flag) and stream not in streams:
            name = f"--{flag.replace('_', '-')}"
            raise Refused(f"{name} {shown(getattr(args, flag))}: is for the {stream} stream; add it to --stream")
    return [_network(args, store, stream) for stream in streams]


def _network(args: argparse.Namespace, store: Store, stream: str) -> Network:
    """The network of one stream; `Refused` for weights of the other, or trained on clips that they would test."""
    prefix = "" if stream == RGB else "motion_"
    path, arch = getattr(args, f"{prefix}weights"), getattr(args, f"{prefix}arch")
    flag = f"--{prefix.replace('_', '-')}weights"
    motion = None if stream == RGB else motion_input({**vars(args), "stream": MOTION})
    if not path:
        return Network(stream, arch or (ARCH if stream == RGB else HISTOGRAM), motion, {}, None, flag)
    where = f"{flag} {shown(path)!r}"
    weights = read_file(path, flag)
    trained = arguments_of(weights, where)
    split = None if args.folds else args.split or 1
    if trained and trained["classes"] == store.class_names and trained["split"] != split:
        raise Refused(
            f"{where}: trained on the train list of split {trained['split']}, whose clips would be tested; "
            f"give --split {trained['split']}"
        )
    own = motion_input(trained)
    if own is not None and motion is None:
        raise Refused(f"{where}: trained on the motion stream; give --stream motion --motion-weights")
    if own is not None and own != motion:
        if args.flow_frames is not None or args.remove_camera is not None:
            raise Refused(f"{where}: trained on {own}, asked for is {motion}; omit --flow-frames and --remove-camera")
        motion = own
    arch = arch or trained.get("arch")
    if arch is None:
        name = "--arch" if stream == RGB else "--motion-arch"
        raise Refused(f"{name}: the checkpoint does not name its backbone; give it")
    return Network(stream, str(arch), motion, weights, path, flag)
