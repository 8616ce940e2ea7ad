"""Pictures for a network from batches of cached frames: colour, crop, flip, size, normalisation, on the batch's device.

The public MoCrop code's training transforms, drawn per clip with numpy and done for the whole batch with torch: colour
for each frame by itself, crop and flip once a clip. Sizes change as there (OpenCV's ``INTER_LINEAR``): bilinear, pixel
centres at halves, no antialiasing, in training and in tests alike. What differs: its crops are cut from the box in the
video's own pixels, ours from the cached copy of that box; the sizes and places drawn are the same, in the box's pixels.
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
    """What chance decided about n clips of s frames.

    ``windows`` float32 (n, 4): x, y, width and height of the crop as shares of the box; ``flips`` bool (n,): mirrored
    left to right; ``colours`` float32 (n, s, 3): added to hue, lightness and saturation, or None for none of it.
    """

    windows: Tensor
    flips: Tensor
    colours: Tensor | None

    def of(self, positions: npt.NDArray[np.int64]) -> Draws:
        """Those of some of the clips."""
        return Draws(*(part if part is None else torch.from_numpy(part.numpy()[positions]) for part in self._parts()))  # type: ignore[arg-type]

    def to(self, device: torch.device) -> Draws:
        """The draws on a device."""
        return Draws(*(None if part is None else part.to(device) for part in self._parts()))  # type: ignore[arg-type]

    def flips_alone(self) -> Draws:
        """The same without crop and colour."""
        return Draws(torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(len(self.flips), 1), self.flips, None)

    def _parts(self) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.windows, self.flips, self.colours


def draw(rng: np.random.Generator, box_sizes: npt.NDArray[np.int64], segments: int) -> Draws:
    """Draw for clips whose boxes have these widths and heights, px ((n, 2)).

    Width and height of a crop are two independent choices among `SCALES` of the box's shorter side; its corner is any
    whole pixel at which it fits. The reference also takes sides within 2 px of the input size for equal to it, to save
    resizing; nothing is saved by that here.
    """
    count = len(box_sizes)
    sides = (box_sizes.min(axis=1)[:, None] * np.array(SCALES)).astype(np.int64)
    size = np.take_along_axis(sides, rng.integers(len(SCALES), size=(count, 2)), axis=1)
    corner = rng.integers(0, box_sizes - size + 1)
    windows = np.concatenate([corner / box_sizes, size / box_sizes], axis=1).astype(np.float32)
    flips = rng.random(count) < 0.5
    colours = (rng.uniform(-1, 1, (count, segments, 3)) * COLOUR).astype(np.float32)
    return Draws(torch.from_numpy(windows), torch.from_numpy(flips), torch.from_numpy(colours))


def prepared(frames: Tensor, draws: Draws | None, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Frames, uint8 (clips, segments, y, x, 3), as a network takes them: float32 (clips, segments, 3, size, size).

    With ``draws`` they are changed in colour, cropped and flipped; else only resized. ``mean`` and ``std`` are those of
    pixels from 0 to 1.
    """
    clips, segments = frames.shape[:2]
    images = frames.flatten(0, 1).permute(0, 3, 1, 2).float()
    if draws is not None:
        if draws.colours is not None:
            images = changed_colour(images, draws.colours.flatten(0, 1))
        windows = draws.windows * frames.shape[2]
        images = cropped(images, windows.repeat_interleave(segments, 0), draws.flips.repeat_interleave(segments), size)
    elif images.shape[-1] != size:
        images = F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=False)
    shift, scale = (torch.tensor(values, device=images.device).mul(255).view(1, 3, 1, 1) for values in (mean, std))
    return images.sub(shift).div(scale).unflatten(0, (clips, segments))


def changed_colour(images: Tensor, change: Tensor) -> Tensor:
    """RGB images, float (n, 3, y, x) of whole numbers 0..255, with hue, lightness and saturation changed by (n, 3).

    As the reference does it with OpenCV's 8-bit HLS: hue 0..180 is not wrapped but cut at both ends, as lightness and
    saturation are at 0 and 255, and the sums are cut to whole numbers. Returns whole numbers 0..255.
    """
    hue, light, saturation = _to_hls(images)
    dh, dl, ds = (part.view(-1, 1, 1) for part in change.unbind(1))
    return _to_rgb(
        (hue + dh).clamp(0, 180).floor(), (light + dl).clamp(0, 255).floor(), (saturation + ds).clamp(0, 255).floor()
    )


def _to_hls(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue 0..180, lightness and saturation 0..255, each (n, y, x), rounded as OpenCV does."""
    images = images * (1 / 255)  # not / 255: that rounds otherwise, and half a level decides
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
    """RGB 0..255 (n, 3, y, x), rounded, of hue 0..180, lightness and saturation 0..255."""
    light, saturation, turn = light / 255, saturation / 255, hue / 30
    high = torch.where(light <= 0.5, light * (1 + saturation), light + saturation - light * saturation)
    low = 2 * light - high
    turns = torch.stack([turn + 2, turn, turn + 4], dim=1) % 6
    share = torch.minimum(turns, 4 - turns).clamp(0, 1)
    return ((low[:, None] + (high - low)[:, None] * share) * 255).round().clamp(0, 255)


def cropped(images: Tensor, windows: Tensor, flips: Tensor, size: int) -> Tensor:
    """The windows, (n, 4) x, y, width, height in px, of images (n, c, y, x), resized to ``size``: (n, c, size, size).

    Windows may begin and end between pixels. Outside a window nothing is looked at: its border is repeated, as if it
    were an image of its own. ``flips`` bool (n,) mirrors left to right.
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
