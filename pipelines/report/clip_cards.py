"""The clips of a report: one row per clip, thumbnails of some, and the data of a clip's detail view."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from data_specs.annotations import ActorBoxes
from data_specs.recipes import MotionView, Recipe, density_grid, moves
from data_specs.schema import State
from data_specs.stored import Damaged
from data_specs.windows import Window
from mocrop_core import PAPER_V1, ActorMethod, density_map, spread
from pipelines.report.clip_reader import Boxes, ClipReader, Slot, Vectors
from pipelines.report.drawing import fitting, webp

Json = dict[str, Any]

_COLUMNS = ("label", "split", "state", "num_frames", "frame_size", "reason")

THUMBNAIL = (240, 3000)  # longest side in px, bytes at most
STRIP = (320, 4000)
CROP = (192, 3000)
STRIP_FRAMES = 8
ARROWS = 120  # maximum vectors drawn in one frame
TIME_BINS = 48
ROW_BYTES = (140, 40)  # approximate bytes of a clip's row in a page, and per view without its density
CLIP_BYTES = 4_010  # maximum bytes of its thumbnail, in base64
MOVING_BYTES = 40  # per box of a moving box, with the name of its view
DETAIL_BYTES = (62_000, 4_200)  # maximum bytes of its detail without densities and crops, and per crop


def text(data: bytes) -> str:
    """Bytes as base64."""
    return base64.b64encode(data).decode()


def grey_levels(density: npt.NDArray[Any], highest: float | None = None) -> str:
    """A map as base64 of bytes, row by row; ``highest`` (by default the highest cell) becomes 255."""
    top = float(density.max()) if highest is None else highest
    return text(np.round(density * (255 / top if top else 0)).astype(np.uint8).tobytes())


def row_bytes(recipe: Recipe) -> int:
    """Approximate bytes of a clip without pictures: its row, and its density in each motion view."""
    maps = sum(_map_bytes(grid) for view in recipe.views if (grid := density_grid(view)))
    moving = MOVING_BYTES * sum(map(moves, recipe.views))
    return ROW_BYTES[0] + ROW_BYTES[1] * len(recipe.views) + moving + maps


def listed_bytes(reader: ClipReader, more: int = 0) -> int:
    """What a clip of a store takes in a page, about: `row_bytes` with the length of its ids, and ``more``."""
    some = reader.ids[:: max(1, len(reader.ids) // 1000)]
    return row_bytes(reader.recipe) + sum(len(json.dumps(id)) for id in some) // len(some) + more


def picture_bytes(recipe: Recipe) -> int:
    """Maximum additional bytes of a clip's thumbnail and detail."""
    strip = STRIP_FRAMES * _map_bytes(strip_grid(recipe))
    boxes = sum(view.segments + STRIP_FRAMES for view in recipe.views if isinstance(view, MotionView) and moves(view))
    return CLIP_BYTES + DETAIL_BYTES[0] + DETAIL_BYTES[1] * len(recipe.views) + MOVING_BYTES * boxes + strip


def _map_bytes(grid: tuple[int, int]) -> int:
    return 4 * -(-grid[0] * grid[1] // 3) + 3  # in base64, quoted


def strip_grid(recipe: Recipe) -> tuple[int, int]:
    """Rows and columns of the density over time: the first view's that counts vectors in cells, else the paper's.

    The map of the method actor exists only for the whole clip.
    """
    methods = [view.method() for view in recipe.views if isinstance(view, MotionView)]
    return next((method.grid for method in methods if not isinstance(method, ActorMethod)), PAPER_V1.grid)


def rows(reader: ClipReader, listed: Sequence[int]) -> Json:
    """The columns for the listed rows."""
    tables = {name: reader.tables[name][listed] for name in _COLUMNS}
    quarantined = np.flatnonzero(tables["state"] == State.QUARANTINED)
    return {
        "id": [reader.ids[row] for row in listed],
        "label": tables["label"].tolist(),
        "split": ["".join(map(str, row)) for row in tables["split"].tolist()],
        "state": tables["state"].tolist(),
        "frames": tables["num_frames"].tolist(),
        "height": tables["frame_size"][:, 0].tolist(),
        "width": tables["frame_size"][:, 1].tolist(),
        "reason": {int(row): str(tables["reason"][row]) for row in quarantined},
        "window": {
            number: [window[0], str(Window(*window[1:])), int(reader.tables["first_frame"][row])]
            for number, row in enumerate(listed)
            if (window := reader.store.windows[row]) is not None
        },
    }


def boxes(reader: ClipReader, listed: Sequence[int], problems: list[str]) -> Json:
    """For each view the columns box (four numbers per clip), score, source and, for a motion view, density.

    If a view's box moves, ``shown`` has its boxes in the frames of the thumbnails. An unreadable density is empty, with
    a line in ``problems``.
    """
    found = {}
    for view in reader.recipe.views:
        base = f"views/{view.name}"
        scores = reader.tables[f"{base}/score"][listed]
        found[view.name] = {
            "box": reader.tables[f"{base}/box"][listed].ravel().tolist(),
            "score": [None if np.isnan(score) else round(float(score), 4) for score in scores],
            "source": reader.tables[f"{base}/source"][listed].tolist(),
            "density": _densities(reader, view.name, listed, problems),
        }
        if moves(view):
            shown = [reader.middle_box(view.name, row) or (0, 0, 0, 0) for row in listed]
            found[view.name]["shown"] = [edge for box in shown for edge in box]
    return found


def _densities(reader: ClipReader, view: str, listed: Sequence[int], problems: list[str]) -> list[str] | None:
    step = reader.recipe.clips_per_shard
    found: list[str] = []
    for shard, members in groupby(listed, key=lambda row: row // step):
        rows, first = list(members), shard * step
        try:
            maps = reader.density(view, slice(first, min(first + step, len(reader.ids))))
        except Damaged as error:
            problems.append(str(error))
            found += [""] * len(rows)
            continue
        if maps is None:
            return None
        found += [grey_levels(maps[row - first]) if maps[row - first].any() else "" for row in rows]
    return found


def sample(reader: ClipReader, count: int, wanted: Iterable[int], actor_order: Sequence[int]) -> list[int]:
    """The rows of the clips to show with pictures: ``wanted``, then the worst, then clips spread evenly over the rest.

    The worst are those with the lowest scores in each motion view, the first in ``actor_order``, and fallbacks: at most
    a sixth of the sample each. Clips without a cached frame come last; those without a box are left out. Returns sorted
    rows.
    """
    cached = np.any(
        [reader.tables[f"views/{view.name}/frame_index"][:, 0] >= 0 for view in reader.recipe.views], axis=0
    )
    chosen = dict.fromkeys(wanted)
    part = count // 6
    orders = [np.asarray(actor_order, np.int64)]
    for view in reader.motion_views:
        score, source = (reader.tables[f"views/{view.name}/{name}"] for name in ("score", "source"))
        by_score = np.argsort(np.where(np.isnan(score), np.inf, score), kind="stable")
        orders += [by_score, np.flatnonzero(source == 3)]
    for order in orders:
        chosen |= dict.fromkeys(order[cached[order]][:part].tolist())
    boxed = np.any([reader.tables[f"views/{view.name}/source"] > 0 for view in reader.recipe.views], axis=0)
    for there in (cached, boxed):
        free = there.copy()
        free[list(chosen)] = False
        rest, room = np.flatnonzero(free), max(0, count - len(chosen))
        if len(rest) and room:
            chosen |= dict.fromkeys(int(rest[i]) for i in spread(len(rest), room))
    return sorted(chosen)


class Gallery:
    """Makes pictures and details of clips; unreadable data are left out, with a line in ``problems``."""

    def __init__(self, reader: ClipReader, actors: dict[int, ActorBoxes]) -> None:
        self.reader = reader
        self.actors = actors
        self.problems: list[str] = []
        views = [view.name for view in reader.recipe.views]
        self.picture_views = [reader.full] if reader.full else views
        self.crop_views = [name for name in views if name != reader.full]

    def thumbnails(self, chosen: Sequence[int], on_clip: Callable[[], None]) -> Json:
        """For each view with pictures (``full`` if it exists, else all) the middle frames as WebP, by row."""
        found: Json = {view: {} for view in self.picture_views}
        with ThreadPoolExecutor(4) as pool:
            jobs = []
            for row in chosen:
                for view in self.picture_views:
                    slot = self.reader.middle_slot(view, row)
                    if slot and (picture := self._picture(view, row, slot)) is not None:
                        jobs.append(
                            (view, row, pool.submit(webp, picture, self._shape(view, row, THUMBNAIL[0]), THUMBNAIL[1]))
                        )
                on_clip()
                while len(jobs) > 64:
                    self._collect(found, *jobs.pop(0))
            for job in jobs:
                self._collect(found, *job)
        return found

    @staticmethod
    def _collect(found: Json, view: str, row: int, job: Any) -> None:
        found[view][row] = text(job.result())

    def detail(self, row: int) -> Json:
        """The strip of frames with vectors, density and actors, the density over time, and a stored crop of each view.

        If a view's box moves, ``boxes`` of each frame of the strip has its box, and ``places`` the boxes of all parts.
        """
        slots = self.reader.slots(self.reader.full or self.reader.main_view, row)
        strip = [slots[i] for i in spread(len(slots), STRIP_FRAMES)] if slots else []
        found: Json = {"strip": [{"frame": slot.frame} for slot in strip], "crops": {}, "places": {}, "time": None}
        with ThreadPoolExecutor(4) as pool:
            if self.reader.full and strip:
                size = self._shape(self.reader.full, row, STRIP[0])
                pictures = [self._picture(self.reader.full, row, slot) for slot in strip]
                jobs = [None if p is None else pool.submit(webp, p, size, STRIP[1]) for p in pictures]
                for shown, job in zip(found["strip"], jobs, strict=True):
                    shown["picture"] = text(job.result()) if job else None
            if strip:
                found["crops"] = self._crops(row, slots[len(slots) // 2], pool)
        self._add_moving(row, found)
        self._add_actors(row, found["strip"])
        if self.reader.has_vectors(row):
            self._add_motion(row, found)
        return found

    def _crops(self, row: int, slot: Slot, pool: ThreadPoolExecutor) -> Json:
        pictures = {view: self._picture(view, row, slot) for view in self.crop_views if self.reader.slots(view, row)}
        jobs = {
            view: pool.submit(webp, picture, self._shape(view, row, CROP[0]), CROP[1])
            for view, picture in pictures.items()
            if picture is not None
        }
        return {view: text(job.result()) for view, job in jobs.items()}

    def _shape(self, view: str, row: int, side: int) -> tuple[int, int]:
        """Width and height of a picture with the aspect ratio of a view's box, with ``side`` as the longer one."""
        box = self.reader.box(view, row)
        assert box is not None
        return fitting((box[2] - box[0], box[3] - box[1]), side)

    def _picture(self, view: str, row: int, slot: Slot) -> npt.NDArray[np.uint8] | None:
        try:
            return self.reader.picture(view, row, slot)
        except Exception as error:  # a damaged or missing chunk is reported in the page's notices
            self._note(row, error)
            return None

    def _note(self, row: int, error: Exception) -> None:
        what = " ".join(str(error).split())[:300] or type(error).__name__
        self.problems.append(f"{self.reader.ids[row]}: {what}")

    def _add_moving(self, row: int, found: Json) -> None:
        frames = [shown["frame"] for shown in found["strip"]]
        for view in self.reader.motion_views:
            if moves(view) and (boxes := self.reader.boxes_at(view.name, row, frames)) is not None:
                found["places"][view.name] = self.reader.places(view.name, row).tolist()
                for shown, box in zip(found["strip"], boxes.tolist(), strict=True):
                    shown.setdefault("boxes", {})[view.name] = box

    def _add_actors(self, row: int, strip: list[Json]) -> None:
        if row in self.actors:
            for shown in strip:
                shown["actors"] = [
                    [round(float(edge), 1) for edge in box] for box in self.actors[row].at(shown["frame"])
                ]

    def _add_motion(self, row: int, found: Json) -> None:
        try:
            vectors = self.reader.fast_vectors(row)
        except Exception as error:  # as above
            self._note(row, error)
            return
        count = int(self.reader.tables["num_frames"][row])
        found["time"] = by_time(vectors, count, self._boxes(row, count))
        if found["strip"]:
            add_motion(found["strip"], vectors, self.reader.frame_size(row), strip_grid(self.reader.recipe))

    def _boxes(self, row: int, num_frames: int) -> dict[str, Boxes]:
        found = {}
        for view in self.reader.recipe.views:
            frames = range(num_frames if moves(view) else 1)
            if (boxes := self.reader.boxes_at(view.name, row, frames)) is not None:
                found[view.name] = boxes
        return found


def by_time(vectors: Vectors, num_frames: int, boxes: dict[str, Boxes]) -> Json:
    """The number of vectors in each interval of a clip, and how many of them lie in each box.

    ``boxes`` has one box for all frames, or one per frame. Returns ``frames`` (bounds of the intervals, one more than
    intervals), ``all`` and ``inside`` by view.
    """
    bounds = np.linspace(0, num_frames, min(num_frames, TIME_BINS) + 1).round().astype(int)

    def counts(some: Vectors) -> list[int]:
        found: list[int] = np.histogram(some["frame"], bounds)[0].tolist()
        return found

    def inside(some: Boxes) -> Vectors:
        x0, y0, x1, y1 = (edge if len(some) == 1 else edge[vectors["frame"]] for edge in some.T)
        x, y = vectors["x"], vectors["y"]
        return vectors[(x >= x0) & (x < x1) & (y >= y0) & (y < y1)]

    return {
        "frames": bounds.tolist(),
        "all": counts(vectors),
        "inside": {view: counts(inside(some)) for view, some in boxes.items()},
    }


def add_motion(strip: list[Json], vectors: Vectors, frame_size: tuple[int, int], grid: tuple[int, int]) -> None:
    """Add to each frame of a strip the density up to the next one, and the vectors of the first frame that has any.

    ``density`` is as in ``grey_levels``, with one scale per clip; ``arrows`` are x, y of the block and dx, dy of its
    motion in quarter pixels, four integers per vector, for at most ``ARROWS`` vectors; ``arrows_of`` is their frame.
    """
    starts = [shown["frame"] for shown in strip]
    first = np.searchsorted(vectors["frame"], [*starts, np.iinfo(np.int32).max])
    parts = [vectors[begin:end] for begin, end in pairwise(first)]
    maps = [density_map(part, frame_size, grid) for part in parts]
    highest = max((float(one.max()) for one in maps), default=0.0)
    for shown, part, one in zip(strip, parts, maps, strict=True):
        shown["density"] = grey_levels(one, highest)
        if len(part):
            at = int(part["frame"][0])
            drawn = part[part["frame"] == at]
            drawn = drawn[spread(len(drawn), ARROWS)]
            columns = (drawn["x"], drawn["y"], -4 * drawn["dx"], -4 * drawn["dy"])
            shown["arrows"] = np.stack(columns, axis=1).round().astype(int).ravel().tolist()
            shown["arrows_of"] = at
