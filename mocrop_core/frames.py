"""Frame selection: the frames of a clip to cache, and those that a network sees."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mocrop_core.ranges import check_count

Indices = npt.NDArray[np.int64]


def spread(count: int, slots: int) -> Indices:
    """Return at most `slots` indices, evenly over range(count), the first and the last among them.

    count, slots: >= 0. Returns int64 (min(count, slots),), strictly increasing: every index if count <=
    slots, the middle one for a single slot. Each is at most half an index off its exact position, and gaps
    differ by at most 1. The selection is symmetric (it holds i and count - 1 - i together), except that the
    middle of an odd number of slots over an even count is the earlier of two.
    Raises ValueError for a negative number. Source: ours.
    """
    check_count("count", count)
    check_count("slots", slots)
    slots = min(count, slots)
    gaps = max(slots - 1, 1)
    first_half = (2 * np.arange(slots // 2, dtype=np.int64) * (count - 1) + gaps) // (2 * gaps)
    middle = np.full(slots % 2, (count - 1) // 2, dtype=np.int64)
    return np.concatenate([first_half, middle, count - 1 - first_half[::-1]])


def sample_segments_train(num: int | Indices, segments: int, rng: np.random.Generator) -> Indices:
    """Draw one frame from each of `segments` equal parts of a clip, or of each of n clips.

    num: frames of the clip, >= 1, or int64 (n,) of the clips. segments: >= 1. Returns int64 (segments,) or
    (n, segments) in [0, num), non-decreasing in a clip; a part shorter than a frame gives its first frame, so a
    short clip repeats frames. n clips are drawn as by n calls, one after the other. Raises ValueError for a number
    below 1. Source: the public MoCrop code's training index; its draws come from an explicit generator here.
    """
    edges = np.round(_segment_sizes(num, segments) * np.arange(segments + 1)).astype(np.int64)
    begins = edges[..., :-1]
    return np.minimum(rng.integers(begins, np.maximum(edges[..., 1:], begins + 1)), _last_frames(num))


def sample_segments_test(num: int | Indices, segments: int) -> Indices:
    """Return the centre frame of each of `segments` equal parts of a clip, or of each of n clips.

    num: frames of the clip, >= 1, or int64 (n,) of the clips. segments: >= 1. Returns int64 (segments,) or
    (n, segments) in [0, num), non-decreasing in a clip; a short clip repeats frames; halves round to the even
    frame. Raises ValueError for a number below 1. Source: the public MoCrop code's testing index.
    """
    centres = np.round(_segment_sizes(num, segments) * (np.arange(segments) + 0.5)).astype(np.int64)
    return np.minimum(centres, _last_frames(num))


def _segment_sizes(num: int | Indices, segments: int) -> npt.NDArray[np.float64]:
    check_count("num", int(np.min(num, initial=1)) if isinstance(num, np.ndarray) else num, least=1)
    check_count("segments", segments, least=1)
    return _last_frames(num) / segments


def _last_frames(num: int | Indices) -> Indices:
    """The number of a clip's last frame, to be set against its segments: int64 (1,) or (n, 1)."""
    return np.asarray(num, np.int64)[..., None] - 1
