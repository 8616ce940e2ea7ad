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


StoreArgument = Annotated[
    str,
    typer.Argument(help="The Zarr store: a folder, or s3://bucket/name.zarr.", metavar="STORE", callback=expanded_path),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Source = Annotated[
    str,
    typer.Option(help="Folder of the videos: <Class>/<clip>.avi, or any layout with --clips.", callback=expanded_path),
]
StoreOption = Annotated[str, typer.Option(help="The Zarr store to create or continue.", callback=expanded_path)]
Splits = Annotated[
    str | None, typer.Option(help="Folder of the split lists (trainlist01.txt …).", callback=expanded_path)
]
Clips = Annotated[
    str | None,
    typer.Option(
        help="Clip table, CSV or JSON Lines: path, label and part (train, val, test) of each clip.",
        metavar="FILE",
        callback=expanded_path,
    ),
]
ClassNames = Annotated[
    str | None,
    typer.Option(
        help="Class names for the clip table, one per line; labels may then be numbers from 0.",
        metavar="FILE",
        callback=expanded_path,
    ),
]
RecipeOption = Annotated[
    str, typer.Option(help="What to build: ucf101, smoke, or a TOML file.", callback=expanded_path)
]
WorkDir = Annotated[
    str | None, typer.Option(help="Folder for the H.264 files [default: STORE.work].", callback=expanded_path)
]
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
Strict = Annotated[bool, typer.Option("--strict", help="Fail if listed clips are missing.")]
MaxQuarantined = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Share of quarantined clips above which the run fails.")
]
