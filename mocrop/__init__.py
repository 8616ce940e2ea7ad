"""Motion-guided crops of videos: motion vectors, boxes, crops, and stores.

>>> import mocrop
>>> mv = mocrop.read_motion_vectors("clip.mp4")
>>> found = mocrop.find_box(mv, area=0.5)
>>> mocrop.crop("clip.mp4", found.box, size=224, frames=8).shape
(8, 224, 224, 3)

`CropDataset` and `mocrop.transforms` need torch, which is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_specs.locations import StoreError
    from mocrop import transforms as transforms
    from mocrop.stores import Store, open_store
    from mocrop_core.actor import ActorMethod
    from mocrop_core.boxes import Box
    from mocrop_core.method import SOURCE_FALLBACK, SOURCE_FIXED, SOURCE_MOTION, SOURCE_NONE, BoxSelection, Method
    from mocrop_core.motion_vectors import MotionVectors
    from pipelines.media.containers import VideoError
    from pipelines.one_video.boxes import find_box, read_motion_vectors
    from pipelines.one_video.crop_videos import crop_video
    from pipelines.one_video.crops import crop
    from pipelines.one_video.methods import create_method, list_methods
    from training.dataset import CropDataset

_HOMES = {
    "data_specs.locations": ("StoreError",),
    "mocrop.stores": ("Store", "open_store"),
    "mocrop_core.actor": ("ActorMethod",),
    "mocrop_core.boxes": ("Box",),
    "mocrop_core.method": (
        *("SOURCE_FALLBACK", "SOURCE_FIXED", "SOURCE_MOTION", "SOURCE_NONE"),
        *("BoxSelection", "Method"),
    ),
    "mocrop_core.motion_vectors": ("MotionVectors",),
    "pipelines.media.containers": ("VideoError",),
    "pipelines.one_video.boxes": ("find_box", "read_motion_vectors"),
    "pipelines.one_video.crop_videos": ("crop_video",),
    "pipelines.one_video.crops": ("crop",),
    "pipelines.one_video.methods": ("create_method", "list_methods"),
    "training.dataset": ("CropDataset",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
"""The module of each public name, imported on first use."""

__all__ = [
    "SOURCE_FALLBACK",
    "SOURCE_FIXED",
    "SOURCE_MOTION",
    "SOURCE_NONE",
    "ActorMethod",
    "Box",
    "BoxSelection",
    "CropDataset",
    "Method",
    "MotionVectors",
    "Store",
    "StoreError",
    "VideoError",
    "create_method",
    "crop",
    "crop_video",
    "find_box",
    "list_methods",
    "open_store",
    "read_motion_vectors",
]


def __getattr__(name: str) -> Any:
    if name == "transforms":
        return importlib.import_module("mocrop.transforms")
    if name == "__version__":
        from importlib.metadata import version

        return version("mocrop")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'mocrop' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOME_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__", "transforms"])
