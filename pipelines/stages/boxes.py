"""The stage ``boxes``: the box of each clip in each view, and the density that it was chosen on."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from data_specs.chain import boxes_inputs
from data_specs.datasets import Clip
from data_specs.recipes import FullView, MotionView, Recipe, view_rng
from data_specs.recipes import View as RecipeView
from data_specs.stored import Attributes, Record, VectorReader
from mocrop_core import boxes as core_boxes
from mocrop_core.method import SOURCE_FIXED, choose_box_from, denoise
from pipelines.stages.tasks import EachClip, ShardPlan
from pipelines.stages.upstream import undone_if_failed, upstream
from pipelines.store.writer import HashingStore, write_rows


def box_records(plan: ShardPlan, recipe: Recipe, store: HashingStore, each: EachClip) -> list[Record]:
    """Choose the box of each clip in each of the plan's views, and write the densities; one record a view."""
    before = upstream(store, "motion", plan.shard)
    views = [recipe.view(name) for name in plan.views]
    vectors = VectorReader(store, plan.shard)
    density = {
        view.name: np.zeros((len(plan.clips), *view.method().grid), np.float32)
        for view in views
        if isinstance(view, MotionView)
    }
    found: dict[str, dict[str, Attributes]] = {view.name: {} for view in views}

    def blank(index: int) -> None:
        for maps in density.values():
            maps[index] = 0

    def work(index: int, clip: Clip) -> Attributes:
        height, width = before.clips[clip.id]["size"]
        with undone_if_failed(blank, index):
            for view in views:
                found[view.name][clip.id] = _choose(
                    view, recipe, clip.id, (height, width), vectors, index, density.get(view.name)
                )
        return {}

    failed = {id: row for id, row in each(before, work).items() if "reason" in row}
    records = []
    for view in views:
        if view.name in density:
            write_rows(store, f"views/{view.name}/density", plan.rows, density[view.name])
        rows = {clip.id: failed.get(clip.id) or found[view.name][clip.id] for clip in plan.clips}
        inputs = boxes_inputs(before, recipe, view)
        records.append(Record("boxes", view.name, plan.shard, inputs, rows, *store.taken()))
    return records


def _choose(
    view: RecipeView,
    recipe: Recipe,
    id: str,
    frame_size: tuple[int, int],
    vectors: VectorReader,
    index: int,
    density: npt.NDArray[Any] | None,
) -> Attributes:
    """The box of one clip in one view; a motion view's density goes into its row of ``density``."""
    rng = view_rng(view, recipe.seed, id)
    if isinstance(view, MotionView):
        assert density is not None
        kept = denoise(vectors.blocks(index), view.method(), vectors.count(index))
        choice = choose_box_from(kept, frame_size, view.method(), rng)
        density[index] = choice.density
        score = None if np.isnan(choice.score) else float(np.float32(choice.score))
        box = choice.box
        return {"box": [box.x0, box.y0, box.x1, box.y1], "score": score, "source": choice.source}
    if isinstance(view, FullView):
        box = core_boxes.full_box(frame_size)
    elif view.kind == "centre":
        box = core_boxes.centre_box(frame_size, view.crop_ratio)
    else:
        box = core_boxes.random_box(frame_size, view.crop_ratio, rng)
    return {"box": [box.x0, box.y0, box.x1, box.y1], "score": None, "source": SOURCE_FIXED}
