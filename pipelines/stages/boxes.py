"""The stage ``boxes``: the box of each clip in each view, and the density that it was chosen on."""

from __future__ import annotations

import numpy as np

from data_specs.chain import boxes_inputs
from data_specs.datasets import Clip
from data_specs.recipes import FixedView, FullView, MotionView, Recipe, view_rng
from data_specs.records import BoxRow, MotionRow, Record
from data_specs.stored import VectorReader
from mocrop_core import ActorMethod, Box, BoxSelection, KeyFrames, cell_grid, choose_actor_box
from mocrop_core import boxes as core_boxes
from mocrop_core.free_box import box_shapes
from mocrop_core.method import SOURCE_FIXED, choose_box_from, denoise
from pipelines.errors import ClipError
from pipelines.stages.tasks import EachClip, ShardPlan
from pipelines.stages.upstream import undone_if_failed, upstream
from pipelines.store.writer import HashingStore, write_rows


def box_records(plan: ShardPlan, recipe: Recipe, store: HashingStore, each: EachClip) -> list[Record[BoxRow]]:
    """Choose the box of each clip in each of the plan's views and write the densities; return one record per view."""
    before = upstream(store, MotionRow, plan.shard)
    views = [recipe.view(name) for name in plan.views]
    vectors = VectorReader(store, plan.shard)
    density = {
        view.name: np.zeros((len(plan.clips), *view.method().grid), np.float32)
        for view in views
        if isinstance(view, MotionView)
    }
    chosen: dict[str, dict[str, BoxRow]] = {view.name: {} for view in views}

    def blank(index: int) -> None:
        for maps in density.values():
            maps[index] = 0

    def work(index: int, clip: Clip) -> None:
        with undone_if_failed(blank, index):
            for view in views:
                if isinstance(view, MotionView):
                    choice = motion_choice(view, recipe, clip.id, before.clips[clip.id], vectors, index)
                    density[view.name][index] = choice.density
                    chosen[view.name][clip.id] = _choice_row(choice)
                else:
                    box = fixed_box(view, recipe, clip.id, before.clips[clip.id].size)
                    chosen[view.name][clip.id] = BoxRow(box, None, SOURCE_FIXED)

    _, reasons = each(before, work)
    records = []
    for view in views:
        if view.name in density:
            write_rows(store, f"views/{view.name}/density", plan.rows, density[view.name])
        rows = {id: row for id, row in chosen[view.name].items() if id not in reasons}
        inputs = boxes_inputs(before, recipe, view)
        records.append(Record("boxes", view.name, plan.shard, inputs, rows, reasons, *store.taken()))
    return records


def motion_choice(
    view: MotionView, recipe: Recipe, id: str, motion: MotionRow, vectors: VectorReader, index: int
) -> BoxSelection:
    """Choose the box of a clip in a motion view, from its row in the motion record and the stored vectors.

    Raises ``ClipError`` if no box of the method's aspect and area fits the frame.
    """
    method = view.method()
    if isinstance(method, ActorMethod):
        picture = motion.picture
        assert picture is not None, "motion without texture is extracted again first"
        try:
            box_shapes(method.crop_ratio, method.aspect, (picture.height, picture.width))
        except ValueError as error:  # the aspect does not fit this frame
            raise ClipError(str(error)) from None
        keys, grid = motion.key_frames, cell_grid(motion.size)
        textures = vectors.textures(index, (len(keys), *grid.shape))
        key_frames = KeyFrames(keys, textures, picture.corners)
        return choose_actor_box(vectors.blocks(index), motion.frames, key_frames, motion.size, method)
    kept = denoise(vectors.blocks(index), method, vectors.count(index))
    return choose_box_from(kept, motion.size, method, view_rng(view, recipe.seed, id))


def fixed_box(view: FullView | FixedView, recipe: Recipe, id: str, frame_size: tuple[int, int]) -> Box:
    """The box of a clip in a view that does not depend on motion."""
    if isinstance(view, FullView):
        return core_boxes.full_box(frame_size)
    if view.kind == "centre":
        return core_boxes.centre_box(frame_size, view.crop_ratio)
    return core_boxes.random_box(frame_size, view.crop_ratio, view_rng(view, recipe.seed, id))


def _choice_row(choice: BoxSelection) -> BoxRow:
    """The row of a record for a choice."""
    score = None if np.isnan(choice.score) else float(np.float32(choice.score))
    return BoxRow(choice.box, score, choice.source, choice.path)
