"""Histograms of flow over the box: what stacks of flow maps show, without a trained network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.backbones import Backbone
from training.motion import LIMIT, STEPS, ZERO, MotionInput

ARCH = "flow_histogram"
"""What the probe calls it in place of a backbone."""
PARTS, DIRECTIONS, POINTS = 4, 8, 32
REST = 0.5 / 240 / LIMIT  # half a pixel of 240 lines, as a share of the limit of a map


class FlowHistogram(nn.Module):
    """Maps stacks of flow maps (n, 2 K, y, x), as shares of their limit, to features (n, 144).

    In each of 4 x 4 parts of the box: how much moves in each of 8 directions, and how much is at rest. Maps of more
    than 32 px are averaged to 32. A point that moves counts with its length, shared between the two directions next to
    its own; one that moves by less than half a pixel of 240 lines is at rest, and counts 1 there. The features are the
    means over a part and over the K frames, those of directions as their square roots. Source: histograms of optical
    flow (Laptev et al., CVPR 2008); the number of parts and directions, soft directions and roots are ours.
    """

    angles: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("angles", torch.arange(DIRECTIONS) * (2 * torch.pi / DIRECTIONS))

    def forward(self, maps: Tensor) -> Tensor:
        """Return the histograms of the stacks."""
        if maps.shape[-1] > POINTS:
            maps = F.adaptive_avg_pool2d(maps, POINTS)
        dx, dy = maps[:, ::2], maps[:, 1::2]
        length = torch.hypot(dx, dy)
        away = (torch.atan2(dy, dx)[:, :, None] - self.angles[:, None, None]).abs() % (2 * torch.pi)
        away = torch.minimum(away, 2 * torch.pi - away) * (DIRECTIONS / (2 * torch.pi))
        moving = (length > REST).float()
        towards = (1 - away).clamp(min=0) * (length * moving)[:, :, None]
        counts = torch.cat([towards.mean(dim=1), (1 - moving).mean(dim=1, keepdim=True)], dim=1)
        found = F.adaptive_avg_pool2d(counts, PARTS)
        return torch.cat([found[:, :-1].sqrt(), found[:, -1:]], dim=1).flatten(1)


def histogram_backbone(motion: MotionInput) -> Backbone:
    """Return the histogram in place of a network without its last layer."""
    rest, limit = ZERO / 255, STEPS / 255
    return Backbone(FlowHistogram(), (rest,) * motion.channels, (limit,) * motion.channels, motion=True)
