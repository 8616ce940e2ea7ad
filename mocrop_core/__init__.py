"""MoCrop's algorithm: one crop box per clip from its motion vectors. Arrays only; no files, no global state."""

from __future__ import annotations

from mocrop_core.actor import ACTOR, ActorMethod, choose_actor_box
from mocrop_core.actor_map import KeyFrames
from mocrop_core.box_path import BoxPath
from mocrop_core.boxes import Box, centre_box, full_box, pixel_box, random_box, reference_box
from mocrop_core.cells import CellGrid, cell_grid
from mocrop_core.density import density_map
from mocrop_core.frames import sample_segments_test, sample_segments_train, spread
from mocrop_core.method import (
    PAPER_V1,
    PAPER_V2,
    PRESETS,
    SOURCE_FALLBACK,
    SOURCE_FIXED,
    SOURCE_MOTION,
    SOURCE_NONE,
    BoxSelection,
    Method,
    choose_box,
    choose_box_from,
    denoise,
    sample,
)
from mocrop_core.search import (
    Rectangle,
    best_rectangle,
    candidate_sizes,
    within_tolerance,
)
from mocrop_core.texture import bars, key_frame_textures, picture_area
from mocrop_core.vectors import (
    PACKED,
    VECTOR,
    clip_rng,
    filter_by_magnitude,
    in_pixels,
    magnitudes,
    sample_by_speed,
    sample_uniform,
    share_of,
    top_k,
)

__all__ = [
    "ACTOR",
    "PACKED",
    "PAPER_V1",
    "PAPER_V2",
    "PRESETS",
    "SOURCE_FALLBACK",
    "SOURCE_FIXED",
    "SOURCE_MOTION",
    "SOURCE_NONE",
    "VECTOR",
    "ActorMethod",
    "Box",
    "BoxPath",
    "BoxSelection",
    "CellGrid",
    "KeyFrames",
    "Method",
    "Rectangle",
    "bars",
    "best_rectangle",
    "candidate_sizes",
    "cell_grid",
    "centre_box",
    "choose_actor_box",
    "choose_box",
    "choose_box_from",
    "clip_rng",
    "denoise",
    "density_map",
    "filter_by_magnitude",
    "full_box",
    "in_pixels",
    "key_frame_textures",
    "magnitudes",
    "picture_area",
    "pixel_box",
    "random_box",
    "reference_box",
    "sample",
    "sample_by_speed",
    "sample_segments_test",
    "sample_segments_train",
    "sample_uniform",
    "share_of",
    "spread",
    "top_k",
    "within_tolerance",
]
