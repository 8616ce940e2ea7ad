"""The command line: ``mocrop``. Results go to standard output, progress and errors to standard error."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer

from data_specs.extras import missing_extra
from data_specs.locations import StoreError, without_passwords
from data_specs.resources import lack_of_memory
from pipelines.cli import crop_command, dataset_commands, evaluate_command, run_commands, store_commands
from pipelines.cli.flags import JsonFlag
from pipelines.cli.output import print_json, say
from pipelines.errors import RunError, RunStopped
from pipelines.execution.process_setup import sigterm_exits, warn_only
from pipelines.internal_errors import internal_error, record
from pipelines.media.containers import VideoError
from pipelines.media.ffmpeg_binary import FfmpegError

EXITS = "Exit status: 0 success, 1 the command was refused, failed or found a problem, 2 invalid usage."

STOPPED = (130, 143)  # statuses after Ctrl-C and SIGTERM
_RESUMES = "; completed work is kept, run the same command again to resume"
LEFT_BEHIND = {**dict.fromkeys(("preprocess", "serve", "fetch", "demo"), _RESUMES), "crop": "; no video was written"}
"""What a command that was stopped leaves behind, by its name."""

app = typer.Typer(
    name="mocrop",
    help="Motion-guided crops for video action recognition: find boxes from H.264 motion vectors, and cache the crops.",
    epilog=EXITS,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for commands in (crop_command, dataset_commands, run_commands, store_commands, evaluate_command):
    app.add_typer(commands.app)


def main() -> None:
    """Run the command line; errors that the user can fix are one line, with status 1."""
    warn_only()
    try:
        with sigterm_exits():
            app()
    except SystemExit as ended:
        if ended.code in STOPPED:
            say(f"mocrop: stopped{LEFT_BEHIND.get(sys.argv[1], '')}", file=sys.stderr)
        raise
    except (RunError, RunStopped, StoreError, FfmpegError, VideoError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}")
    except ModuleNotFoundError as error:
        _fail(missing_extra(error) or record(internal_error(error), None))
    except Exception as error:  # an internal error: its traceback goes into a log file
        _fail(lack_of_memory(error) or record(internal_error(error), None))


def _fail(message: str) -> None:
    say(f"mocrop: {without_passwords(message)}", file=sys.stderr)
    raise SystemExit(1)


def _show_version(wanted: bool) -> None:
    if wanted:
        found = []
        for name in ("mocrop", "av", "ffmpeg-python", "numpy", "pillow", "zarr", "dask", "prefect", "torch"):
            with suppress(PackageNotFoundError):
                found.append(f"{name} {version(name)}")
        say(", ".join([*found, _ffmpeg_build()]))
        raise typer.Exit


def _ffmpeg_build() -> str:
    from pipelines.media.ffmpeg_binary import FfmpegError, find_ffmpeg

    try:
        return find_ffmpeg().build
    except FfmpegError:
        return "no usable ffmpeg (run mocrop doctor)"


@app.callback()
def _options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Print the versions of mocrop, its main packages and ffmpeg.",
        ),
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: mocrop doctor --json")
def doctor(as_json: JsonFlag = False) -> None:
    """Check the installation. Covers packages, ffmpeg with libx264, decoders, disk; says how to fix problems."""
    from pipelines.cli.doctor import checks

    found = checks(on_check=None if as_json else _print_check)
    if as_json:
        print_json([{"name": c.name, "ok": c.ok, "found": c.found, "remedy": c.remedy} for c in found])
    if not all(check.ok for check in found):
        raise typer.Exit(1)


def _print_check(check: Any) -> None:
    mark = "-" if check.absent else "ok" if check.ok else "WRONG"
    say(f"{mark:<5}  {check.name}: {check.found}")
    if check.remedy:
        say(f"       → {check.remedy}")
