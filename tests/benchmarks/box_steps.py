"""What each step of the method `actor` contributes: the share of the actor kept with that step left out.

Boxes are found again from the vectors and textures of a store; part of `tests.benchmarks.box_coverage`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from data_specs.annotation_files import read_annotations
from data_specs.annotations import match
from data_specs.records import MotionRow
from data_specs.stored import Store, VectorReader, open_store
from mocrop_core import ACTOR, ActorMethod, KeyFrames, actor_map, cell_grid, choose_actor_box
from mocrop_core.coverage import shares_kept

EVERYWHERE = (1e6, 1e6)  # standard deviations of a centre prior that weighs all places the same


@dataclass(frozen=True, slots=True)
class Clip:
    """What the method takes of a clip, and its actor boxes."""

    blocks: list[npt.NDArray[Any]]
    num_frames: int
    keys: KeyFrames
    frame_size: tuple[int, int]
    actors: npt.NDArray[np.float64]

    def kept(self, method: ActorMethod) -> float:
        """The mean share of the actor in the method's box."""
        box = choose_actor_box(self.blocks, self.num_frames, self.keys, self.frame_size, method).box
        return float(shares_kept(self.actors, np.array([box.corners]))[0].mean())

    def without_texture(self) -> Clip:
        """The same where all cells look alike."""
        return replace(self, keys=replace(self.keys, textures=np.full_like(self.keys.textures, 255)))


def _with_camera() -> AbstractContextManager[Any]:
    """While it lasts, the camera's motion stays in the displacements."""
    return patch.object(actor_map, "camera_residual", lambda dx, dy, has, texture: (dx * has, dy * has))


STEPS: dict[str, Callable[[Clip, ActorMethod], float]] = {
    "nothing": lambda clip, method: clip.kept(method),
    "the camera's motion is not removed": lambda clip, method: clip.kept(method),
    "no centre prior": lambda clip, method: clip.kept(replace(method, centre=EVERYWHERE)),
    "a prior half as wide": lambda clip, method: clip.kept(replace(method, centre=(0.5, 0.25))),
    "no weights by texture": lambda clip, method: clip.without_texture().kept(method),
    "the frame's shape instead of a free one": lambda clip, method: clip.kept(replace(method, aspect="frame")),
}
"""What is left out, and how."""
CAMERA = "the camera's motion is not removed"


def contributions(location: Path, annotations: Path, areas: Sequence[float]) -> dict[str, list[float]]:
    """The mean share kept over the annotated clips of a store at each area, with each of `STEPS` left out."""
    clips = list(annotated(open_store(location), annotations).values())
    found = {}
    for name, kept in STEPS.items():
        with _with_camera() if name == CAMERA else nullcontext():
            means = [np.mean([kept(clip, replace(ACTOR, crop_ratio=area)) for clip in clips]) for area in areas]
        found[name] = [round(float(mean), 6) for mean in means]
    return found


def annotated(store: Store, annotations: Path) -> dict[str, Clip]:
    """The annotated clips of a store, by id."""
    matched = match(read_annotations(annotations), store.ids, store.table("num_frames"), store.table("frame_size"))
    records, clips = store.records(MotionRow), {}
    for row, actors in matched.boxes.items():
        shard, index = divmod(row, store.recipe.clips_per_shard)
        known, reader = records[shard].clips[store.ids[row]], VectorReader(store.zarr, shard)
        assert known.picture is not None
        textures = reader.textures(index, (len(known.key_frames), *cell_grid(known.size).shape))
        keys = KeyFrames(known.key_frames, textures, known.picture.corners)
        clips[store.ids[row]] = Clip(list(reader.blocks(index)), known.frames, keys, known.size, actors.box)
    return clips
