"""The command for one video: ``crop``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli.flags import path_argument
from pipelines.cli.output import print_json, say
from pipelines.errors import RunError
from pipelines.one_video.methods import DEFAULT, list_methods

app = typer.Typer()


@app.command(epilog="Example: mocrop crop in.mp4 out.mp4 --area 0.5 --size 224x224")
def crop(
    context: typer.Context,
    source: Annotated[str, path_argument("The video: a file, or s3://bucket/clip.mp4.", metavar="IN")],
    target: Annotated[Path | None, path_argument("The file to write: .mp4, .m4v, .mov or .mkv.", metavar="OUT")] = None,
    method: Annotated[str, typer.Option(help=f"How the box is chosen: {', '.join(list_methods())}.")] = DEFAULT,
    area: Annotated[
        float | None,
        typer.Option(help="Area of the box as a share of the frame's, above 0, at most 1 [default: the method's]."),
    ] = None,
    segments: Annotated[
        int,
        typer.Option(min=1, max=200, help="Number of equal parts of the video; the box moves from part to part."),
    ] = 1,
    size: Annotated[
        str | None,
        typer.Option(
            help="Size of the output, px, to which the box is stretched: width x height, such as 320x240, or one "
            "number for a square; even numbers. (In Python, size is (height, width).) [default: the size of the box]",
            metavar="WxH",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the boxes as JSON and write no video.")] = False,
) -> None:
    """Crop one video to its moving part. The output is H.264, with the source's sound, timestamps and orientation.

    A video whose codec has no motion vectors (HEVC, VP9, AV1) is first transcoded to H.264 in a temporary file. H.264
    needs even sizes: an odd side of the box loses its last column or row.
    """
    from pipelines.cli.progress_bars import frame_progress
    from pipelines.one_video.boxes import method_of
    from pipelines.one_video.crop_videos import check_size, check_target, crop_file

    if target is None and not as_json:
        raise typer.BadParameter("OUT: name the file to write, or pass --json to print only the boxes", ctx=context)
    try:
        chosen, pixels = method_of(method, area, segments), _size(size)
        check_size(pixels)
    except ValueError as error:
        raise typer.BadParameter(str(error), ctx=context) from None
    if target is not None and not as_json:
        try:
            check_target(source, target)
        except ValueError as error:
            raise RunError(str(error)) from None
        if target.exists() and not overwrite:
            raise RunError(f"{str(target)!r} already exists; pass --overwrite to replace it")
    with frame_progress() as show:
        report = crop_file(source, None if as_json else target, chosen, pixels, show)
    for note in report.notes:
        say(f"warning: {note}", file=sys.stderr)
    found = _as_json(source, method, report)
    if as_json:
        print_json(found)
        return
    (height, width), (out_height, out_width) = report.frame_size, pixels or report.even_size
    box = report.choice.box
    where = f"box {', '.join(map(str, box.corners))}"
    if len(found["boxes"]) > 1:
        where = f"a moving box of {box.width}x{box.height} px"
    share = f"{100 * found['area']:.1f} % of {width}x{height} px"
    say(f"{target}: {report.num_frames} frames of {out_width}x{out_height} px; {where} ({share}), {found['source']}")


def _size(text: str | None) -> tuple[int, int] | None:
    """Height and width from ``WxH``, or from one number for a square."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if found is None:
        raise ValueError(f"--size {text!r}: give width and height in px, such as 320x240, or one number for a square")
    return int(found[2] or found[1]), int(found[1])


def _as_json(source: str, method: str, report: Any) -> dict[str, Any]:
    from data_specs.locations import shown
    from mocrop_core.method import SOURCE_MOTION

    choice = report.choice
    return {
        "video": shown(source),
        "method": method,
        "segments": getattr(report.method, "segments", 1),
        "frame_size": list(report.frame_size),
        "area": round(choice.box.area / (report.frame_size[0] * report.frame_size[1]), 6),
        "num_frames": report.num_frames,
        "source": "motion" if choice.source == SOURCE_MOTION else "fallback: nothing moves",
        "score": None if choice.source != SOURCE_MOTION else float(choice.score),
        "boxes": list(_runs(choice, report.num_frames)),
        "notes": list(report.notes),
    }


def _runs(choice: Any, num_frames: int) -> Iterator[dict[str, Any]]:
    """The boxes as runs of consecutive frames with the same box."""
    boxes = (choice.path.box_at(frame) if choice.path else choice.box for frame in range(num_frames))
    stop = 0
    for box, frames in groupby(boxes):
        start, stop = stop, stop + sum(1 for _ in frames)
        yield {"start": start, "stop": stop, "box": list(box.corners)}
