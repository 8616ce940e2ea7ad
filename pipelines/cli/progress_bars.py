"""Progress on standard error: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from data_specs.text import printable
from pipelines.disk_space import mebibytes

if TYPE_CHECKING:
    from pipelines.acquire.download import OnBytes
    from pipelines.stages.tasks import ShardReport

PLAIN_SECONDS = 5.0  # between two plain lines of a stage

console = Console(stderr=True, highlight=False, soft_wrap=True)

StageProgress = Callable[[str, int, int, "ShardReport | None"], None]
CountProgress = Callable[[int, int], None]
FrameProgress = Callable[[str, int, int], None]


class _Rate(ProgressColumn):
    """The rate per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} {self.unit}/s" if task.speed else "", style="progress.data.speed")


@contextmanager
def stage_progress() -> Iterator[StageProgress]:
    """One bar per stage with clips, rate and time left; plain lines if standard error is not a terminal."""
    if not console.is_terminal:
        yield _plain_stages()
        return
    columns = (TextColumn("{task.description:<9}"), BarColumn(), MofNCompleteColumn(), _Rate("clips"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bars:
        tasks: dict[str, tuple[TaskID, int]] = {}

        def show(stage: str, done: int, total: int, report: ShardReport | None) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, completed=done), 0
            task, bad = tasks[stage]
            bad += len(report.quarantined) if report else 0
            tasks[stage] = task, bad
            bars.update(task, completed=done, description=f"{stage} [red]✗{bad}[/]" if bad else stage)
            for id, reason in (report.quarantined if report else {}).items():
                bars.console.print(Text(printable(f"quarantined {id}: {reason}"), style="red"))

        yield show


def _plain_stages() -> StageProgress:
    began: dict[str, tuple[float, int]] = {}
    told = 0.0

    def show(stage: str, done: int, total: int, report: ShardReport | None) -> None:
        nonlocal told
        now = time.monotonic()
        start, first = began.setdefault(stage, (now, done))
        for id, reason in (report.quarantined if report else {}).items():
            _line(f"quarantined {id}: {reason}")
        if report is None or done == total or now - told >= PLAIN_SECONDS:
            told = now
            rate = (done - first) / (now - start) if now > start and done > first else 0.0
            left = f", {rate:.1f} clips/s" if rate else ""
            left += f", {(total - done) / rate:.0f} s left" if rate and done < total else ""
            left = ", nothing to do" if report is None and done == total else left
            _line(f"{stage}: {done} of {total} clips{left}")

    return show


@contextmanager
def count_progress(what: str, unit: str) -> Iterator[CountProgress]:
    """One bar for a count, with rate and time left; plain lines if standard error is not a terminal."""
    if not console.is_terminal:
        last, told = (0, 0), time.monotonic()

        def plain(done: int, total: int) -> None:
            nonlocal last, told
            last = (done, total)
            if done < total and time.monotonic() - told >= PLAIN_SECONDS:
                told = time.monotonic()
                _line(f"{what}: {done} of {total} {unit}")

        yield plain
        if last[1]:
            _line(f"{what}: {last[0]} of {last[1]} {unit}")
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), _Rate(unit), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def frame_progress() -> Iterator[FrameProgress]:
    """One bar per pass over the frames of a video; plain lines if standard error is not a terminal."""
    if not console.is_terminal:
        told = time.monotonic()

        def plain(what: str, done: int, total: int) -> None:
            nonlocal told
            if time.monotonic() - told >= PLAIN_SECONDS:
                told = time.monotonic()
                _line(f"{what}: {done} of {total or '?'} frames")

        yield plain
        return
    columns = (TextColumn("{task.description:<9}"), BarColumn(), MofNCompleteColumn(), _Rate("frames"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=None)
            bars.update(tasks[what], completed=done, total=total or None)

        yield show


def _line(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)


@contextmanager
def byte_progress() -> Iterator[Callable[[str], OnBytes]]:
    """One bar per file on standard error; occasional plain lines if it is not a terminal."""
    if not console.is_terminal:
        yield _plain_bytes
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bars:

        def begin(name: str) -> OnBytes:
            task = bars.add_task(name, total=None)
            return lambda done, total: bars.update(task, completed=done, total=total)

        yield begin


def _plain_bytes(name: str) -> OnBytes:
    told = time.monotonic()

    def show(done: int, total: int | None) -> None:
        nonlocal told
        if time.monotonic() - told >= PLAIN_SECONDS:
            told = time.monotonic()
            print(f"{name}: {mebibytes(done)} of {mebibytes(total) if total else '?'}", file=sys.stderr, flush=True)

    return show
