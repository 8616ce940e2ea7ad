"""One attempt at one shard in a Dask worker. Imports neither Prefect nor Dask, so that workers start fast.

After a worker died on a shard, the next attempt processes it in a separate process (``python -m
pipelines.execution.worker``), which reports each clip before it starts it. A clip on which such processes die
repeatedly is quarantined; the others are processed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, TextIO

from data_specs.datasets import Clip
from data_specs.recipes import Recipe
from data_specs.resources import lack_of_memory
from data_specs.stored import StoreError, shown, zarr_store
from pipelines.errors import RunStopped
from pipelines.execution.process_setup import own_python
from pipelines.internal_errors import InternalError, Tail, internal_error
from pipelines.media.ffmpeg_binary import FfmpegError, find_ffmpeg
from pipelines.media.limits import MEMORY, alarm_seconds, bound_memory, deadline
from pipelines.stages.h264_cache import Folders
from pipelines.stages.scratch import on_scratch, scratch_base
from pipelines.stages.shard_task import process_shard
from pipelines.stages.tasks import Around, ShardPlan, ShardReport
from pipelines.store.lock import read_holder
from pipelines.store.software import versions_here

DIED = "worker died"
DEATHS = 2  # processes that die on a clip before it is quarantined

_own_process = False  # True in a worker of a local cluster, whose memory may be limited


@dataclass(frozen=True, slots=True)
class Attempt:
    """Result of an attempt: the shard's report, or an error in one line.

    ``stop`` is set if the error would repeat in another attempt or for other shards, as with a full disk, and ``host``
    is then the machine; ``internal`` is set for a bug in our own code, which also stops the run; ``died`` is set if the
    process ended without a result. ``stderr`` is the end of the standard error of such processes.
    """

    report: ShardReport | None = None
    error: str = ""
    stop: bool = False
    died: bool = False
    internal: InternalError | None = None
    stderr: str = ""
    host: str = ""


def attempt(plan: ShardPlan, recipe: Recipe, work: Callable[[ShardPlan, Recipe], ShardReport] | None = None) -> Attempt:
    """Process a shard with ``work``, by default ``process_shard``, and return the result.

    Exceptions are converted to text: those with several constructor arguments cannot be unpickled, and Dask would
    report an unrelated TypeError instead.
    """
    alarm = alarm_seconds(recipe.time_limit)

    def do() -> Attempt:
        with on_scratch(plan) as placed:
            if work is None and plan.apart:
                return attempt_apart(placed, recipe)
            if _own_process:
                bound_memory(memory_bytes(recipe, len(plan.clips)))
            return Attempt((work or partial(process_shard, around=lambda *_: deadline(alarm)))(placed, recipe))

    return _caught(do)


def _caught(do: Callable[[], Attempt]) -> Attempt:
    try:
        return do()
    except (RunStopped, StoreError) as error:
        return Attempt(error=str(error), stop=True, host=socket.gethostname())
    except (OSError, MemoryError) as error:  # possibly transient: shown to the user if the last attempt fails
        return Attempt(error=one_line(error))
    except Exception as error:  # a bug in our own code: another attempt would fail, too; keep the traceback
        if lack := lack_of_memory(error):
            return Attempt(error=lack)
        return Attempt(internal=internal_error(error))


def memory_bytes(recipe: Recipe, clips: int) -> int:
    """Memory limit in bytes for a process with a shard of ``clips``: ``limits.MEMORY`` and twice the crops' size."""
    frames = recipe.frames
    return MEMORY + 2 * clips * len(recipe.views) * frames.slots * frames.size**2 * 3


def attempt_apart(plan: ShardPlan, recipe: Recipe) -> Attempt:
    """Process a shard in a separate process; repeat without the clips that it dies on until it succeeds.

    A clip is excluded after ``DEATHS`` processes died on it, or after one was killed by the clip's time limit.
    """
    deaths: Counter[tuple[str, str]] = Counter()  # by stage and clip
    dead: dict[str, str] = {}
    stderr, tail = "", Tail()
    while max(deaths.values(), default=0) <= DEATHS:
        tail = Tail()
        result, current, status = _run_process(replace(plan, dead=tuple(sorted(dead.items()))), recipe, tail)
        if result is not None:
            return replace(result, stderr=stderr)
        deaths[current] += 1
        stage, clip = current
        at = f"while processing clip {clip}" if clip else "between clips"
        stderr += f"The separate process of the shard ended {at}, {_how(status)}. The end of its standard error:\n"
        stderr += f"{tail.text or '(nothing)'}\n\n"
        if clip and status == -signal.SIGALRM:
            dead[clip] = f"{stage}: took longer than {recipe.time_limit:g} s and was stopped"
        elif clip and deaths[current] == DEATHS:
            dead[clip] = f"{stage}: {DIED}"
    last = f": {tail.last_line}" if tail.last_line else ""
    return Attempt(error=f"the shard's separate process died between clips{last}", died=True, stderr=stderr)


def _how(status: int) -> str:
    """Describe the exit status of a process."""
    if status >= 0:
        return f"with status {status}"
    return f"by {signal.Signals(-status).name if -status in set(signal.Signals) else f'signal {-status}'}"


def _run_process(plan: ShardPlan, recipe: Recipe, stderr: Tail) -> tuple[Attempt | None, tuple[str, str], int]:
    """Process a shard in a separate process; return its result (None if it died), where it is, and its status.

    It is at a stage and a clip, both "" between clips. The process ends with this one, when its standard input closes.
    If a fatal signal kills it, the Python stack is in ``stderr``.
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
    result, current = None, ("", "")
    reader = threading.Thread(target=stderr.read, args=(process.stderr,), daemon=True)
    reader.start()
    request = json.dumps({"plan": asdict(plan), "recipe": recipe.model_dump(mode="json")}) + "\n"
    try:
        process.stdin.write(request.encode())
        process.stdin.flush()
        for line in process.stdout:
            message = json.loads(line) if line.endswith(b"\n") else {}
            current = tuple(message.get("current", current))
            if "attempt" in message:
                result = _attempt_of(message["attempt"])
    except BrokenPipeError:
        pass  # it died before it read the request
    finally:
        with suppress(BrokenPipeError), process:
            process.kill()
            reader.join()
    return result, current, process.returncode


def _attempt_of(values: dict[str, Any]) -> Attempt:
    report, internal = values.pop("report"), values.pop("internal")
    return Attempt(report and ShardReport(**report), internal=internal and InternalError(**internal), **values)


def _plan_of(values: dict[str, Any]) -> ShardPlan:
    folders = Folders(**values.pop("folders"))
    clips = tuple(Clip(**{**clip, "split": tuple(clip["split"])}) for clip in values.pop("clips"))
    views, stages = tuple(values.pop("views")), tuple(values.pop("stages"))
    dead = tuple((id, why) for id, why in values.pop("dead"))
    return ShardPlan(**values, folders=folders, clips=clips, views=views, stages=stages, dead=dead)


def main() -> None:
    """Process the shard requested on standard input and report clips and result on standard output, as JSON lines."""
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # prints of libraries go to standard error
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    plan, recipe = _plan_of(request["plan"]), Recipe.model_validate(request["recipe"])
    bound_memory(memory_bytes(recipe, len(plan.clips)))
    around: Around = partial(_reported, output, alarm_seconds(recipe.time_limit))
    result = _caught(lambda: Attempt(process_shard(plan, recipe, around)))
    _send(output, {"attempt": asdict(result)})
    os._exit(0)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


@contextmanager
def _reported(output: TextIO, alarm: float, stage: str, clip: Clip) -> Iterator[None]:
    _send(output, {"current": (stage, clip.id)})
    with deadline(alarm):
        yield
    _send(output, {"current": ("", "")})


def _send(output: TextIO, message: dict[str, Any]) -> None:
    output.write(json.dumps(message) + "\n")


def one_line(error: BaseException) -> str:
    """An exception's type and message in one line, at most 300 characters of the message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


@dataclass(frozen=True, slots=True)
class Needs:
    """What a run needs of the machine of each worker.

    ``version`` is of this package, ``token`` of the lock that the run holds on its ``store``. With ``one_pass``, tasks
    have work folders of their own below ``scratch``; otherwise they share ``work_dir``. ``work_dir`` and ``build`` (of
    ffmpeg) are None if the run does not need them.
    """

    version: str
    source: str
    store: str
    token: str
    work_dir: str | None
    one_pass: bool
    scratch: str | None
    build: str | None


def lacking(needs: Needs) -> list[str]:
    """What this process's machine lacks of what a run needs, in words."""
    lacks = []
    if (version := versions_here()["mocrop"]) != needs.version:
        lacks.append(f"mocrop {version} instead of {needs.version}")
    if not os.path.isdir(needs.source):
        lacks.append(f"no source folder {needs.source!r}")
    try:
        holder = read_holder(zarr_store(needs.store, read_only=True))
        if holder is None or holder.token != needs.token:
            lacks.append(f"not the run's store at {shown(needs.store)!r}")
    except (StoreError, OSError) as error:
        lacks.append(f"no access to the store {shown(needs.store)!r}: {' '.join(str(error).split())[:300]}")
    if needs.work_dir is not None and not os.access(needs.work_dir, os.W_OK):
        lacks.append(f"no work folder {needs.work_dir!r} to write to (share it, or use --discard-h264)")
    if needs.one_pass and not os.access(scratch := scratch_base(needs.scratch), os.W_OK):
        lacks.append(f"no scratch folder {str(scratch)!r} to write to")
    try:
        if needs.build is not None and (build := find_ffmpeg().build) != needs.build:
            lacks.append(f"ffmpeg build {build!r} instead of {needs.build!r}")
    except FfmpegError as error:
        lacks.append(str(error))
    return lacks


def dask_setup(worker: object) -> None:
    """Preload hook of Dask for the workers of a local cluster: leave the terminal's process group and limit memory.

    Ctrl-C then reaches only the process that started the run, which shuts its workers down. An interrupted ffmpeg of
    a worker would look like one that failed on its clip.
    """
    global _own_process
    _own_process = True
    if hasattr(os, "setsid"):
        os.setsid()


if __name__ == "__main__":
    main()
