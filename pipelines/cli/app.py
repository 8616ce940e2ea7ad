"""The command line: ``mocrop``. Results go to standard output, progress and errors to standard error."""

from __future__ import annotations

import csv
import dataclasses
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from data_specs.datasets import Dataset
from data_specs.locations import expanded, without_passwords
from data_specs.resources import lack_of_memory
from data_specs.stored import StoreError, open_store
from data_specs.text import csv_cell, json_text, printable
from pipelines.errors import RunError, RunStopped
from pipelines.execution.process_setup import no_collections, sigterm_exits, stderr_held_back, warn_only
from pipelines.internal_errors import internal_error, record
from pipelines.media.decoder import VideoError
from pipelines.media.ffmpeg_binary import FfmpegError
from pipelines.runs.options import Options
from pipelines.runs.outcome import TooManyQuarantined, notes
from pipelines.store.software import mixed

EXITS = "Exit status: 0 all is well, 1 refused, failed or something wrong found, 2 a flag that cannot be."

STOPPED = (130, 143)  # by Ctrl-C, which Typer turns into this status, or by SIGTERM

app = typer.Typer(
    name="mocrop",
    help="Motion-guided crops for video action recognition: boxes from H.264's motion vectors, and crops, cached once.",
    epilog=EXITS,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _expanded(path: Any) -> Any:
    """The path that a flag names, ``~`` expanded."""
    try:
        return None if path is None else type(path)(expanded(str(path)))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


StoreArgument = Annotated[
    str,
    typer.Argument(help="The Zarr store: a folder, or s3://bucket/name.zarr.", metavar="STORE", callback=_expanded),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Source = Annotated[str, typer.Option(help="Folder of the videos, <Class>/<clip>.avi in it.", callback=_expanded)]
StoreOption = Annotated[str, typer.Option(help="Where the Zarr store is, or is to be made.", callback=_expanded)]
Splits = Annotated[str | None, typer.Option(help="Folder of the split lists (trainlist01.txt …).", callback=_expanded)]
RecipeOption = Annotated[str, typer.Option(help="ucf101, smoke, or a TOML file.", callback=_expanded)]
WorkDir = Annotated[
    str | None, typer.Option(help="Folder for the H.264 files [default: STORE.work].", callback=_expanded)
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
Strict = Annotated[bool, typer.Option("--strict", help="Refuse lists that name clips which are not there.")]
MaxQuarantined = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Share of quarantined clips above which the run fails.")
]


def main() -> None:
    """Run the command line; errors that a person can mend are one line and status 1."""
    warn_only()
    try:
        with sigterm_exits():
            app()
    except SystemExit as ended:
        if ended.code in STOPPED:
            _say("mocrop: stopped; what is done is kept, start the same command again to go on", file=sys.stderr)
        raise
    except (RunError, RunStopped, StoreError, FfmpegError, VideoError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}")
    except Exception as error:  # our own code's: the traceback goes into a log file
        _fail(lack_of_memory(error) or record(internal_error(error), None))


def _fail(message: str) -> None:
    _say(f"mocrop: {without_passwords(message)}", file=sys.stderr)
    raise SystemExit(1)


def _show_version(wanted: bool) -> None:
    if wanted:
        names = ("mocrop", "av", "ffmpeg-python", "numpy", "pillow", "zarr", "dask", "prefect")
        _say(", ".join([*(f"{name} {version(name)}" for name in names), _ffmpeg_build()]))
        raise typer.Exit


def _ffmpeg_build() -> str:
    from pipelines.media.ffmpeg_binary import FfmpegError, find_ffmpeg

    try:
        return find_ffmpeg().build
    except FfmpegError:
        return "no ffmpeg that will do (mocrop doctor says more)"


@app.callback()
def _options(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the versions that matter."),
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: mocrop doctor --json")
def doctor(as_json: JsonFlag = False) -> None:
    """Check what is installed: ffmpeg with libx264, decoders, disk, versions. Says what is wrong and how to mend it."""
    from pipelines.cli.doctor import checks

    found = checks(on_check=None if as_json else _print_check)
    if as_json:
        _print_json([{"name": c.name, "ok": c.ok, "found": c.found, "mend": c.mend} for c in found])
    if not all(check.ok for check in found):
        raise typer.Exit(1)


def _print_check(check: Any) -> None:
    _say(f"{'ok   ' if check.ok else 'WRONG'}  {check.name}: {check.found}")
    if check.mend:
        _say(f"       → {check.mend}")


@app.command(epilog="Example: mocrop synth toy --classes 4 --clips-per-class 12")
def synth(
    directory: Annotated[Path, typer.Argument(help="Folder to write into.", metavar="DIR", callback=_expanded)],
    classes: Annotated[int, typer.Option(help="Classes, 2 to 12.")] = 4,
    clips_per_class: Annotated[int, typer.Option(help="Clips of each class, from 3 on.")] = 12,
    seed: Annotated[int, typer.Option(help="Seed: the same one gives the same pixels.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Write a small data set of UCF-101's shape whose classes can only be told apart by what moves."""
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
        _print_json({"source": str(made.source), "splits": str(made.splits), "annotations": str(made.annotations),
                     "class_names": made.class_names, "clips": made.clips, "frames": made.frames})  # fmt: skip
    else:
        _say(f"{made.clips} clips of {len(made.class_names)} classes in {made.source}; lists in {made.splits}")


@app.command(epilog="Example: mocrop fetch ucf101 data. What broke off, the same command goes on with.")
def fetch(
    dataset: Annotated[str, typer.Argument(help="ucf101.", metavar="DATASET")],
    directory: Annotated[Path, typer.Argument(help="Folder to download into.", metavar="DIR", callback=_expanded)],
    url: Annotated[
        str | None,
        typer.Option(help="A mirror: a folder's address, or that of an archive of the videos, the lists beside it."),
    ] = None,
    zip_copy: Annotated[
        bool, typer.Option("--zip", help="The zip copy of TensorFlow Datasets: no program is needed to unpack it.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before the download.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Download a public data set and unpack it. Says first what, from where, how much and under which terms."""
    from pipelines.acquire.fetch import fetch as fetch_all
    from pipelines.acquire.fetch import plan_fetch
    from pipelines.cli.progress_bars import byte_progress

    def say(line: str) -> None:
        _say(line, file=sys.stderr, flush=True)

    wanted = plan_fetch(dataset, directory, url, zip_copy=zip_copy)
    for line in wanted.describe():
        say(line)
    if wanted.items and not yes:
        if not sys.stdin.isatty():
            raise RunError("nothing was downloaded: nobody is there to be asked; add --yes")
        typer.confirm("Download?", abort=True, err=True)
    with byte_progress() as on_bytes:
        found = fetch_all(wanted, say, on_bytes)
    for warning in found.warnings:
        say(f"warning: {warning}")
    if as_json:
        _print_json(found.as_json())
    else:
        _say(f"{found.clips} clips of {found.classes} classes in {found.source}, lists in {found.splits}")
        _say(f"next: mocrop plan --source {found.source} --splits {found.splits} --store ucf101.zarr")


@app.command(epilog="Example: mocrop plan --source UCF-101 --store ucf101.zarr --splits ucfTrainTestlist")
def plan(
    source: Source,
    store: StoreOption,
    splits: Splits = None,
    recipe: RecipeOption = "ucf101",
    work_dir: WorkDir = None,
    workers: Workers = None,
    limit: Limit = None,
    strict: Strict = False,
    max_quarantined: MaxQuarantined = 0.05,
    max_missing: MaxMissing = None,
    as_json: JsonFlag = False,
) -> None:
    """Dry run: clips, splits, shards, the bytes and time to expect (from a few clips done for real), problems found."""
    from pipelines.runs.estimate import plan as make_plan

    found = make_plan(Options(source, store, splits, recipe, work_dir, workers, None, limit, strict,
                              max_quarantined=max_quarantined, max_missing=max_missing))  # fmt: skip
    if as_json:
        _print_json(found.as_json())
    else:
        for line in found.lines():
            _say(line)
    if found.problems:
        raise typer.Exit(1)


@app.command(
    epilog="Example: mocrop preprocess --source UCF-101 --splits ucfTrainTestlist --store ucf101.zarr. "
    "Stopped or killed, it goes on when the same command is started again."
)
def preprocess(
    source: Source,
    store: StoreOption,
    splits: Splits = None,
    recipe: RecipeOption = "ucf101",
    work_dir: WorkDir = None,
    workers: Workers = None,
    dask_address: Annotated[
        str | None, typer.Option(help="A Dask scheduler to send the work to: tcp://host:8786.")
    ] = None,
    limit: Limit = None,
    strict: Strict = False,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="Try quarantined clips again.")
    ] = False,
    max_quarantined: MaxQuarantined = 0.05,
    max_missing: MaxMissing = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show Prefect's own lines too.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Run the whole flow here: videos to H.264, motion vectors, boxes and cached crops in one store."""
    options = Options(source, store, splits, recipe, work_dir, workers, dask_address, limit, strict,
                      retry_quarantined, max_quarantined, max_missing)  # fmt: skip
    dataset = _announced(options)
    notices = {"warnings": dataset.warnings, "passed_over": [dataclasses.asdict(one) for one in dataset.passed_over]}
    try:
        _print_summary(_run(options, verbose), as_json, notices)
    except TooManyQuarantined as error:
        _print_summary(error.summary, as_json, notices)
        raise


def _announced(options: Options) -> Dataset:
    """The data set that is asked for, after its notices were shown."""
    from pipelines.runs.options import read_request
    from pipelines.runs.run import about_store

    dataset, recipe = read_request(options)
    for notice in dataset.notices:
        _say(f"warning: {notice}", file=sys.stderr)
    for notice in about_store(options, recipe):
        _say(notice, file=sys.stderr)
    return dataset


def _flow() -> Any:
    """The flow's module; ``RunError`` where Prefect refuses its settings, which it reads while it is imported."""
    warnings.filterwarnings("ignore", "Failed to create the Prefect home directory")  # a run does without
    try:
        with stderr_held_back(), no_collections():
            from pipelines import flow_runs
    except ValueError as error:
        why = " ".join(str(error).split())[:300]
        raise RunError(
            f"Prefect refuses its settings (PREFECT_ variables, profiles.toml, prefect.toml): {why}"
        ) from None
    return flow_runs


def _run(options: Options, verbose: bool) -> Any:
    flow_runs = _flow()
    from pipelines.cli.progress_bars import stage_progress

    with stage_progress() as show:
        return flow_runs.run_here(options, show, verbose=verbose)


def _print_summary(summary: Any, as_json: bool, more: dict[str, Any] | None = None) -> None:
    if as_json:
        _print_json(summary.as_json() | (more or {}))
        return
    _say(f"{summary.store}: {summary.clips} clips, {summary.done} done, {summary.pending} pending, "
          f"{len(summary.quarantined)} quarantined")  # fmt: skip
    for stage, (done, total) in summary.stages.items():
        _say(f"  {stage:<10} {done} of {total} shards")
    for line in mixed(summary.software):
        _say(f"  {line}")
    for id, reason in sorted(summary.quarantined.items()):
        _say(f"  quarantined {id}: {reason}")
    for kind, about, count, examples in notes(summary):
        _say(f"  {kind}: {count} {'clip' if count == 1 else 'clips'}, {about}")
        for id, text in examples:
            _say(f"    {id}: {text}")
        if count > len(examples):
            _say(f"    and {count - len(examples)} more; --json lists them all")


@app.command(
    epilog="Example: mocrop serve, then in another terminal: prefect deployment run preprocess-ucf101/local -p …"
)
def serve(
    allow: Annotated[
        list[str] | None,
        typer.Option(
            help="An address that runs may open: a Dask scheduler (tcp://host:8786), a bucket (s3://bucket), or what "
            "is below it. Again for more.",
            metavar="ADDRESS",
        ),
    ] = None,
) -> None:
    """Serve the deployment preprocess-ucf101/local; starts a Prefect server on loopback where none answers."""
    _flow().serve(allow=allow or ())


@app.command(epilog="Example: mocrop status ucf101.zarr --json")
def status(store: StoreArgument, as_json: JsonFlag = False) -> None:
    """Clips done, pending and quarantined, by stage, with the reasons; clips with notes, by kind."""
    from pipelines.store.records import summarise

    _print_summary(summarise(store), as_json)


@app.command(epilog="Example: mocrop verify ucf101.zarr. What it finds, mocrop preprocess does again.")
def verify(store: StoreArgument, as_json: JsonFlag = False) -> None:
    """Read all of a store again; status 1 and a list where a chunk, a fingerprint or a count is wrong."""
    from pipelines.cli.progress_bars import count_progress
    from pipelines.store.records import summarise
    from pipelines.store.verify import verify as find_faults

    with count_progress("verify", "records") as show:
        faults = find_faults(store, show)
    if as_json:
        _print_json([{"where": fault.where, "what": fault.what} for fault in faults])
    else:
        for fault in faults:
            _say(f"{fault.where}: {fault.what}")
        _say(f"{len(faults)} faults" if faults else "OK: no problems found")
        for line in [] if faults else mixed(summarise(store).software):
            _say(f"  {line}")
    if faults:
        if not as_json:
            _say("the same mocrop preprocess command does just these parts again")
        raise typer.Exit(1)


@app.command(epilog="Example: mocrop gc ucf101.zarr, and with --yes once the list is right.")
def gc(
    store: StoreArgument,
    work_dir: WorkDir = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is listed.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """List what no store needs any more: stale H.264 files in the work folder, unfinished parts; --yes removes them."""
    from pipelines.disk_space import mebibytes
    from pipelines.runs.cleanup import clear, find_waste

    waste = clear(store, work_dir) if yes else find_waste(store, work_dir)
    if as_json:
        _print_json([{"path": str(one.path), "bytes": one.bytes, "why": one.why} for one in waste])
    else:
        for one in waste:
            _say(f"{one.path}: {one.bytes:,} bytes, {one.why}")
    if not as_json:
        done = "removed" if yes else "to remove; --yes does it" if waste else "to remove"
        _say(f"{len(waste)} files, {mebibytes(sum(one.bytes for one in waste))}, {done}")


@app.command(epilog="Example: mocrop boxes ucf101.zarr --view mocrop --csv > boxes.csv")
def boxes(
    store: StoreArgument,
    view: Annotated[str | None, typer.Option(help="Only this view.")] = None,
    clip: Annotated[str | None, typer.Option(help="Only this clip, by its id.")] = None,
    as_json: JsonFlag = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    png: Annotated[
        Path | None,
        typer.Option(help="Draw --clip: a frame with density and boxes, and its crops.", callback=_expanded),
    ] = None,
    video: Annotated[
        Path | None,
        typer.Option(
            help="Write --clip with box and vectors drawn in, as .mp4 or .avi, at 25 frames a second.",
            callback=_expanded,
        ),
    ] = None,
    work_dir: WorkDir = None,
) -> None:
    """The boxes, px of the H.264 frame, half-open, with their share of the frame and of the motion density."""
    from pipelines.cli.tables import box_rows, print_table

    if png or video:
        _draw(store, view, clip, png, video, work_dir)
        return
    rows = box_rows(open_store(store), view, clip)
    if as_json:
        _print_json(rows)
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
        _say(png)
    if video:
        if not drawing.write_clip_video(reader, clip, [view or reader.main_view], video, work_dir):
            _say("its H.264 file is not there: cached frames stand until the next one", file=sys.stderr)
        _say(video)


@app.command(epilog="Example: mocrop report ucf101.zarr --out report.html --annotations ucf101_24.json")
def report(
    store: StoreArgument,
    out: Annotated[Path, typer.Option(help="The HTML file to write.", metavar="FILE.html", callback=_expanded)],
    annotations: Annotated[
        Path | None,
        typer.Option(help="Actor boxes (JSON), to tell how much of the actors is kept.", callback=_expanded),
    ] = None,
    clips: Annotated[int, typer.Option(min=0, help="Clips with pictures: the worst, and some of all.")] = 300,
    clip: Annotated[list[str] | None, typer.Option(help="A clip to have with pictures; may be repeated.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="A picture of every clip (4.5 kB a clip), and a page of more than 64 MB.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write one page to look at, without a network: every clip's box, density and crop; classes; actors; reasons."""
    from pipelines.cli.progress_bars import count_progress
    from pipelines.report.page import write_report

    with count_progress("report", "pictures and details") as show:
        made = write_report(
            store, out, annotations=annotations, clips=clips, everything=everything, wanted=clip or (), on_clip=show
        )
    if as_json:
        _print_json(dataclasses.asdict(made))
        return
    _say(f"{made.out}: {made.clips} clips, {made.pictures} with pictures, {made.bytes / 1e6:.1f} MB")
    for notice in made.notices:
        _say(f"  {notice}")


@app.command(name="export-npy", epilog="Example: mocrop export-npy ucf101.zarr extract_mvs")
def export_npy(
    store: StoreArgument,
    directory: Annotated[Path, typer.Argument(help="Folder to write into.", metavar="DIR", callback=_expanded)],
    view: Annotated[str | None, typer.Option(help="The motion view [default: the only one].")] = None,
) -> None:
    """Write each clip's density map where and as the public MoCrop code's loader looks for it."""
    from pipelines.cli.tables import export_npy as export

    _say(f"{len(export(open_store(store), directory, view))} density maps written to {directory}")


@app.command(epilog="Example: mocrop demo --out demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write into.", callback=_expanded)] = Path("demo"),
) -> None:
    """The whole job on a synthetic data set, on a CPU: boxes and crops, two short trainings, their table, the page."""
    from pipelines.cli.demo import run_demo

    run_demo(out, say=lambda line: _say(line, flush=True))


def _print_json(value: Any) -> None:
    print(json_text(value))


def _say(text: object, file: TextIO | None = None, flush: bool = False) -> None:
    """Print one line. It may quote a store or a file, which cannot write to the terminal what moves its cursor."""
    print(printable(str(text)), file=file, flush=flush)
