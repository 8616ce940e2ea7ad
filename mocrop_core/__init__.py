"""MoCrop's algorithm: motion vectors in, one crop box a clip out. Arrays only; no files, no global state."""

from __future__ import annotations

from mocrop_core.boxes import Box, centre_box, full_box, pixel_box, random_box, reference_box
from mocrop_core.density import density_map
from mocrop_core.frames import spread, test_segments, train_segments
from mocrop_core.method import (
    PAPER_V1,
    PAPER_V2,
    PRESETS,
    SOURCE_FALLBACK,
    SOURCE_FIXED,
    SOURCE_MOTION,
    SOURCE_NONE,
    Choice,
    Method,
    choose_box,
    choose_box_from,
    denoise,
    sample,
)
from mocrop_core.search import (
    Rectangle,
    best_rectangle,
    best_rectangles,
    candidate_sizes,
    within_tolerance,
)
from mocrop_core.vectors import (
    PACKED,
    VECTOR,
    clip_rng,
    faster_than,
    fastest,
    in_pixels,
    magnitudes,
    sample_by_speed,
    sample_uniform,
    share_of,
)

__all__ = [
    "PACKED",
    "PAPER_V1",
    "PAPER_V2",
    "PRESETS",
    "SOURCE_FALLBACK",
    "SOURCE_FIXED",
    "SOURCE_MOTION",
    "SOURCE_NONE",
    "VECTOR",
    "Box",
    "Choice",
    "Method",
    "Rectangle",
    "best_rectangle",
    "best_rectangles",
    "candidate_sizes",
    "centre_box",
    "choose_box",
    "choose_box_from",
    "clip_rng",
    "denoise",
    "density_map",
    "faster_than",
    "fastest",
    "full_box",
    "in_pixels",
    "magnitudes",
    "pixel_box",
    "random_box",
    "reference_box",
    "sample",
    "sample_by_speed",
    "sample_uniform",
    "share_of",
    "spread",
    "test_segments",
    "train_segments",
    "within_tolerance",
]
