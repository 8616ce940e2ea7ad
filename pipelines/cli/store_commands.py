"""The commands for existing stores: contents, verification, pictures."""

from __future__ import annotations

import csv
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data_specs.locations import Linked
from data_specs.stored import StoreError, is_url, open_store, shown
from data_specs.text import csv_cell
from pipelines.cli.flags import JsonFlag, StoreArgument, WorkDir, path_argument, path_option
from pipelines.cli.output import print_json, print_summary, say
from pipelines.store.software import mixed

if TYPE_CHECKING:
    from pipelines.store.record_index import Known

app = typer.Typer()


@app.command(epilog="Example: mocrop status ucf101.zarr --json")
def status(store: StoreArgument, work_dir: WorkDir = None, as_json: JsonFlag = False) -> None:
    """Show the progress of a store. Counts clips and shards; lists quarantined clips with reasons, and notes.

    Records that the index in the work folder knows are not read again, which is faster for many clips.
    """
    from pipelines.store.summary import summarise

    print_summary(summarise(store, _known(store, work_dir)), as_json)


def _known(store: str, work_dir: str | None) -> Known | None:
    """What the index in the work folder knows of a store's records; None if it cannot be read, or is a link."""
    from pipelines.runs.cleanup import work_folder
    from pipelines.store.record_index import RecordIndex

    if work_dir is None and is_url(store):
        return None
    location = store if is_url(store) else str(Path(store).resolve())
    try:
        return RecordIndex(str(work_folder(location, work_dir)), location).load()
    except (Linked, OSError):
        return None


@app.command(epilog="Example: mocrop verify ucf101.zarr. The next mocrop preprocess repairs what it finds.")
def verify(store: StoreArgument, as_json: JsonFlag = False) -> None:
    """Check every byte of a store. Lists wrong chunks, fingerprints and counts, with exit status 1."""
    from pipelines.cli.progress_bars import count_progress
    from pipelines.store.summary import summarise
    from pipelines.store.verify import verify as find_faults

    with count_progress("verify", "records") as show:
        faults = find_faults(store, show)
    if as_json:
        print_json([{"where": fault.where, "what": fault.what} for fault in faults])
    else:
        for fault in faults:
            say(f"{fault.where}: {fault.what}")
        say(f"{len(faults)} faults" if faults else "OK: no problems found")
        for line in [] if faults else mixed(summarise(store).software):
            say(f"  {line}")
    if faults:
        if not as_json:
            say("run the same mocrop preprocess command to redo only these parts")
        raise typer.Exit(1)


@app.command(epilog="Example: mocrop gc ucf101.zarr, then with --yes to remove the listed files.")
def gc(
    store: StoreArgument,
    work_dir: WorkDir = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove the listed files.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """List or remove unneeded files. These are stale H.264 files in the work folder, and temporary files."""
    from pipelines.disk_space import mebibytes
    from pipelines.runs.cleanup import clear, find_waste

    waste = clear(store, work_dir) if yes else find_waste(store, work_dir)
    if as_json:
        print_json([{"path": str(one.path), "bytes": one.bytes, "why": one.why} for one in waste])
    else:
        for one in waste:
            say(f"{one.path}: {one.bytes:,} bytes, {one.why}")
    if not as_json:
        files = f"{len(waste)} {'file' if len(waste) == 1 else 'files'}, {mebibytes(sum(one.bytes for one in waste))}"
        done = "removed" if yes else "to remove with --yes"
        say(f"{files}, {done}" if waste else "nothing to remove")


@app.command(epilog="Example: mocrop boxes ucf101.zarr --view mocrop --csv > boxes.csv")
def boxes(
    store: StoreArgument,
    view: Annotated[str | None, typer.Option(help="Only this view.")] = None,
    clip: Annotated[str | None, typer.Option(help="Only the clip with this id.")] = None,
    by_frame: Annotated[bool, typer.Option("--frames", help="One row per cached frame, with its box.")] = False,
    as_json: JsonFlag = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    png: Annotated[
        Path | None, path_option("Draw the clip of --clip: a frame with density and boxes, and its crops.")
    ] = None,
    video: Annotated[
        Path | None,
        path_option("Write the clip of --clip with its box and vectors drawn in: .mp4 or .avi, 25 frames per second."),
    ] = None,
    work_dir: WorkDir = None,
) -> None:
    """List the boxes of a store. They are half-open, in px of the H.264 frame; --png and --video draw one clip."""
    from pipelines.cli.tables import box_rows, print_table

    if png or video:
        _draw(store, view, clip, png, video, work_dir)
        return
    rows = box_rows(open_store(store), view, clip, by_frame)
    if by_frame and not rows:
        raise StoreError(f"--frames: no frame is cached yet in {shown(store)!r}; finish mocrop preprocess first")
    if as_json:
        print_json(rows)
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows)
    else:
        print_table(rows)


def _draw(
    store: str, view: str | None, clip: str | None, png: Path | None, video: Path | None, work_dir: str | None
) -> None:
    from pipelines.report import drawing
    from pipelines.report.clip_reader import ClipReader

    if clip is None:
        raise StoreError("--png and --video draw one clip: name it with --clip ID")
    opened = open_store(store)
    views = [opened.view(view).name] if view else opened.views
    reader = ClipReader(opened)
    if png:
        drawing.write_figure(drawing.clip_figure(reader, clip, views), png)
        say(png)
    if video:
        if not drawing.write_clip_video(reader, clip, [view or reader.main_view], video, work_dir):
            say("H.264 file not found; using cached frames", file=sys.stderr)
        say(video)


@app.command(epilog="Example: mocrop report ucf101.zarr --out report.html --annotations ucf101_24.json")
def report(
    store: StoreArgument,
    out: Annotated[Path, path_option("The HTML file to write.", metavar="FILE.html")],
    annotations: Annotated[
        Path | None,
        path_option("Actor boxes in any format of mocrop evaluate, to show how much of the actors is kept."),
    ] = None,
    clips: Annotated[
        int, typer.Option(min=0, help="Number of clips with pictures: the worst ones and a sample of the rest.")
    ] = 300,
    clip: Annotated[list[str] | None, typer.Option(help="Id of a clip to show with pictures; may be repeated.")] = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Show pictures of every clip (4.5 kB per clip), and allow a page of more than 64 MB."
        ),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write a self-contained HTML report. Shows boxes, densities, crops, classes, actors and quarantined clips."""
    from pipelines.cli.progress_bars import count_progress
    from pipelines.report.page import write_report

    with count_progress("report", "steps") as show:
        made = write_report(
            store, out, annotations=annotations, clips=clips, everything=everything, wanted=clip or (), on_clip=show
        )
    if as_json:
        print_json(dataclasses.asdict(made))
        return
    listed = f", {made.listed} listed" if made.listed < made.clips else ""
    say(f"{made.out}: {made.clips} clips{listed}, {made.pictures} with pictures, {made.bytes / 1e6:.1f} MB")
    for notice in made.notices:
        say(f"  {notice}")


@app.command(name="export-npy", epilog="Example: mocrop export-npy ucf101.zarr extract_mvs")
def export_npy(
    store: StoreArgument,
    directory: Annotated[Path, path_argument("Folder to write into.", metavar="DIR")],
    view: Annotated[str | None, typer.Option(help="Motion view [default: the only one].")] = None,
) -> None:
    """Write density maps as .npy files. They have the names that the public MoCrop code's loader expects."""
    from pipelines.cli.tables import export_npy as export

    say(f"{len(export(open_store(store), directory, view))} density maps written to {directory}")
