"""Motion vectors: filtering, sampling, and the random streams for it.

A set of vectors is a one-dimensional array of `VECTOR`, in decode order. Functions that select return a subset in
that order; none changes its input. Every function of this package that takes vectors raises ValueError for another
dtype or shape. `PACKED` vectors, from a decoder or a store, are in fractions of a pixel: `in_pixels` converts them.
"""

from __future__ import annotations

import hashlib
import math
import operator
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from mocrop_core.ranges import check_amount, check_count, check_share

VECTOR = np.dtype(
    [
        ("frame", "<i4"),  # index of the frame, from 0
        ("x", "<i2"),  # centre of the block, px; may lie outside the frame
        ("y", "<i2"),
        ("w", "u1"),  # size of the block, px
        ("h", "u1"),
        ("dx", "<f4"),  # displacement, px, sub-pixel
        ("dy", "<f4"),
    ]
)

PACKED = np.dtype(
    [
        ("frame", "<i4"),
        ("x", "<i2"),
        ("y", "<i2"),
        ("w", "u1"),
        ("h", "u1"),
        ("motion_x", "<i2"),  # displacement in units of 1/motion_scale px, unlike `dx`, which is in pixels
        ("motion_y", "<i2"),
    ]
)
"""A vector as decoded and stored: like `VECTOR`, but with the displacement in fractions of a pixel."""

Vectors = npt.NDArray[np.void]


def check_vectors(name: str, v: Vectors) -> None:
    """Raise ValueError unless `v` is a one-dimensional array of `VECTOR`."""
    if not isinstance(v, np.ndarray):
        raise ValueError(f"{name} must be a one-dimensional array of mocrop_core.VECTOR, got {type(v).__name__}")
    if v.dtype == PACKED:
        raise ValueError(
            f"{name} has displacements in fractions of a pixel (mocrop_core.PACKED): "
            "convert it with mocrop_core.in_pixels(packed, motion_scale)"
        )
    if v.dtype != VECTOR or v.ndim != 1:
        raise ValueError(f"{name} must be a one-dimensional array of mocrop_core.VECTOR, got {v.dtype} {v.shape}")


def in_pixels(packed: npt.NDArray[np.void], motion_scale: int) -> Vectors:
    """Convert packed vectors to vectors in pixels.

    packed: `PACKED` (n,). motion_scale: units of the displacement per pixel, >= 1; 4 for H.264. Returns `VECTOR`
    (n,), in the same order; empty for empty input. Raises ValueError for another dtype or shape, or a scale below 1.
    Source: ours.
    """
    if not isinstance(packed, np.ndarray) or packed.dtype != PACKED or packed.ndim != 1:
        got = f"{packed.dtype} {packed.shape}" if isinstance(packed, np.ndarray) else type(packed).__name__
        raise ValueError(f"packed must be a one-dimensional array of mocrop_core.PACKED, got {got}")
    check_count("motion_scale", motion_scale, least=1)
    v = np.empty(len(packed), VECTOR)
    for field in ("frame", "x", "y", "w", "h"):
        v[field] = packed[field]
    scale = np.float32(motion_scale)
    np.divide(packed["motion_x"], scale, out=v["dx"])
    np.divide(packed["motion_y"], scale, out=v["dy"])
    return v


def magnitudes(v: Vectors) -> npt.NDArray[np.float32]:
    """Return the length of each displacement.

    v: `VECTOR` (n,). Returns float32 (n,), px, >= 0; empty for empty input. Raises ValueError for a
    displacement that is not finite. Source: MoCrop v1, denoising.
    """
    check_vectors("v", v)
    dx, dy = v["dx"].astype(np.float64), v["dy"].astype(np.float64)
    lengths = np.sqrt(dx * dx + dy * dy).astype(np.float32)
    finite = np.isfinite(lengths)
    if not finite.all():
        worst = int(finite.argmin())
        raise ValueError(f"displacements must be finite, got ({dx[worst]}, {dy[worst]}) at vector {worst}")
    return lengths


def filter_by_magnitude(v: Vectors, threshold: float) -> Vectors:
    """Return the vectors strictly longer than a threshold.

    v: `VECTOR` (n,). threshold: px, >= 0; a vector of exactly that length is left out, so 0 keeps all that move.
    Raises ValueError for a negative or infinite threshold. Source: MoCrop v1, denoising with epsilon.
    """
    check_vectors("v", v)
    check_amount("threshold", threshold)
    return v.compress(magnitudes(v) > threshold)


def top_k(v: Vectors, count: int) -> Vectors:
    """Return the `count` longest vectors, or all if there are fewer.

    v: `VECTOR` (n,). count: >= 0. Among equally long vectors the earlier ones are kept, so that taking the top
    k of the vectors kept so far and the next block, repeatedly, gives the top k of the whole. Raises
    ValueError for a negative count. Source: MoCrop v2, top-k denoising; the rule for ties is ours.
    """
    check_vectors("v", v)
    check_count("count", count)
    if len(v) <= count:
        return v.copy()
    if count == 0:
        return v[:0].copy()
    lengths = magnitudes(v)
    slowest_kept = np.partition(lengths, len(v) - count)[len(v) - count]
    kept = lengths > slowest_kept
    ties = np.flatnonzero(lengths == slowest_kept)
    kept[ties[: count - np.count_nonzero(kept)]] = True
    return v.compress(kept)


def share_of(total: int, fraction: float) -> int:
    """Return the number of vectors in a fraction of `total`, rounded up: at least one, if there are any.

    total: >= 0. fraction: in (0, 1], taken as the decimal number that it prints as, so that 0.07 of 100 is 7.
    Raises ValueError outside these ranges. Source: the rounding is ours.
    """
    check_count("total", total)
    check_share("fraction", fraction)
    return math.ceil(Fraction(str(float(fraction))) * total)


def sample_uniform(v: Vectors, count: int, rng: np.random.Generator) -> Vectors:
    """Draw `count` vectors uniformly without replacement.

    v: `VECTOR` (n,); if n <= count, all are returned and nothing is drawn. count: >= 0. Raises ValueError
    for a negative count. Source: MoCrop v1, Monte Carlo sampling.
    """
    check_vectors("v", v)
    check_count("count", count)
    if len(v) <= count:
        return v.copy()
    return v.take(np.sort(rng.choice(len(v), count, replace=False, shuffle=False)))


def sample_by_speed(v: Vectors, fraction: float, power: float, rng: np.random.Generator) -> Vectors:
    """Draw a fraction of the vectors without replacement, with probability proportional to length ** power.

    v: `VECTOR` (n,). fraction: of n, in (0, 1], rounded up. power: >= 0; 0 makes all equally likely. A vector
    of zero length is drawn only when no other is left (unless power is 0). Raises ValueError outside these
    ranges. Source: MoCrop v2, magnitude-weighted sampling; drawn by the Gumbel top-k form of successive draws
    (Efraimidis and Spirakis 2006), whose logarithms do not underflow.
    """
    check_vectors("v", v)
    count = share_of(len(v), fraction)
    check_amount("power", power)
    if len(v) <= count:
        return v.copy()
    lengths = magnitudes(v).astype(np.float64)
    possible = (lengths > 0) | (power == 0)
    keys = power * np.log(np.where(lengths > 0, lengths, 1.0)) + rng.gumbel(size=len(v))
    return v.take(np.sort(np.lexsort((keys, possible))[-count:]))


def clip_rng(seed: int, clip_id: str, purpose: str) -> np.random.Generator:
    """Return the random stream of one clip for one purpose, independent of other clips and streams.

    seed: any integer. Equal arguments give equal streams; different arguments give unrelated ones. Raises
    TypeError for a seed that is not an integer. Source: ours (PCG64 seeded with the SHA-256 of the arguments).
    """
    name = ascii((operator.index(seed), str(clip_id), str(purpose)))
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(name.encode()).digest(), "big")))
