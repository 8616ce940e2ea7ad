"""Network inputs from batches of cached frames: colour, crop, flip, resize and normalise, on the batch's device.

These are the training transforms of the public MoCrop code, drawn per clip with NumPy and applied to the whole batch
with torch: colour per frame, crop and flip per clip. Resizing matches OpenCV's ``INTER_LINEAR``: bilinear, pixel
centres at halves, no antialiasing, in training and testing. One difference: the public code crops the box in the
video's pixels, this module crops the cached copy of the box; sizes and positions are drawn in the box's pixels in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

SCALES = (1.0, 0.875, 0.75, 0.66)
"""Sides of a training crop as shares of the box's shorter side."""
COLOUR = (36.0, 50.0, 50.0)
"""Largest change of hue (180 is the circle), lightness and saturation (255 is all)."""


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """Random augmentation parameters of n clips of s frames.

    ``windows`` float32 (n, 4): x, y, width and height of the crop as shares of the box; ``flips`` bool (n,): mirrored
    left to right; ``colours`` float32 (n, s, 3): added to hue, lightness and saturation, or None for no change.
    """

    windows: Tensor
    flips: Tensor
    colours: Tensor | None

    def of(self, positions: npt.NDArray[np.int64]) -> Draws:
        """Return the draws of some of the clips."""
        return Draws(*(part if part is None else torch.from_numpy(part.numpy()[positions]) for part in self._parts()))  # type: ignore[arg-type]

    def to(self, device: torch.device) -> Draws:
        """Return the draws on a device."""
        return Draws(*(None if part is None else part.to(device) for part in self._parts()))  # type: ignore[arg-type]

    def flips_alone(self) -> Draws:
        """Return the draws without crop and colour."""
        return Draws(torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(len(self.flips), 1), self.flips, None)

    def _parts(self) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.windows, self.flips, self.colours


def draw(rng: np.random.Generator, box_sizes: npt.NDArray[np.int64], segments: int) -> Draws:
    """Draw augmentations for clips whose boxes have these widths and heights, px ((n, 2)).

    Width and height of a crop are independent choices among `SCALES` of the box's shorter side; its corner is a random
    whole pixel where it fits. The reference also rounds sides within 2 px of the input size to it, to save a resize;
    that would save nothing here.
    """
    count = len(box_sizes)
    sides = (box_sizes.min(axis=1)[:, None] * np.array(SCALES)).astype(np.int64)
    size = np.take_along_axis(sides, rng.integers(len(SCALES), size=(count, 2)), axis=1)
    corner = rng.integers(0, box_sizes - size + 1)
    windows = np.concatenate([corner / box_sizes, size / box_sizes], axis=1).astype(np.float32)
    flips = rng.random(count) < 0.5
    colours = (rng.uniform(-1, 1, (count, segments, 3)) * COLOUR).astype(np.float32)
    return Draws(torch.from_numpy(windows), torch.from_numpy(flips), torch.from_numpy(colours))


def prepared(
    frames: Tensor,
    draws: Draws | None,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    motion: bool = False,
) -> Tensor:
    """Convert frames, uint8 (clips, segments, y, x, c), to network input: float32 (clips, segments, c, size, size).

    With ``draws`` they are colour-jittered, cropped and flipped, else only resized. ``mean`` and ``std`` have a value
    per channel, for pixels from 0 to 1. ``motion``: the channels are flow maps (`training.motion`): they are not
    colour-jittered, and their horizontal components, the channels 0, 2, 4 and so on, change their sign in a flip.
    """
    clips, segments = frames.shape[:2]
    images = frames.flatten(0, 1).permute(0, 3, 1, 2).float()
    if draws is not None:
        if draws.colours is not None and not motion:
            images = changed_colour(images, draws.colours.flatten(0, 1))
        windows = draws.windows * frames.shape[2]
        images = cropped(images, windows.repeat_interleave(segments, 0), draws.flips.repeat_interleave(segments), size)
    elif images.shape[-1] != size:
        images = F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=False)
    shift, scale = (torch.tensor(values, device=images.device).mul(255).view(1, -1, 1, 1) for values in (mean, std))
    images = images.sub(shift).div(scale)
    if draws is not None and motion:
        images[:, ::2] *= torch.where(draws.flips, -1.0, 1.0).repeat_interleave(segments).view(-1, 1, 1, 1)
    return images.unflatten(0, (clips, segments))


def changed_colour(images: Tensor, change: Tensor) -> Tensor:
    """Change hue, lightness and saturation of RGB images, float (n, 3, y, x) of integers 0..255, by (n, 3).

    As the reference does with OpenCV's 8-bit HLS: hue is clipped to 0..180, not wrapped; lightness and saturation are
    clipped to 0..255; the sums are truncated to integers. Returns integers 0..255.
    """
    hue, light, saturation = _to_hls(images)
    dh, dl, ds = (part.view(-1, 1, 1) for part in change.unbind(1))
    return _to_rgb(
        (hue + dh).clamp(0, 180).floor(), (light + dl).clamp(0, 255).floor(), (saturation + ds).clamp(0, 255).floor()
    )


def _to_hls(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return hue 0..180, lightness and saturation 0..255, each (n, y, x), rounded as in OpenCV."""
    images = images * (1 / 255)  # not / 255, which rounds differently
    red, green, blue = images.unbind(1)
    most, least = images.amax(1), images.amin(1)
    spread, both = most - least, most + least
    grey = spread <= torch.finfo(torch.float32).eps
    degrees = 60 / torch.where(grey, 1.0, spread)
    turn = torch.where(
        most == red,
        (green - blue) * degrees,
        torch.where(most == green, (blue - red) * degrees + 120, (red - green) * degrees + 240),
    )
    hue = torch.where(grey, 0.0, torch.where(turn < 0, turn + 360, turn) * 0.5)
    saturation = spread / torch.where(grey, 1.0, torch.where(both < 1, both, 2 - both))
    return hue.round(), (both * 0.5 * 255).round(), torch.where(grey, 0.0, saturation * 255).round()


def _to_rgb(hue: Tensor, light: Tensor, saturation: Tensor) -> Tensor:
    """Return RGB 0..255 (n, 3, y, x), rounded, from hue 0..180, lightness and saturation 0..255."""
    light, saturation, turn = light / 255, saturation / 255, hue / 30
    high = torch.where(light <= 0.5, light * (1 + saturation), light + saturation - light * saturation)
    low = 2 * light - high
    turns = torch.stack([turn + 2, turn, turn + 4], dim=1) % 6
    share = torch.minimum(turns, 4 - turns).clamp(0, 1)
    return ((low[:, None] + (high - low)[:, None] * share) * 255).round().clamp(0, 255)


def cropped(images: Tensor, windows: Tensor, flips: Tensor, size: int) -> Tensor:
    """Crop windows (n, 4) x, y, width, height in px from images (n, c, y, x), resized to (n, c, size, size).

    Windows may start and end between pixels. Pixels outside a window are not used: its border is repeated, as if it
    were a separate image. ``flips`` bool (n,) mirrors left to right.
    """
    steps = (torch.arange(size, device=images.device, dtype=images.dtype) + 0.5) / size
    x, y, width, height = (part[:, None] for part in windows.unbind(1))
    across = torch.where(flips[:, None], 1 - steps, steps)
    columns = _within(x + across * width - 0.5, x, width) * (2 / (images.shape[-1] - 1)) - 1
    rows = _within(y + steps * height - 0.5, y, height) * (2 / (images.shape[-2] - 1)) - 1
    grid = torch.stack([columns[:, None, :].expand(-1, size, -1), rows[:, :, None].expand(-1, -1, size)], dim=-1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _within(places: Tensor, start: Tensor, length: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(places, start), start + length - 1)
