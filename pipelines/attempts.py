"""One attempt at one shard, as a Dask worker makes it; without Prefect and Dask, so that workers start fast."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_specs.recipes import Recipe
from pipelines.h264 import RunStopped
from pipelines.stages import ShardPlan, ShardReport, process_shard


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of a shard: its report, or one line that says what went wrong.

    ``stop`` is set where trying again, or going on with other shards, would not help, as with a full disk.
    """

    report: ShardReport | None = None
    error: str = ""
    stop: bool = False


def attempt(
    plan: ShardPlan, recipe: Recipe, work: Callable[[ShardPlan, Recipe], ShardReport] = process_shard
) -> Attempt:
    """Do a shard and say what became of it.

    Exceptions stay here and travel as text: those with several constructor arguments cannot be unpickled, and
    Dask would report an unrelated TypeError in their place.
    """
    try:
        return Attempt(work(plan, recipe))
    except RunStopped as error:
        return Attempt(error=str(error), stop=True)
    except Exception as error:  # the text reaches the user when the last attempt has failed
        return Attempt(error=one_line(error))


def one_line(error: BaseException) -> str:
    """An exception's kind and message, in one line of bounded length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def missing_folders(*paths: str) -> list[str]:
    """Those of the folders that this process does not see."""
    return [path for path in paths if not Path(path).is_dir()]


def dask_setup(worker: object) -> None:
    """Dask's preload hook for the workers of a local cluster: leave the terminal's process group.

    Ctrl-C then reaches only the process that started the run, which ends its workers in order. An ffmpeg that
    was interrupted beside it would look like one that failed on its clip.
    """
    if hasattr(os, "setsid"):
        os.setsid()
