"""The commands that provide videos and clip tables: ``synth``, ``fetch`` and ``index``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.flags import JsonFlag, path_argument, path_option
from pipelines.cli.output import print_json, say
from pipelines.errors import RunError

app = typer.Typer()


@app.command(epilog="Example: mocrop synth toy --classes 4 --clips-per-class 12")
def synth(
    directory: Annotated[Path, path_argument("Folder to write into.", metavar="DIR")],
    classes: Annotated[int, typer.Option(help="Number of classes, 2 to 12.")] = 4,
    clips_per_class: Annotated[int, typer.Option(help="Clips per class, at least 3.")] = 12,
    seed: Annotated[int, typer.Option(help="Random seed; equal seeds give equal pixels.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Write a small synthetic data set. It has the layout of UCF-101; its classes differ only in what moves."""
    from pipelines.acquire.synthetic import write_dataset
    from pipelines.cli.progress_bars import count_progress

    try:
        with count_progress("synth", "clips") as show:
            made = write_dataset(
                directory,
                classes=classes,
                clips_per_class=clips_per_class,
                seed=seed,
                on_clip=lambda _, done, total: show(done, total),
            )
    except ValueError as error:
        raise RunError(str(error)) from None
    if as_json:
        print_json({"source": str(made.source), "splits": str(made.splits), "annotations": str(made.annotations),
                     "class_names": made.class_names, "clips": made.clips, "frames": made.frames})  # fmt: skip
    else:
        say(f"{made.clips} clips of {len(made.class_names)} classes in {made.source}; lists in {made.splits}")


@app.command(epilog="Example: mocrop fetch ucf101 data. Run the command again to resume a download.")
def fetch(
    dataset: Annotated[str, typer.Argument(help="ucf101 or hmdb51.", metavar="DATASET")],
    directory: Annotated[Path, path_argument("Folder to download into.", metavar="DIR")],
    url: Annotated[
        str | None,
        typer.Option(help="A mirror: the URL of a folder, or of an archive of the videos with the lists next to it."),
    ] = None,
    zip_copy: Annotated[
        bool,
        typer.Option(
            "--zip", help="Download the zip copy of TensorFlow Datasets, which needs no program to unpack it."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download without asking.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Download and unpack a public data set. Shows its source, size and terms of use first."""
    from pipelines.acquire.fetch import fetch as fetch_all
    from pipelines.acquire.fetch import plan_fetch
    from pipelines.cli.progress_bars import byte_progress

    def tell(line: str) -> None:
        say(line, file=sys.stderr, flush=True)

    wanted = plan_fetch(dataset, directory, url, zip_copy=zip_copy)
    for line in wanted.describe():
        tell(line)
    if wanted.items and not yes:
        if not sys.stdin.isatty():
            raise RunError("nothing was downloaded: stdin is not a terminal; pass --yes")
        typer.confirm("Download?", abort=True, err=True)
    with byte_progress() as on_bytes:
        found = fetch_all(wanted, tell, on_bytes)
    for warning in found.warnings:
        tell(f"warning: {warning}")
    if as_json:
        print_json(found.as_json())
    else:
        say(f"{found.clips} clips of {found.classes} classes in {found.source}, lists in {found.splits}")
        say(f"next: {_next(dataset, found.source, found.splits)}")


def _next(dataset: str, source: Path, splits: Path) -> str:
    if dataset == "ucf101":
        return f"mocrop plan --source {source} --splits {splits} --store ucf101.zarr"
    return f"mocrop index {source} --format {dataset} --lists {splits} --out {dataset}.csv"


@app.command(
    epilog="Example: mocrop index hmdb51 --format hmdb51 --lists testTrainMulti_7030_splits --out hmdb51.csv. "
    "Formats: auto, ucf101, hmdb51, jhmdb, kinetics, ssv2, diving48, mmaction2, torchvision (folders "
    "<part>/<class>/), folders (<class>/)."
)
def index(
    source: Annotated[Path, path_argument("Folder of the videos.", metavar="SOURCE")],
    out: Annotated[Path, path_option("Clip table to write: .csv, or .jsonl for JSON Lines.")],
    format: Annotated[
        str, typer.Option(help="Format of the lists; auto recognises it and reports which it is.")
    ] = "auto",
    lists: Annotated[Path | None, path_option("Folder of the lists [default: SOURCE and its subfolders].")] = None,
    val_as_test: Annotated[
        bool,
        typer.Option("--val-as-test", help="Use the validation part for testing, as is usual for Kinetics and SSv2."),
    ] = False,
    windows: Annotated[
        float | None,
        typer.Option(help="Cut each video into windows of this many seconds, for untrimmed videos.", metavar="SECONDS"),
    ] = None,
    stride: Annotated[
        float | None,
        typer.Option(help="Seconds from one window's start to the next one's [default: --windows].", metavar="SECONDS"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing table.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Make a clip table from lists or folders. Recognises those of public data sets, and compares the counts."""
    from pipelines.acquire.index import write_index
    from pipelines.cli.progress_bars import count_progress

    with count_progress("index", "videos") as show:
        written = write_index(
            source,
            out,
            format,
            lists,
            val_as_test=val_as_test,
            overwrite=overwrite,
            windows=windows,
            stride=stride,
            on_video=show,
        )
    if as_json:
        print_json(written.as_json())
        return
    for line in written.lines():
        say(line)
    say(f"written   {written.table} and {written.class_names}")
    say(f"next: mocrop plan --source {source} --clips {written.table} --class-names {written.class_names} --store …")
