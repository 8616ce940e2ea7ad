"""What the command lines of the scripts share: flags, their checks, and one-line errors."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from data_specs.locations import expanded, is_url, shown, without_passwords
from data_specs.resources import check_addresses, lack_of_memory
from data_specs.stored import StoreError, View, open_store
from data_specs.text import printable

SMALLEST_INPUT, LARGEST_INPUT = 8, 4096  # sides of a network's input, px; cached frames are no larger
ADDRESSES = 750 * 10**6  # bytes of address space of a small training, without its libraries
VIEW_OF_MODE = {"normal": "full", "mocrop": "mocrop"}


class Refused(Exception):
    """Invalid arguments: the message names the argument, the value and what would be right. Exit status 2."""


class Failed(Exception):
    """A failure at run time: the message names the cause and the remedy in one line. Exit status 1."""


class OneLineParser(argparse.ArgumentParser):
    """An argument parser with one-line errors, defaults in its help, and no abbreviated flags."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Help, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Print a one-line error and exit with status 2."""
        what = without_passwords(message.removeprefix("argument "))
        self.exit(2, f"error: {what}; see {self.prog} --help\n")


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help with defaults, and with the examples unwrapped."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


@contextmanager
def checked_store() -> Iterator[None]:
    """Raise ``StoreError`` as `Failed`: once the arguments have been checked, an error of the store is the run's."""
    try:
        yield
    except StoreError as error:
        raise Failed(str(error)) from error


def exit_status(work: Callable[[], object]) -> int:
    """Do the work; print `Refused` and `Failed` as one line on stderr, with exit status 2 or 1."""
    try:
        check_addresses(ADDRESSES)
        work()
    except (Refused, StoreError) as error:
        print(f"error: {printable(without_passwords(str(error)))}", file=sys.stderr)
        return 2
    except Failed as error:
        print(f"error: {printable(without_passwords(str(error)))}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"error: {printable(without_passwords(' '.join(str(error).split())))}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:  # torch raises the latter
        line = lack_of_memory(error)
        if not line:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def whole(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """Return the type of an argument that is an integer from ``least`` to ``most``."""

    def parse(text: str) -> int:
        value = int(text) if re.fullmatch(r"-?[0-9]{1,20}", text) else None
        if value is not None and least <= value <= most:
            return value
        to = "on" if most == 2**31 - 1 and (value or 0) <= most else f"to {most}"
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is not a whole number from {least} {to}")

    return parse


def expanded_path(text: str) -> str:
    """The type of an argument that is a path: ``~`` is expanded."""
    try:
        return expanded(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def input_size(text: str) -> int:
    """The type of an argument that is a side of a network's input, px."""
    return whole(SMALLEST_INPUT, LARGEST_INPUT)(text)


def share(low: float, high: float) -> Callable[[str], float]:
    """Return the type of an argument that is a number from ``low`` to ``high``."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")
        return value

    return parse


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags about the store."""
    data = parser.add_argument_group("data")
    data.add_argument(
        "--store", type=expanded_path, required=True, help="store made by mocrop preprocess: a folder or s3://…"
    )
    data.add_argument("--split", type=int, choices=(1, 2, 3), default=1, help="split of the data set")
    data.add_argument(
        "--crop-ratio", type=share(0, 1), help="check that the view has this box area, as a share of the frame"
    )
    data.add_argument("--mv-h", type=whole(1), help="check that the view's density map has this many rows")
    data.add_argument("--mv-w", type=whole(1), help="check that the view's density map has this many columns")
    data.add_argument(
        "-j",
        "--workers",
        type=whole(0),
        help="threads that read and decode ahead; default: one per core, at most 4; 0: read in the main thread",
    )


def add_machine_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags about the machine."""
    machine = parser.add_argument_group("machine")
    machine.add_argument("--amp", action="store_true", help="bf16 mixed precision; needs a GPU")
    machine.add_argument("--cpu", action="store_true", help="use the CPU even if there is a GPU")
    machine.add_argument(
        "--channels-last",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="use the channels-last memory format",
    )
    machine.add_argument("--compile", action="store_true", help="torch.compile the model")


def chosen_view(mode: str | None, view: str | None, flag: str) -> str:
    """Return the view that ``--train-mode`` or ``--test-mode`` and ``--view`` select; `Refused` if they disagree."""
    if view is None:
        return VIEW_OF_MODE[mode or "normal"]
    if mode is not None and VIEW_OF_MODE[mode] != view:
        raise Refused(f"{flag} {mode} is the view {VIEW_OF_MODE[mode]!r}, but --view is {view!r}; give one of them")
    return view


def check_view(store: str, name: str, crop_ratio: float | None, mv_h: int | None, mv_w: int | None) -> None:
    """Compare the reference's flags with the view; `Refused` shows both values of a mismatch."""
    view: View = open_store(store).view(name)
    rows, columns = view.params.get("grid") or (None, None)
    ratio = view.params.get("crop_ratio", 1.0)
    for flag, asked, stored in (
        ("--crop-ratio", crop_ratio or (None if crop_ratio is None else 1.0), ratio),  # 0: no crop
        ("--mv-h", mv_h, rows),
        ("--mv-w", mv_w, columns),
    ):
        if asked is not None and asked != stored:
            has = "no density map" if stored is None else f"{stored:g}"
            given = crop_ratio if flag == "--crop-ratio" else asked
            raise Refused(
                f"{flag} {given:g}: view {name!r} of this store has {has}; omit the flag or give another --view"
            )


def check_output(folder: str) -> None:
    """Raise `Refused` if ``--output-dir`` cannot be created or written to."""
    if is_url(folder):
        raise Refused(f"--output-dir {shown(folder)!r}: give a local folder")
    parent = next(path for path in (Path(folder).absolute(), *Path(folder).absolute().parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        what = "is not writable" if parent.is_dir() else "is not a folder"
        raise Refused(f"--output-dir {folder!r}: {str(parent)!r} {what}; give another folder")


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments and make the checks that need no store."""
    args = parser.parse_args(argv)
    if args.amp:
        check_amp(cpu=args.cpu)
    return args


def check_amp(*, cpu: bool) -> None:
    """Raise `Refused` if no GPU supports bf16."""
    import torch

    if cpu or not torch.cuda.is_available():
        raise Refused("--amp: bf16 needs a GPU, and none was found; omit --amp")
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        raise Refused(f"--amp: {torch.cuda.get_device_name()} does not support bf16; omit --amp")
