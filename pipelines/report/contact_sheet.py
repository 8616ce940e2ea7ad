"""A contact sheet, many clips with their densities and boxes in one picture, for Prefect's page of a run."""

from __future__ import annotations

import base64
import io

from PIL import Image, ImageDraw, ImageFont

from mocrop_core import SOURCE_FALLBACK
from pipelines.report.clip_cards import sample
from pipelines.report.clip_reader import ClipReader
from pipelines.report.drawing import frame_picture, map_name

CLIPS = 24
_ACROSS, _WIDTH, _HEIGHT, _CAPTION, _GAP = 6, 200, 150, 34, 8  # px, except for the first
_INK, _FAINT, _PAPER = (20, 20, 20), (110, 104, 96), (255, 255, 255)


def contact_sheet(reader: ClipReader, clips: int = CLIPS) -> Image.Image | None:
    """Up to ``clips`` clips of a store with the boxes of its main view; None if no clip has a box yet.

    The clips are those of `clip_cards.sample`: the lowest scores, fallbacks, and others spread evenly, in the store's
    order.
    """
    view = reader.main_view
    boxes = {row: box for row in sample(reader, clips, (), ()) if (box := reader.middle_box(view, row))}
    if not boxes:
        return None
    across, lines = min(_ACROSS, len(boxes)), -(-len(boxes) // _ACROSS)
    tile = _WIDTH + _GAP, _HEIGHT + _CAPTION + _GAP
    sheet = Image.new("RGB", (across * tile[0] + _GAP, lines * tile[1] + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, (row, box) in enumerate(boxes.items()):
        left, top = (
            _GAP + place * step for place, step in zip((number % _ACROSS, number // _ACROSS), tile, strict=True)
        )
        height, width = reader.frame_size(row)
        scale = min(_WIDTH / width, _HEIGHT / height)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        picture = frame_picture(reader, row, {view: box}, size)
        sheet.paste(picture, (left + (_WIDTH - picture.width) // 2, top + (_HEIGHT - picture.height) // 2))
        draw.text((left, top + _HEIGHT + 3), _fitting(reader.ids[row].rpartition("/")[2], font), fill=_INK, font=font)
        draw.text((left, top + _HEIGHT + 18), _about(reader, view, row), fill=_FAINT, font=font)
    return sheet


def data_url(image: Image.Image) -> str:
    """A picture as a ``data:`` URL with JPEG content."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def about_sheet(reader: ClipReader) -> str:
    """A description of the sheet in one paragraph of Markdown."""
    view = reader.main_view
    return (
        f"Boxes of the view `{view}` on the middle frame of each clip, over the {map_name(reader, view)} (orange). "
        "They include the clips with the least motion inside the box; the others are spread evenly over the data "
        "set. `mocrop report` makes a page of all clips."
    )


def _about(reader: ClipReader, view: str, row: int) -> str:
    if reader.tables[f"views/{view}/source"][row] == SOURCE_FALLBACK:
        return "no motion: a centre box"
    score = reader.score(view, row)
    return "" if score is None else f"{score:.0%} of the motion inside"


def _fitting(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    while len(name) > 2 and font.getlength(name) > _WIDTH:
        name = f"{name[:-2]}…"
    return name
