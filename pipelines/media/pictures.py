"""Cropping frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image


def cropped(picture: Image.Image, box: Sequence[int], size: int) -> npt.NDArray[np.uint8]:
    """Crop an RGB picture to a box and resize it to ``size`` × ``size`` px (Pillow, antialiased bilinear)."""
    x0, y0, x1, y1 = box
    inside = picture if (x0, y0, x1, y1) == (0, 0, *picture.size) else picture.crop((x0, y0, x1, y1))
    return np.asarray(inside.resize((size, size), Image.Resampling.BILINEAR))
