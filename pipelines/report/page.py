"""``mocrop report``: one self-contained HTML file about a store, its clips, boxes and crops.

The page consists of a JSON document with WebP pictures as base64 and the files in ``assets/``. It loads nothing, which
its content security policy enforces.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from data_specs.annotation_files import read_annotations
from data_specs.annotations import AnnotationError, match, of_windows
from data_specs.schema import State
from data_specs.stored import Store, StoreError, open_store
from mocrop_core import spread
from pipelines.atomic_files import atomic_write
from pipelines.evaluation.coverage import coverage, mismatches, stored_boxes
from pipelines.report import actor_coverage, clip_cards, overview
from pipelines.report.clip_reader import ClipReader
from pipelines.store.summary import summary_of, window_videos

SAMPLE = 300
MAX_QUARANTINED = 10_000  # quarantined clips in a page that lists a sample
LARGEST = 64_000_000  # maximum bytes of a page without --all
SCRIPTS = ("scene.js", "head.js", "grid.js", "detail.js", "tables.js", "main.js")


class ReportError(StoreError):
    """A report cannot be made; the message is one line with the argument and what would be right."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was written: the page's bytes, all clips, those listed, with pictures, with a detail, and problems."""

    out: str
    bytes: int
    clips: int
    listed: int
    pictures: int
    details: int
    notices: list[str]


def write_report(
    location: str,
    out: Path,
    *,
    annotations: Path | None = None,
    clips: int = SAMPLE,
    everything: bool = False,
    wanted: Sequence[str] = (),
    on_clip: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Write the page of the store at ``location`` to ``out``, atomically.

    ``clips`` of its clips have pictures and a detail (those in ``wanted`` always); with ``everything`` all have
    pictures. A page that might exceed ``LARGEST`` bytes lists a sample of the clips and says so; its numbers are of all
    clips. ``on_clip`` reports progress: on annotated clips, then on pictures and details. Raises ``ReportError``,
    before any work, for a wrong argument, and if the pictures might exceed ``LARGEST`` bytes without ``everything``.
    """
    store = open_store(location)
    _check(store, out, clips, everything)
    wanted_rows = [store.row(id) for id in wanted]
    try:
        known = read_annotations(annotations) if annotations else None
    except AnnotationError as error:
        raise ReportError(str(error)) from None
    document, counts = collect(store, known, clips, everything, wanted_rows, on_clip)
    page = render(document)
    with atomic_write(out) as part:
        part.write_bytes(page)
    return Report(str(out), len(page), len(store.ids), *counts, document["notices"])


def _check(store: Store, out: Path, clips: int, everything: bool) -> None:
    if clips < 0:
        raise ReportError(f"--clips {clips}: give a number of at least 0")
    if out.is_dir() or not out.parent.is_dir():
        what = (
            "is a folder; name a file"
            if out.is_dir()
            else f"the folder {str(out.parent)!r} does not exist; create it first"
        )
        raise ReportError(f"--out {str(out)!r}: {what}")
    each = clip_cards.row_bytes(store.recipe) + clip_cards.picture_bytes(store.recipe)
    might = min(clips, len(store.ids)) * each
    if might > LARGEST and not everything:
        raise ReportError(
            f"--clips {clips}: the pictures of {min(clips, len(store.ids))} clips might take {might / 1e6:.0f} MB, "
            f"more than {LARGEST / 1e6:.0f}; give --clips {LARGEST // each}, or --all for a page of any size"
        )


def collect(
    store: Store,
    known: dict[str, Any] | None,
    clips: int,
    everything: bool,
    wanted: Sequence[int],
    on_clip: Callable[[int, int], None],
) -> tuple[dict[str, Any], tuple[int, int, int]]:
    """The document of the page, and the numbers of clips listed, with pictures and with details."""
    reader = ClipReader(store)
    tables = reader.tables
    if known is not None:
        videos = reader.store.table("video").tolist()
        known = of_windows(known, reader.ids, videos, tables["first_frame"], tables["num_frames"])
    matched = match(known or {}, reader.ids, tables["num_frames"], tables["frame_size"])
    boxes_of = stored_boxes(reader.box_record, reader.recipe, reader.ids, tables)
    kept = coverage(matched, reader.recipe, tables, boxes_of, on_clip)
    problems = mismatches(kept, reader.recipe, reader.ids, tables, matched)
    detailed = clip_cards.sample(reader, clips, wanted, actor_coverage.worst_first(kept, reader.main_view))
    pictured: Sequence[int] = range(len(reader.ids)) if everything else detailed
    summary = summary_of(reader.progress, store.location, window_videos(store))
    noted = overview.noted(summary, reader.ids)
    each = clip_cards.listed_bytes(reader, actor_coverage.clip_bytes(kept) if known else 0)
    listed = range(len(reader.ids)) if everything else _listed(reader, detailed, noted, each)
    place = {row: number for number, row in enumerate(listed)}
    maker = clip_cards.Gallery(reader, dict(matched.boxes))
    total = len(pictured) + len(detailed)
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        on_clip(done, total)

    thumbnails = maker.thumbnails(pictured, count)
    details = {}
    for row in detailed:
        details[place[row]] = maker.detail(row)
        count()
    document = {
        "head": overview.overview(store, reader, summary, place),
        "rows": clip_cards.rows(reader, listed),
        "boxes": clip_cards.boxes(reader, listed, maker.problems),
        "thumbnails": {view: {place[row]: made for row, made in of.items()} for view, of in thumbnails.items()},
        "details": details,
        "actors": actor_coverage.as_json(kept, tables["label"], problems, place) if known is not None else None,
    }
    with_picture = {row for pictures in thumbnails.values() for row in pictures}
    document["notices"] = _notices(reader, document, len(problems), maker.problems, len(with_picture))
    return document, (len(listed), len(with_picture), len(details))


def _listed(reader: ClipReader, detailed: Sequence[int], noted: Sequence[int], each: int) -> Sequence[int]:
    """The rows of the clips that a page lists: all if ``each`` of them fits in ``LARGEST`` bytes, else a sample.

    A sample has the clips with a detail, then as many as there is room for of the first that are quarantined or noted,
    and of all others, evenly spread.
    """
    clips = len(reader.ids)
    room = LARGEST - len(detailed) * clip_cards.picture_bytes(reader.recipe)
    most = max(len(detailed), room // each)
    if clips <= most:
        return range(clips)
    chosen = dict.fromkeys(detailed)
    quarantined = np.flatnonzero(reader.tables["state"] == State.QUARANTINED)[:MAX_QUARANTINED].tolist()
    chosen |= dict.fromkeys([*quarantined, *noted][: (most - len(chosen)) // 2])
    others = np.setdiff1d(np.arange(clips), np.array(list(chosen), np.int64))
    return sorted([*chosen, *others[spread(len(others), most - len(chosen))].tolist()])


def _notices(
    reader: ClipReader, document: dict[str, Any], mismatches: int, problems: list[str], pictures: int
) -> list[str]:
    states, clips, listed = document["head"]["states"], len(reader.ids), len(document["rows"]["id"])
    notices = []
    if listed < clips:
        notices.append(
            f"The page lists {listed:,} of {clips:,} clips: those with pictures, some of those quarantined or noted, "
            "and others spread evenly. What it counts, its classes and its maps are of all clips."
        )
    if not clips:
        notices.append("This store has no clips.")
    elif states["pending"]:
        done = "No clip is done yet" if not states["done"] else f"{states['pending']} of {clips} clips are not done yet"
        notices.append(f"{done}: run mocrop preprocess again to resume. The page shows the clips done so far.")
    elif not states["done"]:
        notices.append("No clip is done: all are quarantined for the reasons listed below.")
    if clips and not pictures:
        notices.append("No frames are shown: they are missing or cannot be read. Boxes are drawn on empty frames.")
    elif reader.full is None:
        notices.append("The store has no view of whole frames: boxes are drawn on empty frames, next to the crops.")
    if mismatches:
        notices.append(f"{mismatches} annotated clips do not match the store, or only in part: see Actors.")
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        notices.append(f"Not everything could be read; run mocrop verify for details. {'; '.join(problems[:5])}{more}")
    return notices


def render(document: dict[str, Any]) -> bytes:
    """The page of a document. Text from the store appears only in the JSON and, escaped, in the title."""
    files = resources.files("pipelines.report") / "assets"
    style = (files / "page.css").read_text(encoding="utf-8")
    scripts = "\n".join((files / name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{scripts}\n}})();\n'
    parts = {
        "title": html.escape(f"{document['head']['store']} · mocrop report"),
        "policy": (
            f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
            "base-uri 'none'; form-action 'none'"
        ),
        "style": style,
        "data": as_script_data(document),
        "script": script,
    }
    page = (files / "page.html").read_text(encoding="utf-8")
    pieces = page.split("{{")
    filled = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("}}")
        filled += [parts[name], rest]
    return "".join(filled).encode()


def as_script_data(value: object) -> str:
    """JSON that is safe in a script element: ASCII only, and nothing in it can end the element or start another."""
    dense = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return dense.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
