"""How much of an actor boxes keep: the share inside, and controls of exactly the same area for comparison.

Boxes are float64 arrays (..., 4): x0, y0, x1, y1 in px, half-open, with fractions of pixels. A control has the area
of its box up to floating-point rounding, whereas `centre_box` and `random_box` have whole pixels.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from mocrop_core.ranges import check_share, check_size

Boxes = npt.NDArray[np.float64]
Shares = npt.NDArray[np.float64]

MOSTLY = 0.9
"""The share above which an actor counts as mostly kept."""
ROUNDING = 1e-9  # relative tolerance below MOSTLY, as sums of shares are not exact

PLACES = 32  # positions of a random box along each axis
SHAPES, STEPS = 17, 32  # search for the best box: number of shapes, and of steps across the frame
FINER, ROUNDS, SHAPE_ROUNDS = 4, 4, 3  # each round tries 2 * FINER + 1 values around the best, FINER times as close
_AT_ONCE = 2**16  # shares in memory, to fit in a core's cache


def shares_kept(actors: npt.ArrayLike, boxes: npt.ArrayLike) -> Shares:
    """Return the share of each actor's box that lies inside each box.

    actors: (n, 4), of areas above 0. boxes: (m, 4). Returns (m, n), 0 to 1. Source: ours.
    """
    return shares_kept_each(np.asarray(actors)[None], np.asarray(boxes)[:, None])


def shares_kept_each(actors: npt.ArrayLike, boxes: npt.ArrayLike) -> Shares:
    """Return the share of each actor's box that lies inside its own box, for boxes that move.

    actors: (..., 4), of areas above 0. boxes: (..., 4), broadcast against them. Returns (...), 0 to 1. Source: ours.
    """
    inner, outer = np.asarray(actors, np.float64), np.asarray(boxes, np.float64)
    low = np.maximum(inner[..., :2], outer[..., :2])
    high = np.minimum(inner[..., 2:], outer[..., 2:])
    shares: Shares = np.clip(high - low, 0, None).prod(axis=-1) / (inner[..., 2:] - inner[..., :2]).prod(axis=-1)
    return shares


def mostly_kept(shares: Shares) -> npt.NDArray[np.bool_]:
    """Return whether shares are at least `MOSTLY`, to rounding."""
    return shares >= MOSTLY * (1 - ROUNDING)


def central_box(frame_size: tuple[int, int], area: float) -> Boxes:
    """Return the box in the middle of the frame with its shape and exactly the given share of its area: (4,).

    frame_size: height and width, px. area: in (0, 1]. Raises ValueError outside these ranges. Source: ours.
    """
    height, width = _sides(frame_size, area)
    y0, x0 = (frame_size[0] - height) / 2, (frame_size[1] - width) / 2
    return np.array([x0, y0, frame_size[1] - x0, frame_size[0] - y0])


def random_shares(actors: npt.ArrayLike, frame_size: tuple[int, int], area: float) -> tuple[Shares, Shares]:
    """Return how much of each actor a box of `central_box`'s size keeps on average over all positions.

    actors: (n, 4), of areas above 0. The 32 by 32 positions are evenly spread (the middles of equal parts of the free
    range); nothing is drawn. Returns the mean share, (n,), and the share of the positions where the actor is mostly
    kept, (n,). Raises ValueError like `central_box`. Source: ours.
    """
    inner = np.asarray(actors, np.float64)
    down, across = (
        _covered(inner[:, axis::2], (np.arange(PLACES) + 0.5) / PLACES * (frame_size[1 - axis] - side), side)
        for axis, side in ((1, _sides(frame_size, area)[0]), (0, _sides(frame_size, area)[1]))
    )
    mostly = np.array([mostly_kept(np.outer(y, x)).mean() for y, x in zip(down.T, across.T, strict=True)])
    return down.mean(axis=0) * across.mean(axis=0), mostly


def best_static_box(
    actors: npt.ArrayLike,
    counts: npt.ArrayLike,
    frame_size: tuple[int, int],
    area: float,
    others: npt.ArrayLike = (),
) -> Boxes:
    """Return the box of any shape and exactly the given share of the frame's area that keeps most of the actors: (4,).

    It uses the annotations and so is an upper bound for any rule with one box per clip, up to the accuracy of the
    search. actors: (n, 4), n >= 1, of areas above 0. counts: (n,), how often each occurs. others: (k, 4), additional
    candidates of that area. Shapes run from the frame's height to its width in 17 geometric steps, then are refined
    around the best; for each, 33 by 33 positions are tried, then refined. Raises ValueError like `central_box`.
    Source: ours.
    """
    height, width = frame_size
    _sides(frame_size, area)
    inner = np.asarray(actors, np.float64) / [width, height, width, height]
    weights = np.asarray(counts, np.float64)
    candidates = np.reshape(np.asarray(others, np.float64), (-1, 4))
    power, step = np.linspace(0, 1, SHAPES), 1 / (SHAPES - 1)  # the height is area ** power
    for _ in range(SHAPE_ROUNDS):
        heights = np.array_split(area**power, -(-len(power) * (STEPS + 1) * len(inner) // _AT_ONCE))
        places = [_best_places(inner, weights, area, each) for each in heights if len(each)]
        found, kept = (np.concatenate(each) for each in zip(*places, strict=True))
        candidates = np.concatenate([candidates, found * [width, height, width, height]])
        step /= FINER
        power = np.clip(power[kept.argmax()] + step * np.arange(-FINER, FINER + 1), 0, 1)
    best: Boxes = candidates[int((shares_kept(actors, candidates) @ weights).argmax())]
    return best


def _best_places(inner: Boxes, weights: Shares, area: float, high: npt.NDArray[np.float64]) -> tuple[Boxes, Shares]:
    """For each height (s,) the box that keeps most of the actors, (s, 4), and how much, all relative to the frame."""
    sides = np.stack([high, area / high], axis=1)  # (s, 2)
    free = np.maximum(1 - sides, 0)
    begins = free[:, :, None] * (np.arange(STEPS + 1) / STEPS)  # (s, 2, k)
    step = free[:, :, None] / STEPS
    for _ in range(ROUNDS):
        down = _covered(inner[:, 1::2], begins[:, 0], sides[:, 0, None])
        across = _covered(inner[:, ::2], begins[:, 1], sides[:, 1, None])
        scores = (down * weights) @ across.transpose(0, 2, 1)
        flat = scores.reshape(len(high), -1)
        places = np.stack(np.divmod(flat.argmax(axis=1), scores.shape[2]), axis=1)[:, :, None]
        corner = np.take_along_axis(begins, places, axis=2)  # (s, 2, 1)
        step = step / FINER
        begins = np.clip(corner + step * np.arange(-FINER, FINER + 1), 0, free[:, :, None])
    y, x = corner[:, :, 0].T
    return np.stack([x, y, x + sides[:, 1], y + sides[:, 0]], axis=1), flat.max(axis=1)


def _covered(extents: npt.NDArray[np.float64], begins: npt.NDArray[np.float64], sides: float | Shares) -> Shares:
    """The share of extents (n, 2) along an axis that boxes cover, by their starts (..., k): (..., k, n)."""
    low, high = extents.T
    ends = begins + sides
    covered = np.minimum(high, ends[..., None]) - np.maximum(low, begins[..., None])
    shares: Shares = np.clip(covered, 0, None) / (high - low)
    return shares


def _sides(frame_size: tuple[int, int], area: float) -> tuple[float, float]:
    check_size("frame_size", frame_size)
    check_share("area", area)
    height, width = (side * math.sqrt(area) for side in frame_size)
    return height, width
