"""One attempt at one shard, as a Dask worker makes it; without Prefect and Dask, so that workers start fast.

Where a worker has died on a shard, the next attempt does it in a process of its own (``python -m
pipelines.execution.worker``), which names each clip before it begins it. A clip that such processes die on again is
quarantined; all others are done.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from data_specs.datasets import Clip
from data_specs.recipes import Recipe
from data_specs.resources import lack_of_memory
from data_specs.stored import StoreError
from pipelines.errors import RunStopped
from pipelines.execution.process_setup import own_python
from pipelines.internal_errors import InternalError, Tail, internal_error
from pipelines.media.limits import MEMORY, alarm_seconds, bound_memory, deadline
from pipelines.stages.h264_cache import Folders
from pipelines.stages.shard_task import process_shard
from pipelines.stages.tasks import Around, ShardPlan, ShardReport

DIED = "worker died"
DEATHS = 2  # of processes with the same clip in hand, before it is quarantined

_own_process = False  # whether this process is there for shards alone, so that its memory may be bounded


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of a shard: its report, or one line that says what went wrong.

    ``stop`` is set where trying again, or going on with other shards, would not help, as with a full disk;
    ``internal`` where our own code failed, which stops the run as well; ``died`` where the process ended before it
    could say anything. ``stderr`` is the end of what such processes wrote to standard error.
    """

    report: ShardReport | None = None
    error: str = ""
    stop: bool = False
    died: bool = False
    internal: InternalError | None = None
    stderr: str = ""


def attempt(plan: ShardPlan, recipe: Recipe, work: Callable[[ShardPlan, Recipe], ShardReport] | None = None) -> Attempt:
    """Do a shard, by ``process_shard`` unless told otherwise, and say what became of it.

    Exceptions stay here and travel as text: those with several constructor arguments cannot be unpickled, and
    Dask would report an unrelated TypeError in their place.
    """
    alarm = alarm_seconds(recipe.time_limit)

    def do() -> Attempt:
        if work is None and plan.apart:
            return attempt_apart(plan, recipe)
        if _own_process:
            bound_memory(memory_bytes(recipe))
        return Attempt((work or partial(process_shard, around=lambda clip: deadline(alarm)))(plan, recipe))

    return _caught(do)


def _caught(do: Callable[[], Attempt]) -> Attempt:
    try:
        return do()
    except (RunStopped, StoreError) as error:
        return Attempt(error=str(error), stop=True)
    except (OSError, MemoryError) as error:  # the machine's: the text reaches the user if it does not pass
        return Attempt(error=one_line(error))
    except Exception as error:  # our own code's: it would fail again, and the user is to get the traceback
        if lack := lack_of_memory(error):
            return Attempt(error=lack)
        return Attempt(internal=internal_error(error))


def memory_bytes(recipe: Recipe) -> int:
    """Bytes that a process which does the shards of a recipe may have: ``limits.MEMORY`` and their crops twice over."""
    frames = recipe.frames
    return MEMORY + 2 * recipe.shard_clips * len(recipe.views) * frames.slots * frames.size**2 * 3


def attempt_apart(plan: ShardPlan, recipe: Recipe) -> Attempt:
    """Do a shard in a process of its own, and again without the clips that it dies on, until it ends well.

    A clip is to blame when ``DEATHS`` processes died with it in hand, or one by the alarm of its time limit.
    """
    deaths: Counter[str] = Counter()
    dead: dict[str, str] = {}
    stderr, tail = "", Tail()
    while max(deaths.values(), default=0) <= DEATHS:
        tail = Tail()
        found, in_hand, status = _in_a_process(replace(plan, dead=tuple(sorted(dead.items()))), recipe, tail)
        if found is not None:
            return replace(found, stderr=stderr)
        deaths[in_hand] += 1
        at = f"with clip {in_hand} in hand" if in_hand else "between clips"
        stderr += f"A process of its own for the shard ended {at}, {_how(status)}. The end of its standard error:\n"
        stderr += f"{tail.text or '(nothing)'}\n\n"
        if in_hand and status == -signal.SIGALRM:
            dead[in_hand] = f"took longer than {recipe.time_limit:g} s and was stopped"
        elif in_hand and deaths[in_hand] == DEATHS:
            dead[in_hand] = DIED
    last = f": {tail.last_line}" if tail.last_line else ""
    return Attempt(error=f"the shard's own process died between clips{last}", died=True, stderr=stderr)


def _how(status: int) -> str:
    """How a process ended."""
    if status >= 0:
        return f"with status {status}"
    return f"by {signal.Signals(-status).name if -status in set(signal.Signals) else f'signal {-status}'}"


def _in_a_process(plan: ShardPlan, recipe: Recipe, stderr: Tail) -> tuple[Attempt | None, str, int]:
    """What a process of its own said of a shard (None if it died), the clip it had in hand ("": none), its status.

    The process ends with this one: its standard input stays open as long as we live. A signal that kills it leaves
    the Python stack in ``stderr``.
    """
    process = subprocess.Popen(
        own_python("-X", "faulthandler", "-m", "pipelines.execution.worker"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    found, in_hand = None, ""
    reader = threading.Thread(target=stderr.read, args=(process.stderr,), daemon=True)
    reader.start()
    asked = json.dumps({"plan": asdict(plan), "recipe": recipe.model_dump(mode="json")}) + "\n"
    try:
        process.stdin.write(asked.encode())
        process.stdin.flush()
        for line in process.stdout:
            said = json.loads(line) if line.endswith(b"\n") else {}
            in_hand = said.get("in_hand", in_hand)
            if "attempt" in said:
                found = _attempt_of(said["attempt"])
    except BrokenPipeError:
        pass  # it died at once
    finally:
        with suppress(BrokenPipeError), process:
            process.kill()
            reader.join()
    return found, in_hand, process.returncode


def _attempt_of(values: dict[str, Any]) -> Attempt:
    report, internal = values.pop("report"), values.pop("internal")
    return Attempt(report and ShardReport(**report), internal=internal and InternalError(**internal), **values)


def _plan_of(values: dict[str, Any]) -> ShardPlan:
    folders = Folders(**values.pop("folders"))
    clips = tuple(Clip(**{**clip, "split": tuple(clip["split"])}) for clip in values.pop("clips"))
    views = tuple(values.pop("views"))
    dead = tuple((id, why) for id, why in values.pop("dead"))
    return ShardPlan(**values, folders=folders, clips=clips, views=views, dead=dead)


def _be_the_process() -> None:
    """Do the shard that standard input names and tell standard output of it."""
    said = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not come between
    asked = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    plan, recipe = _plan_of(asked["plan"]), Recipe.model_validate(asked["recipe"])
    bound_memory(memory_bytes(recipe))
    around: Around = partial(_in_hand, said, alarm_seconds(recipe.time_limit))
    found = _caught(lambda: Attempt(process_shard(plan, recipe, around)))
    _tell(said, {"attempt": asdict(found)})
    os._exit(0)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


@contextmanager
def _in_hand(said: TextIO, alarm: float, clip: Clip) -> Iterator[None]:
    _tell(said, {"in_hand": clip.id})
    with deadline(alarm):
        yield
    _tell(said, {"in_hand": ""})


def _tell(said: TextIO, values: dict[str, Any]) -> None:
    said.write(json.dumps(values) + "\n")


def one_line(error: BaseException) -> str:
    """An exception's kind and message, in one line of bounded length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def missing_folders(*paths: str) -> list[str]:
    """Those of the folders that this process does not see."""
    return [path for path in paths if not Path(path).is_dir()]


def dask_setup(worker: object) -> None:
    """Dask's preload hook for the workers of a local cluster: leave the terminal's process group, bound the memory.

    Ctrl-C then reaches only the process that started the run, which ends its workers in order. An ffmpeg that
    was interrupted beside it would look like one that failed on its clip.
    """
    global _own_process
    _own_process = True
    if hasattr(os, "setsid"):
        os.setsid()


if __name__ == "__main__":
    _be_the_process()
