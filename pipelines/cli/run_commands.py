"""The commands that make a store: ``plan``, ``preprocess``, ``serve`` and ``demo``."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli.flags import (
    ClassNames,
    Clips,
    DiscardH264,
    JsonFlag,
    Limit,
    MaxMissing,
    MaxQuarantined,
    RecipeOption,
    Scratch,
    Source,
    Splits,
    StoreOption,
    Strict,
    WorkDir,
    Workers,
    path_option,
)
from pipelines.cli.output import print_json, print_summary, say
from pipelines.errors import RunError
from pipelines.execution.process_setup import no_collections, stderr_held_back
from pipelines.runs.options import Options, Request
from pipelines.runs.outcome import TooManyQuarantined

app = typer.Typer()


@app.command(epilog="Example: mocrop plan --source UCF-101 --store ucf101.zarr --splits ucfTrainTestlist")
def plan(
    source: Source,
    store: StoreOption,
    clips: Clips = None,
    class_names: ClassNames = None,
    splits: Splits = None,
    recipe: RecipeOption = "ucf101",
    work_dir: WorkDir = None,
    workers: Workers = None,
    limit: Limit = None,
    discard_h264: DiscardH264 = False,
    scratch: Scratch = None,
    strict: Strict = False,
    max_quarantined: MaxQuarantined = 0.05,
    max_missing: MaxMissing = None,
    as_json: JsonFlag = False,
) -> None:
    """Estimate the time and space of a run. Processes a few clips in a temporary folder; also shows problems."""
    from pipelines.runs.estimate import plan as make_plan

    found = make_plan(Options(source, store, splits, recipe, work_dir, workers, None, limit, strict,
                              max_quarantined=max_quarantined, max_missing=max_missing,
                              clips=clips, class_names=class_names,
                              discard_h264=discard_h264, scratch=scratch))  # fmt: skip
    if as_json:
        print_json(found.as_json())
    else:
        for line in found.lines():
            say(line)
    if found.problems:
        raise typer.Exit(1)


@app.command(
    epilog="Example: mocrop preprocess --source UCF-101 --splits ucfTrainTestlist --store ucf101.zarr. "
    "Run the same command again to resume a run that was stopped or killed."
)
def preprocess(
    source: Source,
    store: StoreOption,
    clips: Clips = None,
    class_names: ClassNames = None,
    splits: Splits = None,
    recipe: RecipeOption = "ucf101",
    work_dir: WorkDir = None,
    workers: Workers = None,
    dask_address: Annotated[
        str | None, typer.Option(help="Dask scheduler that runs the work, such as tcp://host:8786.")
    ] = None,
    limit: Limit = None,
    discard_h264: DiscardH264 = False,
    scratch: Scratch = None,
    strict: Strict = False,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="Process quarantined clips again.")
    ] = False,
    max_quarantined: MaxQuarantined = 0.05,
    max_missing: MaxMissing = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also show Prefect's log.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Make or continue a store. Transcodes to H.264, extracts motion vectors, chooses boxes and caches crops."""
    options = Options(source, store, splits, recipe, work_dir, workers, dask_address, limit, strict,
                      retry_quarantined, max_quarantined, max_missing, clips, class_names,
                      discard_h264, scratch)  # fmt: skip
    with no_collections():  # a large data set is millions of objects
        request = _announced(options)
    dataset = request[0]
    notices = {"warnings": dataset.warnings, "passed_over": [dataclasses.asdict(one) for one in dataset.passed_over]}
    try:
        print_summary(_run(options, verbose, request), as_json, notices)
    except TooManyQuarantined as error:
        print_summary(error.summary, as_json, notices)
        raise


def _announced(options: Options) -> Request:
    """Read the data set and the recipe, and show notices about them."""
    from pipelines.runs.opening import about_store
    from pipelines.runs.options import read_request

    dataset, recipe = read_request(options)
    for notice in dataset.notices:
        say(f"warning: {notice}", file=sys.stderr)
    for notice in about_store(options, recipe):
        say(notice, file=sys.stderr)
    return dataset, recipe


def _flow() -> Any:
    """Import the flow's module; ``RunError`` if Prefect, which reads its settings on import, refuses them."""
    warnings.filterwarnings("ignore", "Failed to create the Prefect home directory")  # a run does not need it
    try:
        with stderr_held_back(), no_collections():
            from pipelines import flow_runs
    except ValueError as error:
        why = " ".join(str(error).split())[:300]
        raise RunError(
            f"Prefect refuses its settings (PREFECT_ variables, profiles.toml, prefect.toml): {why}"
        ) from None
    return flow_runs


def _run(options: Options, verbose: bool, request: Request) -> Any:
    flow_runs = _flow()
    from pipelines.cli.progress_bars import stage_progress

    with stage_progress() as show:
        return flow_runs.run_here(options, show, verbose=verbose, request=request)


@app.command(
    epilog="Example: mocrop serve, then in another terminal: prefect deployment run preprocess-ucf101/local -p …"
)
def serve(
    allow: Annotated[
        list[str] | None,
        typer.Option(
            help="Address that runs may open: a Dask scheduler (tcp://host:8786) or a bucket or prefix "
            "(s3://bucket/prefix). May be repeated.",
            metavar="ADDRESS",
        ),
    ] = None,
) -> None:
    """Serve runs as a Prefect deployment. Its name is preprocess-ucf101/local; starts a server if none answers."""
    _flow().serve(allow=allow or ())


@app.command(epilog="Example: mocrop demo --out demo")
def demo(
    out: Annotated[Path, path_option("Folder to write into.")] = Path("demo"),
) -> None:
    """Try everything on synthetic videos. On a CPU: a store, a report, a short training, a probe of the views."""
    from pipelines.cli.demo import run_demo

    run_demo(out, say=lambda line: say(line, flush=True))
