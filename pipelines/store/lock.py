"""One process a store, be it a run or verify: a lock that says who holds it, which a dead process does not keep."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread

from zarr.abc.store import Store as ZarrStore

from data_specs.stored import Damaged, StoreError, parse_attributes, read_objects, shown, zarr_store
from pipelines.store.writer import exchange, group_document

LOCK = "progress/lock"
BEAT = timedelta(seconds=15)
_HELD: set[str] = set()  # by this process, which may have lost sight of the store when it was to give a lock back
STALE = timedelta(seconds=90)  # without a beat, after which the lock of another machine is looked at more closely


class StoreLocked(StoreError):
    """Another process writes or verifies the store: one line that says who and since when."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock: a process, when it took the lock and when it last said that it lives (UTC, ISO 8601).

    ``place`` tells machines, boots and containers apart: a process number means nothing elsewhere. ``doing`` is what
    becomes of the store: "written" or "verified".
    """

    token: str
    host: str
    place: str
    pid: int
    started: str
    since: str
    seen: str
    doing: str = "written"

    @property
    def here(self) -> bool:
        """Whether the holder's process, if it lives, can be seen from this one."""
        return self.place == _place()

    def alive(self) -> bool:
        """Whether the holder seems to run: here by its process, elsewhere by its last sign of life."""
        if self.here and self.pid == os.getpid():
            return self.token in _HELD
        if self.here:
            return _process_start(self.pid) == self.started
        return abs(datetime.now(UTC) - datetime.fromisoformat(self.seen)) < STALE

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


@dataclass(slots=True)
class StoreLock:
    """A lock that is held; ``check`` before relying on it."""

    location: str
    holder: Holder
    lost: Event = field(default_factory=Event)

    def check(self) -> None:
        """``StoreLocked`` if another run has taken the lock over, because this one gave no sign of life."""
        if self.lost.is_set():
            raise StoreLocked(
                f"store {shown(self.location)!r} was taken over by another run while this one gave no sign of life; "
                "this one ends, what is done is kept"
            )


@contextmanager
def locked(location: str, doing: str = "written") -> Iterator[StoreLock]:
    """Hold the lock of a store; ``StoreLocked`` if a live process has it. A dead one's lock is taken over.

    ``doing`` is what others are told becomes of the store. ``StoreError`` or ``OSError`` if it cannot be written.
    """
    store = zarr_store(location, read_only=False)
    lease = StoreLock(location, _me(doing))
    _HELD.add(lease.holder.token)
    try:
        _take(store, lease)
        try:
            with _beating(store, lease):
                yield lease
        finally:
            if not lease.lost.is_set():
                with suppress(OSError, StoreError):  # what is left is seen to be nobody's
                    exchange(store, LOCK, group_document(asdict(lease.holder)), None)
    finally:
        _HELD.discard(lease.holder.token)


def _take(store: ZarrStore, lease: StoreLock) -> None:
    """Take the lock: of several processes that find it free, or left by a dead one, one gets it."""
    problem: StoreError | None = None
    for _ in range(10):
        found = _text(store)
        holder = _holder(found)
        if holder is not None and holder.token == lease.holder.token:
            return
        if holder is not None and (holder.alive() or not _silent(store, holder, found)):
            who = f"{holder}" if holder.here else f"{holder} (last seen {holder.seen})"
            raise StoreLocked(
                f"store {shown(lease.location)!r} is being {holder.doing} by {who}; wait for it, or stop it first"
            )
        try:
            exchange(store, LOCK, found, asdict(lease.holder))
            problem = None
        except StoreError as error:  # a request that failed may have been carried out: look again
            problem = error
    raise problem or StoreLocked(
        f"store {shown(lease.location)!r} is being written by another run; wait for it, or stop it first"
    )


def _silent(store: ZarrStore, holder: Holder, found: bytes | None) -> bool:
    """Whether a holder is dead. One on another machine is watched for a while: its clock may be wrong."""
    if holder.here:
        return True
    until = time.monotonic() + 2.5 * BEAT.total_seconds()
    while time.monotonic() < until:
        time.sleep(BEAT.total_seconds() / 10)
        if _text(store) != found:
            return False
    return True


def read_holder(store: ZarrStore) -> Holder | None:
    """Who holds the lock of a store now, alive or not; None if nobody, or if the lock is damaged."""
    return _holder(_text(store))


def check_unlocked(location: str, doing: str) -> None:
    """``StoreLocked`` if a live run is writing the store, with what it would be in the way of."""
    holder = read_holder(zarr_store(location, read_only=True))
    if holder is not None and holder.alive():
        raise StoreLocked(f"store {shown(location)!r} is being {holder.doing} by {holder}; {doing} when it is done")


def _text(store: ZarrStore) -> bytes | None:
    (found,) = read_objects(store, [f"{LOCK}/zarr.json"])
    return found


def _holder(text: bytes | None) -> Holder | None:
    values = parse_attributes(LOCK, text)
    if values is None or isinstance(values, Damaged):  # cut short by a loss of power: nobody lives who wrote it
        return None
    try:
        holder = Holder(**values)
        texts = {type(value) for name, value in asdict(holder).items() if name != "pid"}
        if texts != {str} or type(holder.pid) is not int or not 0 < holder.pid < 1 << 31:
            return None
        return holder if datetime.fromisoformat(holder.seen).tzinfo else None
    except (TypeError, ValueError):
        return None


def _me(doing: str) -> Holder:
    now, pid = _now(), os.getpid()
    return Holder(uuid.uuid4().hex, socket.gethostname(), _place(), pid, _process_start(pid), now, now, doing)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def _beating(store: ZarrStore, lease: StoreLock) -> Iterator[None]:
    stop = Event()
    beat = Thread(target=_beat, args=(store, lease, stop), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()


def _beat(store: ZarrStore, lease: StoreLock, stop: Event) -> None:
    """Say now and then that the holder lives, and notice when someone took the lock over."""
    while not stop.wait(BEAT.total_seconds()):
        newer = replace(lease.holder, seen=_now())
        with suppress(OSError, StoreError):  # the run itself says so, the next beat may work
            if exchange(store, LOCK, group_document(asdict(lease.holder)), asdict(newer)):
                lease.holder = newer
                continue
            found = read_holder(store)
            if found is not None and found.token == lease.holder.token:
                lease.holder = found  # a request that failed but was carried out
            else:
                lease.lost.set()
                return


def _place() -> str:
    """This machine since it was started, and this container on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _process_start(pid: int) -> str:
    """When a process of this machine started, in the kernel's ticks, so that a reused number is not mistaken."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "running" if _exists(pid) else "gone"
    fields = stat.rpartition(")")[2].split()
    return "gone" if fields[0] == "Z" else fields[19]


def _exists(pid: int) -> bool:
    """Whether a process of that number runs, where there is no /proc to ask."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
