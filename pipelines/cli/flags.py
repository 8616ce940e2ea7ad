"""Flags and arguments that several commands share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from data_specs.locations import expanded


def expanded_path(path: Any) -> Any:
    """The path given by a flag, with ``~`` expanded."""
    try:
        return None if path is None else type(path)(expanded(str(path)))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def path_argument(help: str, metavar: str) -> Any:
    """A positional argument that is a path."""
    return typer.Argument(help=help, metavar=metavar, callback=expanded_path)


def path_option(help: str, metavar: str | None = None) -> Any:
    """A flag whose value is a path."""
    return typer.Option(help=help, metavar=metavar, callback=expanded_path)


StoreArgument = Annotated[str, path_argument("The Zarr store: a folder, or s3://bucket/name.zarr.", metavar="STORE")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Source = Annotated[str, path_option("Folder of the videos: <Class>/<clip>.avi, or any layout with --clips.")]
StoreOption = Annotated[str, path_option("The Zarr store to create or continue.")]
Splits = Annotated[str | None, path_option("Folder of the split lists (trainlist01.txt …).")]
Clips = Annotated[
    str | None,
    path_option("Clip table, CSV or JSON Lines: path, label and part (train, val, test) of each clip.", metavar="FILE"),
]
ClassNames = Annotated[
    str | None,
    path_option("Class names for the clip table, one per line; labels may then be numbers from 0.", metavar="FILE"),
]
RecipeOption = Annotated[str, path_option("What to build: ucf101, smoke, demo, or a TOML file.")]
WorkDir = Annotated[str | None, path_option("Folder for the H.264 files [default: STORE.work].")]
Workers = Annotated[int | None, typer.Option(min=1, help="Number of worker processes [default: one per core].")]
Limit = Annotated[int | None, typer.Option(min=1, help="Process only this many clips, spread evenly over the ids.")]
MaxMissing = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        help="Share of missing frames above which a clip is quarantined [default: the recipe's, 0.25].",
    ),
]
DiscardH264 = Annotated[
    bool,
    typer.Option(
        "--discard-h264",
        help="Do a shard's stages in one task and keep no H.264 files; new views transcode again.",
    ),
]
Scratch = Annotated[
    str | None,
    path_option("With --discard-h264: folder on each worker for H.264 files in use [default: TMPDIR]."),
]
Strict = Annotated[bool, typer.Option("--strict", help="Fail if listed clips are missing.")]
MaxQuarantined = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Share of quarantined clips above which the run fails.")
]
