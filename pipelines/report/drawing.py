"""Pictures and videos of clips, drawn with Pillow: thumbnails for pages, figures for papers and issues."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from data_specs.recipes import Encode, MotionView
from data_specs.stored import StoreError, is_url
from mocrop_core import ActorMethod, spread
from pipelines.media import decoder
from pipelines.media.encoder import write_video
from pipelines.report.clip_reader import Boxes, ClipReader, Corners
from pipelines.stages.h264_cache import Folders, target_path

Picture = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

VIDEO_RATE = Fraction(25)  # frames per second; the store does not keep the clip's rate
HELD_FRAMES = 100_000  # maximum frames of a video from cached frames: one hour
ARROW_TIMES = 2  # length of drawn arrows relative to the motion
_ARROWS = 400  # maximum arrows in one frame of a video
_QUALITIES = (80, 65, 50, 35, 22, 10, 1)
_HEIGHT = 360  # of the pictures of a figure, px
_MARGIN, _GAP, _CAPTION, _TITLE = 24, 16, 50, 40
_IN_A_LINE = 3  # pictures of a figure
_HOT = (255, 106, 43)
_MOTION_COLOURS = (_HOT, (177, 140, 255), (47, 196, 214), (255, 210, 63))
_FIXED_COLOURS = {"centre": (255, 255, 255), "random": (200, 200, 200), "full": (150, 150, 150)}


def fitting(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height with the aspect ratio of ``size`` (width, height), ``side`` as the longer one, at least 1 px."""
    longer = max(size)
    width, height = (max(1, round(length * side / longer)) for length in size)
    return width, height


def webp(picture: Picture, size: tuple[int, int], most: int) -> bytes:
    """The picture (h, w, 3), RGB, at ``size`` (width, height) px as WebP of at most ``most`` bytes.

    It has the best of seven qualities that fits; if none does, the size is halved until one does.
    """
    image = Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS)
    low, high, best, data = 0, len(_QUALITIES) - 1, b"", b""
    while low <= high:
        middle = (low + high) // 2
        data = _encoded(image, _QUALITIES[middle])
        if len(data) <= most:
            best, high = data, middle - 1
        else:
            low = middle + 1
    if best or size == (1, 1):
        return best or data
    return webp(picture, (max(1, size[0] // 2), max(1, size[1] // 2)), most)


def _encoded(image: Image.Image, quality: int) -> bytes:
    data = io.BytesIO()
    image.save(data, "WEBP", quality=quality, method=4)
    return data.getvalue()


def view_colour(reader: ClipReader, view: str) -> Colour:
    """The colour of a view's box: orange for the first motion view, greys for fixed ones."""
    names = [motion.name for motion in reader.motion_views]
    if view in names:
        return _MOTION_COLOURS[names.index(view) % len(_MOTION_COLOURS)]
    return _FIXED_COLOURS[reader.recipe.view(view).kind]


def map_name(reader: ClipReader, view: str) -> str:
    """A description of the map of a motion view."""
    spec = reader.recipe.view(view)
    relative = isinstance(spec, MotionView) and isinstance(spec.method(), ActorMethod)
    return "map of motion relative to the camera" if relative else "density of motion"


def draw_box(image: Image.Image, box: Corners, colour: Colour, scale: tuple[float, float]) -> None:
    """Draw a box, given in frame pixels, with a dark edge onto a picture that is ``scale`` (x, y) times the frame."""
    draw = ImageDraw.Draw(image)
    x0, y0, x1, y1 = box
    edges = (round(x0 * scale[0]), round(y0 * scale[1]), round(x1 * scale[0]) - 1, round(y1 * scale[1]) - 1)
    draw.rectangle(edges, outline=(0, 0, 0), width=5)
    draw.rectangle((edges[0] + 1, edges[1] + 1, edges[2] - 1, edges[3] - 1), outline=colour, width=3)


def draw_density(image: Image.Image, density: npt.NDArray[Any]) -> Image.Image:
    """The picture with a density map (rows, cols) over it: orange, most opaque in the fullest cell."""
    top = float(density.max())
    if not top:
        return image
    alpha = np.round(168 * (density / top) ** 1.3).astype(np.uint8)
    mask = Image.fromarray(alpha).resize(image.size, Image.Resampling.NEAREST)
    return Image.composite(Image.new("RGB", image.size, _HOT), image, mask)


def draw_vectors(image: Image.Image, vectors: npt.NDArray[Any], scale: tuple[float, float]) -> None:
    """Draw vectors (``VECTOR``) as arrows from the block's earlier place to the block, ``ARROW_TIMES`` as long."""
    draw = ImageDraw.Draw(image)
    for x, y, dx, dy in zip(vectors["x"], vectors["y"], vectors["dx"], vectors["dy"], strict=True):
        end = np.array([x * scale[0], y * scale[1]])
        way = -np.array([dx * scale[0], dy * scale[1]]) * ARROW_TIMES
        length = float(np.hypot(*way))
        if not length:
            continue
        along = way / length * min(6.0, 0.6 * length)
        across = np.array([-along[1], along[0]]) * 0.6
        lines = [(end - way, end), (end - along + across, end), (end - along - across, end)]
        for colour, width in (((0, 0, 0), 4), ((255, 255, 255), 2)):
            for start, stop in lines:
                draw.line([tuple(start.tolist()), tuple(stop.tolist())], fill=colour, width=width)


@dataclass(frozen=True, slots=True)
class _Panel:
    image: Image.Image
    name: str
    about: str


def clip_figure(reader: ClipReader, id: str, views: Sequence[str]) -> Image.Image:
    """One clip as a figure: its middle frame with the density and the boxes of ``views``, and their crops next to it.

    Without cached frames the background is grey. ``StoreError`` if the clip has no box in any of the views.
    """
    row = reader.store.row(id)
    boxes = {view: box for view in views if (box := reader.middle_box(view, row))}
    if not boxes:
        reason = str(reader.tables["reason"][row])
        why = f"it is quarantined ({reason})" if reason else "it is not done yet"
        raise StoreError(f"clip {id!r} has no box in {', '.join(views)}: {why}")
    panels = [_frame_panel(reader, row, boxes), *(_crop_panel(reader, row, view, box) for view, box in boxes.items())]
    lines = [panels[first : first + _IN_A_LINE] for first in range(0, len(panels), _IN_A_LINE)]
    width = max(sum(panel.image.width + _GAP for panel in line) - _GAP for line in lines) + 2 * _MARGIN
    line_height = _HEIGHT + _CAPTION + _GAP
    figure = Image.new("RGB", (width, _TITLE + len(lines) * line_height - _GAP + 2 * _MARGIN), (255, 255, 255))
    draw = ImageDraw.Draw(figure)
    large, small = ImageFont.load_default(24), ImageFont.load_default(17)
    draw.text((_MARGIN, _MARGIN - 4), id, fill=(20, 20, 20), font=large)
    for number, line in enumerate(lines):
        left, top = _MARGIN, _MARGIN + _TITLE + number * line_height
        for panel in line:
            figure.paste(panel.image, (left, top))
            draw.text((left, top + _HEIGHT + 6), panel.name, fill=(20, 20, 20), font=small)
            draw.text((left, top + _HEIGHT + 27), panel.about, fill=(110, 104, 96), font=small)
            left += panel.image.width + _GAP
    return figure


def frame_picture(reader: ClipReader, row: int, boxes: dict[str, Corners], size: tuple[int, int]) -> Image.Image:
    """A clip's middle frame at ``size`` (width, height) px, with a map of motion and the boxes.

    The map is the main view's, else that of the first view that has one. Without cached whole frames the background is
    grey. The box of the view of whole frames is not drawn.
    """
    height, width = reader.frame_size(row)
    slot = reader.middle_slot(reader.full, row) if reader.full else None
    if slot is not None and reader.full:
        image = Image.fromarray(reader.picture(reader.full, row, slot)).resize(size, Image.Resampling.LANCZOS)
    else:
        image = Image.new("RGB", size, (120, 116, 110))
    scored = _scored(reader, row, boxes)
    if scored and (density := reader.density(scored, slice(row, row + 1))) is not None:
        image = draw_density(image, density[0])
    for view, box in boxes.items():
        if view != reader.full:
            draw_box(image, box, view_colour(reader, view), (size[0] / width, size[1] / height))
    return image


def _scored(reader: ClipReader, row: int, boxes: dict[str, Corners]) -> str | None:
    """The view whose map is shown: the main view, else the first that has one."""
    views = [view for view in (reader.main_view, *boxes) if view in boxes]
    return next((view for view in views if reader.score(view, row) is not None), None)


def _frame_panel(reader: ClipReader, row: int, boxes: dict[str, Corners]) -> _Panel:
    height, width = reader.frame_size(row)
    image = frame_picture(reader, row, boxes, (max(1, round(width * _HEIGHT / height)), _HEIGHT))
    slot = reader.middle_slot(reader.full, row) if reader.full else None
    name = f"frame {slot.frame}" if slot else "no cached frame"
    scored = _scored(reader, row, boxes)
    about = f"{map_name(reader, scored)}, {scored}" if scored else f"{width}×{height} px"
    return _Panel(image, name, about)


def _crop_panel(reader: ClipReader, row: int, view: str, box: Corners) -> _Panel:
    size = (max(1, round((box[2] - box[0]) * _HEIGHT / (box[3] - box[1]))), _HEIGHT)
    slot = reader.middle_slot(view, row)
    if slot is None:
        image = Image.new("RGB", size, (120, 116, 110))
    else:
        image = Image.fromarray(reader.picture(view, row, slot)).resize(size, Image.Resampling.LANCZOS)
    draw_box(image, (0, 0, *size), view_colour(reader, view), (1, 1))
    height, width = reader.frame_size(row)
    area = (box[2] - box[0]) * (box[3] - box[1]) / (height * width)
    score = reader.score(view, row)
    motion = f", motion {score:.1%}" if score is not None else ""
    moving = f", moving over {len(reader.places(view, row))} positions" if reader.path(view, row) else ""
    return _Panel(image, view, f"area {area:.0%}{motion}{moving}")


def write_figure(image: Image.Image, target: Path) -> None:
    """Write a picture as PNG."""
    image.save(target, "PNG")


def write_clip_video(
    reader: ClipReader, id: str, views: Sequence[str], target: Path, work_dir: str | None = None
) -> bool:
    """Write a clip with the boxes of ``views`` and each frame's vectors drawn in; return whether its H.264 file exists.

    If it is missing in ``work_dir`` (by default STORE.work), each cached whole frame is shown until the next. ``.mp4``
    is H.264, ``.avi`` MPEG-4; ``StoreError`` for another name or a clip without boxes or pictures.
    """
    codecs = {".mp4": "libx264", ".avi": "mpeg4"}
    if target.suffix not in codecs:
        raise StoreError(f"--video {str(target)!r}: the name must end in .mp4 or .avi")
    row = reader.store.row(id)
    shown = [view for view in views if reader.box(view, row)]
    path = h264_path(reader, row, work_dir)
    if (
        not shown
        or not reader.has_vectors(row)
        or (path is None and not (reader.full and reader.slots(reader.full, row)))
    ):
        reason = str(reader.tables["reason"][row]) or "no H.264 file, or no whole frames in the store"
        raise StoreError(f"clip {id!r} cannot be drawn as a video: {reason}")
    count = int(reader.tables["num_frames"][row])
    if path is None and count > HELD_FRAMES:
        raise StoreError(f"clip {id!r}: {count} frames without its H.264 file are more than the {HELD_FRAMES} to draw")
    frames = _decoded(path, count) if path else _held(reader, row, count)
    boxes = [(view_colour(reader, view), reader.boxes_at(view, row, range(count))) for view in shown]
    drawn = _drawn(frames, reader.fast_vectors(row), [(colour, box) for colour, box in boxes if box is not None])
    write_video(target, drawn, VIDEO_RATE, codec=codecs[target.suffix])  # type: ignore[arg-type]
    return path is not None


def h264_path(reader: ClipReader, row: int, work_dir: str | None) -> Path | None:
    """The path of a clip's H.264 file; None if it is missing."""
    encode = reader.recipe.transcode
    shard = row // reader.recipe.clips_per_shard
    record = reader.records(shard).transcode.get(shard)
    known = record.clips.get(reader.ids[row]) if record else None
    location = reader.store.location.rstrip("/")
    folder = work_dir or (None if is_url(location) else f"{location}.work")
    if not isinstance(encode, Encode) or known is None or folder is None:
        return None
    (clip,) = reader.store.clips([row])
    path = target_path(clip, known.source, encode, reader.store.attrs["software"]["ffmpeg"], Folders("", folder))
    return path if path.is_file() else None


def _decoded(path: Path, count: int) -> Iterator[Picture]:
    for _, picture in decoder.rgb_frames(path, range(count), None):
        yield picture


def _held(reader: ClipReader, row: int, count: int) -> Iterator[Picture]:
    assert reader.full is not None
    height, width = reader.frame_size(row)
    slots = reader.slots(reader.full, row)
    following = [slot.frame for slot in slots[1:]] + [count]
    shown = 0
    for slot, end in zip(slots, following, strict=True):
        image = Image.fromarray(reader.picture(reader.full, row, slot)).resize(
            (width, height), Image.Resampling.LANCZOS
        )
        for _ in range(shown, end):
            yield np.asarray(image)
        shown = end


def _drawn(
    frames: Iterator[Picture], vectors: npt.NDArray[Any], boxes: list[tuple[Colour, Boxes]]
) -> Iterator[Picture]:
    for number, picture in enumerate(frames):
        height, width = picture.shape[:2]
        times = max(1, round(480 / height))
        image = Image.fromarray(picture).resize((width * times, height * times), Image.Resampling.BILINEAR)
        begin, end = np.searchsorted(vectors["frame"], [number, number + 1])
        here = vectors[begin:end]
        draw_vectors(image, here[spread(len(here), _ARROWS)], (times, times))
        for colour, box in boxes:
            draw_box(image, box[number].tolist(), colour, (times, times))
        yield np.asarray(image)
