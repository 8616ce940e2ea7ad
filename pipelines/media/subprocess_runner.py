"""Running a program with a time limit and limited memory, and killing it when this process dies."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO

from pipelines.media.limits import MEMORY, bound_memory

_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_TRIES = 5  # if the program is killed from outside, by the system or a person; 2 if it crashes
_PAUSE = 0.2  # seconds before the second try, doubled for each further one
_WARDEN = 'read -r over || kill -s KILL -- "-$1"'  # a shell that waits for a line, or for the death of its parent

_BY_SIGNAL = 255  # ffmpeg's exit status after it handled a signal

Facts = Mapping[str, re.Pattern[bytes]]
"""Facts to look for in the lines of standard output: a name, and a pattern whose first group is the value."""
OnFact = Callable[[str, int], None]
"""Called from another thread with the name of a matched fact and the number of its matches so far."""


def _ignore(name: str, count: int) -> None:
    """An `OnFact` that does nothing."""


@dataclass(slots=True)
class Log:
    """Result of a run, in bounded memory.

    ``status`` is the exit status; ``late`` is set if the time limit was exceeded; ``facts`` has the last value of each
    fact on standard output and ``counts`` its number of matches; ``errors`` are the last errors on standard error.
    These are only for display: they may quote the file, so no decision may depend on them.
    """

    status: int = 0
    late: bool = False
    errors: deque[str] = field(default_factory=lambda: deque(maxlen=64))
    facts: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def signal(self) -> str:
        """The name of the signal that ended the program; "" if none did."""
        if self.status == _BY_SIGNAL:
            return signal.SIGTERM.name
        if self.status >= 0:
            return ""
        return signal.Signals(-self.status).name if -self.status in set(signal.Signals) else f"signal {-self.status}"

    def read_errors(self, messages: IO[bytes]) -> None:
        """Read standard error to its end."""
        for raw in iter(lambda: messages.readline(4096), b""):
            line = raw.decode(errors="surrogateescape").strip()
            if "[error]" in line or "[fatal]" in line:
                self.errors.append(line)

    def read_facts(self, output: IO[bytes], facts: Facts, on_fact: OnFact) -> None:
        """Read standard output to its end."""
        for line in iter(lambda: output.readline(4096), b""):
            for name, pattern in facts.items():
                if match := pattern.search(line):
                    self.facts[name] = match[1].decode()
                    self.counts[name] += 1
                    on_fact(name, self.counts[name])


def run_again_if_killed(
    arguments: list[str],
    time_limit: float,
    facts: Facts,
    feed: Sequence[bytes] | None = None,
    on_fact: OnFact = _ignore,
) -> Log:
    """Call `run`, and repeat it if a signal ended the program, since a one-off kill is not the file's fault."""
    end = time.monotonic() + time_limit
    for number in range(1, _TRIES + 1):
        log = run(arguments, max(end - time.monotonic(), 0.001), facts, feed, on_fact)
        most = _TRIES if log.signal in {killer.name for killer in _FROM_OUTSIDE} else 2
        if log.late or not log.signal or number >= most or time.monotonic() > end:
            break
        time.sleep(_PAUSE * 2 ** (number - 1))
    return log


def run(
    arguments: list[str],
    time_limit: float,
    facts: Facts,
    feed: Iterable[bytes] | None = None,
    on_fact: OnFact = _ignore,
) -> Log:
    """Run a program for at most ``time_limit`` seconds, with ``feed`` on its standard input.

    It runs in a new session with at most ``limits.MEMORY`` bytes, and is killed when this process dies.
    """
    if not (time_limit > 0 and math.isfinite(time_limit)):
        raise ValueError(f"time_limit is {time_limit}, expected seconds above 0")
    log = Log()
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL if feed is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "AV_LOG_FORCE_NOCOLOR": "1"},
    )
    assert process.stderr is not None
    assert process.stdout is not None
    warden: subprocess.Popen[bytes] | None = None
    readers = (
        threading.Thread(target=log.read_errors, args=(process.stderr,), daemon=True),
        threading.Thread(target=log.read_facts, args=(process.stdout, facts, on_fact), daemon=True),
    )
    timer = threading.Timer(time_limit, _stop, (process, log))
    try:  # Ctrl-C may come between any two lines from here on
        warden = _warden(process.pid)
        bound_memory(MEMORY, process.pid)
        for reader in readers:
            reader.start()
        timer.start()
        if process.stdin is not None:
            with suppress(BrokenPipeError), process.stdin as pipe:  # the program ended early; its errors say why
                for piece in feed or ():
                    pipe.write(piece)
        log.status = process.wait()
    finally:
        timer.cancel()
        _stop(process)
        process.wait()
        if warden is not None:
            warden.communicate(b"over\n")
        for reader in readers:
            if reader.is_alive():  # not if it was not started
                reader.join()
        process.stderr.close()
        process.stdout.close()
    return log


def _warden(group: int) -> subprocess.Popen[bytes]:
    """Start a process that kills a process group if this process dies before it has sent a line."""
    return subprocess.Popen(
        ["/bin/sh", "-c", _WARDEN, "sh", str(group)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _stop(process: subprocess.Popen[bytes], log: Log | None = None) -> None:
    """Kill the process and its group if it still runs, and set ``late`` in ``log``."""
    if process.poll() is None:
        if log is not None:
            log.late = True
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
