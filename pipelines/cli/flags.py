"""Flags and arguments that several commands share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from data_specs.locations import expanded


def expanded_path(path: Any) -> Any:
    """The path that a flag names, ``~`` expanded."""
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
    str, typer.Option(help="Folder of the videos: <Class>/<clip>.avi, or what --clips lists.", callback=expanded_path)
]
StoreOption = Annotated[str, typer.Option(help="Where the Zarr store is, or is to be made.", callback=expanded_path)]
Splits = Annotated[
    str | None, typer.Option(help="Folder of the split lists (trainlist01.txt …).", callback=expanded_path)
]
Clips = Annotated[
    str | None,
    typer.Option(
        help="Clip table, CSV or JSON Lines: path and label of each clip, and its part (train, val, test).",
        metavar="FILE",
        callback=expanded_path,
    ),
]
ClassNames = Annotated[
    str | None,
    typer.Option(
        help="Class names of the clip table, one a line; labels may then be numbers from 0.",
        metavar="FILE",
        callback=expanded_path,
    ),
]
RecipeOption = Annotated[str, typer.Option(help="ucf101, smoke, or a TOML file.", callback=expanded_path)]
WorkDir = Annotated[
    str | None, typer.Option(help="Folder for the H.264 files [default: STORE.work].", callback=expanded_path)
]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes [default: one a core].")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only so many clips, spread evenly over the ids.")]
MaxMissing = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        help="Share of its frames that a clip may lack before it is quarantined [default: the recipe's, 0.25].",
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse lists that name missing clips.")]
MaxQuarantined = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Share of quarantined clips above which the run fails.")
]
