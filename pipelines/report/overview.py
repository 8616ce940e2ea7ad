"""The head of a report: a summary of the store, the positions of its boxes, and its classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from data_specs.recipes import density_grid, view_params
from data_specs.schema import NOTES, STAGES, State
from data_specs.split_lists import PARTS
from data_specs.stored import Store, attributes, shown
from mocrop_core import SOURCE_FALLBACK
from pipelines.report.clip_cards import strip_grid
from pipelines.report.clip_reader import ClipReader
from pipelines.store.summary import Summary, stage_seconds

Json = dict[str, Any]

NOTES_SHOWN = 100  # clips per kind of note that a page lists
AT_ONCE = 1 << 16  # clips whose boxes are added to the map at once
HEAT_GRID = (36, 48)  # rows and columns of the map of box positions


def overview(store: Store, reader: ClipReader, summary: Summary, place: Mapping[int, int]) -> Json:
    """Counts, states, stages, recipe, versions, fingerprint, seconds per stage, and the numbers of each view.

    ``place`` maps the rows that the page lists to their positions in it.
    """
    states = reader.tables["state"]
    (progress,) = attributes(store.zarr, ["progress"])
    seconds = stage_seconds(progress)
    splits = reader.tables["split"]
    return {
        "store": shown(store.location).rstrip("/").rpartition("/")[2],
        "dataset": store.attrs.get("dataset", ""),
        "fingerprint": store.fingerprint,
        "software": store.attrs.get("software", {}),
        "recipe": store.attrs["recipe"],
        "classes": store.class_names,
        "states": {state.name.lower(): int((states == state).sum()) for state in State},
        "splits": [[int((splits[:, i] == part).sum()) for part in PARTS] for i in range(3)],
        "frames": int(reader.tables["num_frames"].sum()),
        "stages": {stage: list(summary.stages[stage]) for stage in STAGES},
        "notes": _notes(summary, reader.ids, place),
        "seconds": {stage: seconds[stage] for stage in STAGES if stage in seconds},
        "threshold": reader.threshold,
        "main": reader.main_view,
        "full": reader.full,
        "stripGrid": strip_grid(reader.recipe),
        "views": [
            {
                "name": view.name,
                "kind": view.kind,
                "params": view_params(view),
                "grid": density_grid(view),
                **view_numbers(reader, view.name),
                **heat(reader, view.name),
            }
            for view in reader.recipe.views
        ],
    }


def _notes(summary: Summary, ids: list[str], place: Mapping[int, int]) -> list[Json]:
    """For each kind of note: its meaning, the number of clips with one, and the first listed ones with their text."""
    places = {ids[row]: number for row, number in place.items()}
    return [
        {
            "about": NOTES.get(kind, kind),
            "count": len(texts),
            "clips": [[places[id], text] for id, text in sorted(texts.items())[:NOTES_SHOWN] if id in places],
        }
        for kind, texts in summary.notes.items()
    ]


def noted(summary: Summary, ids: list[str]) -> list[int]:
    """The rows of the clips whose notes a page shows."""
    shown = {id for texts in summary.notes.values() for id in sorted(texts)[:NOTES_SHOWN]}
    return [row for row, id in enumerate(ids) if id in shown] if shown else []


def view_numbers(reader: ClipReader, view: str) -> Json:
    """Over all clips and by class: clips with a box, mean area, mean score, share of fallbacks (None without boxes).

    ``classes`` has one row per class with clips: label, clips, done, boxed, area, score, fallback.
    """
    labels, states = reader.tables["label"], reader.tables["state"]
    score, source = (reader.tables[f"views/{view}/{name}"] for name in ("score", "source"))
    boxed = source > 0
    area = areas(reader, view)

    def numbers(chosen: npt.NDArray[np.bool_]) -> list[Any]:
        there = chosen & boxed
        scored = score[there][~np.isnan(score[there])]
        fallbacks = float((source[there] == SOURCE_FALLBACK).mean()) if there.any() else None
        return [int(there.sum()), _mean(area[there]), _mean(scored), fallbacks]

    boxed_count, mean_area, mean_score, fallback = numbers(np.ones(len(labels), bool))
    scored = score[boxed & ~np.isnan(score)]
    return {
        "boxed": boxed_count,
        "area": mean_area,
        "score": mean_score,
        "median": round(float(np.median(scored)), 5) if len(scored) else None,
        "fallback": fallback,
        "classes": [
            [int(label), int((labels == label).sum()), int(((labels == label) & (states == State.DONE)).sum()),
             *numbers(labels == label)]
            for label in np.unique(labels)
        ],
    }  # fmt: skip


def areas(reader: ClipReader, view: str) -> npt.NDArray[np.float64]:
    """Each box's share of its frame's area; NaN if there is no box."""
    box = reader.tables[f"views/{view}/box"].astype(np.float64)
    frame = reader.tables["frame_size"].astype(np.float64).prod(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share: npt.NDArray[np.float64] = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) / frame
    return np.where(reader.tables[f"views/{view}/source"] > 0, share, np.nan)


def heat(reader: ClipReader, view: str) -> Json:
    """``heat``: how many of 1000 boxes contain each cell's middle, row by row, with all frames scaled to one.

    ``places`` is the number of boxes: one per clip, or one per part of it if boxes move. None without boxes.
    """
    rows, cols = HEAT_GRID
    boxed = np.flatnonzero(reader.tables[f"views/{view}/source"] > 0)
    if not len(boxed):
        return {"heat": None, "places": 0}
    x, y = (np.arange(cols) + 0.5) / cols, (np.arange(rows) + 0.5) / rows
    counts, places = np.zeros(HEAT_GRID), 0
    for some in np.array_split(boxed, -(-len(boxed) // AT_ONCE)):
        box, of = reader.all_places(view, some)
        height, width = reader.tables["frame_size"][of].astype(np.float64).T
        across = (x >= (box[:, 0] / width)[:, None]) & (x < (box[:, 2] / width)[:, None])
        down = (y >= (box[:, 1] / height)[:, None]) & (y < (box[:, 3] / height)[:, None])
        counts += down.astype(np.float64).T @ across.astype(np.float64)
        places += len(box)
    return {"heat": np.round(1000 * counts / places).astype(int).ravel().tolist(), "places": places}


def _mean(values: npt.NDArray[Any]) -> float | None:
    return round(float(values.mean()), 5) if len(values) else None
