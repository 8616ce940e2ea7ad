"""One run a store: a lock that says who holds it and since when, and that a dead process does not keep."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread

from zarr.abc.store import Store as ZarrStore

from data_specs.stored import attributes, shown, zarr_store
from pipelines.store import put_attributes, remove_attributes

LOCK = "progress/lock"
BEAT = timedelta(seconds=30)
STALE = timedelta(minutes=5)


class StoreLocked(Exception):
    """Another run is writing the store: one line that says who and since when."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock: a process, when it took the lock and when it last said that it lives (UTC, ISO 8601)."""

    token: str
    host: str
    pid: int
    started: str
    since: str
    seen: str

    def alive(self) -> bool:
        """Whether the holder still runs: on this host by its process, elsewhere by its last sign of life."""
        if self.host == socket.gethostname():
            return _process_start(self.pid) == self.started
        return datetime.now(UTC) - datetime.fromisoformat(self.seen) < STALE


@contextmanager
def locked(location: str) -> Iterator[None]:
    """Hold the lock of a store; ``StoreLocked`` if a live process has it. A dead one's lock is taken over."""
    store = zarr_store(location, read_only=False)
    mine = _me()
    put_attributes(store, LOCK, asdict(mine), only_new=True)
    holder = read_holder(store)
    if holder is not None and holder.token != mine.token and not holder.alive():
        remove_attributes(store, LOCK)
        put_attributes(store, LOCK, asdict(mine), only_new=True)
        holder = read_holder(store)
    if holder is None or holder.token != mine.token:
        who = f"process {holder.pid} on {holder.host} since {holder.since}" if holder else "another run"
        raise StoreLocked(f"store {shown(location)!r} is being written by {who}; wait for it, or stop it first")
    stop = Event()
    beat = Thread(target=_beat, args=(store, mine, stop), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        remove_attributes(store, LOCK)


def read_holder(store: ZarrStore) -> Holder | None:
    """Who holds the lock of a store now, alive or not; None if nobody."""
    (found,) = attributes(store, [LOCK])
    return None if found is None else Holder(**found)


def _me() -> Holder:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    pid = os.getpid()
    return Holder(uuid.uuid4().hex, socket.gethostname(), pid, _process_start(pid), now, now)


def _beat(store: ZarrStore, mine: Holder, stop: Event) -> None:
    while not stop.wait(BEAT.total_seconds()):
        now = datetime.now(UTC).isoformat(timespec="seconds")
        put_attributes(store, LOCK, asdict(mine) | {"seen": now})


def _process_start(pid: int) -> str:
    """When a process of this host started, in the kernel's ticks and boot, so that a reused number is not mistaken."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "running" if _exists(pid) else "gone"
    fields = stat.rpartition(")")[2].split()
    return "gone" if fields[0] == "Z" else f"{boot}:{fields[19]}"


def _exists(pid: int) -> bool:
    """Whether a process of that number runs, where there is no /proc to ask."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
