"""The lock of a store: one process at a time may write or verify it; the lock of a dead process is taken over."""

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

from data_specs.stored import Attributes, Damaged, StoreError, parse_attributes, read_objects, shown, zarr_store
from pipelines.store.writer import exchange, group_document

LOCK = "progress/lock"
BEAT = timedelta(seconds=15)
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_HELD: set[str] = set()  # tokens held by this process; a lock left by a failed release is not in it
STALE = timedelta(seconds=90)  # age of the last heartbeat after which another machine's lock is checked


class StoreLocked(StoreError):
    """Another process writes or verifies the store; the message says which and since when."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lock.

    ``since`` is when it took the lock and ``seen`` its last heartbeat (UTC, ISO 8601). ``place`` identifies machine,
    boot and container, within which a process id is unique; ``started`` is the start time of the process. ``doing``
    is "written" or "verified".
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
        """Whether the holder's process would be visible from this one."""
        return self.place == place_here()

    def alive(self) -> bool:
        """Return whether the holder seems to run: judged by its process if local, else by its last heartbeat."""
        if self.here and self.pid == os.getpid():
            return self.token in _HELD
        if self.here:
            return _process_start(self.pid) == self.started
        return abs(datetime.now(UTC) - datetime.fromisoformat(self.seen)) < STALE

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


@dataclass(slots=True)
class StoreLock:
    """A lock held by this process; call ``check`` before relying on it.

    ``abandoned`` is the lock of a dead process that was taken over, None if there was none: that process may have left
    temporary files, and records of files that a power failure cut short. It is put back at the end, for the next run to
    see, unless ``settled`` says that this was dealt with.
    """

    location: str
    holder: Holder
    lost: Event = field(default_factory=Event)
    abandoned: Attributes | None = None
    settled: bool = False

    def check(self) -> None:
        """Raise ``StoreLocked`` if another run has taken over the lock because this one missed its heartbeats."""
        if self.lost.is_set():
            raise StoreLocked(
                f"store {shown(self.location)!r} was taken over by another run because this one stopped responding; "
                "this run ends, completed work is kept"
            )


@contextmanager
def locked(location: str, doing: str = "written") -> Iterator[StoreLock]:
    """Hold the lock of a store during the block, taking over that of a dead process.

    ``doing`` is shown to others: "written" or "verified". Raises ``StoreLocked`` if a live process holds the lock,
    ``StoreError`` or ``OSError`` if it cannot be written.
    """
    store = zarr_store(location, read_only=False)
    lock = StoreLock(location, _me(doing))
    _HELD.add(lock.holder.token)
    try:
        _take(store, lock)
        try:
            with _beating(store, lock):
                yield lock
        finally:
            if not lock.lost.is_set():
                with suppress(OSError, StoreError):  # a lock that stays behind is recognised as abandoned
                    left = None if lock.settled else lock.abandoned
                    exchange(store, LOCK, group_document(asdict(lock.holder)), left)
    finally:
        _HELD.discard(lock.holder.token)


def _take(store: ZarrStore, lock: StoreLock) -> None:
    """Acquire the lock; if several processes find it free or abandoned, exactly one succeeds."""
    problem: StoreError | None = None
    for _ in range(10):
        document = _text(store)
        holder = _holder(document)
        if holder is not None and holder.token == lock.holder.token:
            return
        if holder is not None and (holder.alive() or not _silent(store, holder, document)):
            who = f"{holder}" if holder.here else f"{holder} (last seen {holder.seen})"
            raise StoreLocked(
                f"store {shown(lock.location)!r} is being {holder.doing} by {who}; wait for it, or stop it first"
            )
        try:
            exchange(store, LOCK, document, asdict(lock.holder))
            lock.abandoned = asdict(holder) if holder else {} if document is not None else None
            problem = None
        except StoreError as error:  # a failed request may have been carried out: read the lock again
            problem = error
    raise problem or StoreLocked(
        f"store {shown(lock.location)!r} is being written by another run; wait for it, or stop it first"
    )


def _silent(store: ZarrStore, holder: Holder, document: bytes | None) -> bool:
    """Return whether a holder is dead; one on another machine, whose clock may be wrong, is watched for a while."""
    if holder.here:
        return True
    until = time.monotonic() + 2.5 * BEAT.total_seconds()
    while time.monotonic() < until:
        time.sleep(BEAT.total_seconds() / 10)
        if _text(store) != document:
            return False
    return True


def read_holder(store: ZarrStore) -> Holder | None:
    """The holder of a store's lock, alive or not; None if the lock is free or damaged."""
    return _holder(_text(store))


def check_unlocked(location: str, doing: str) -> None:
    """Raise ``StoreLocked`` if a live process holds the lock; ``doing`` names what has to wait for it."""
    holder = read_holder(zarr_store(location, read_only=True))
    if holder is not None and holder.alive():
        raise StoreLocked(f"store {shown(location)!r} is being {holder.doing} by {holder}; {doing} when it is done")


def _text(store: ZarrStore) -> bytes | None:
    (document,) = read_objects(store, [f"{LOCK}/zarr.json"])
    return document


def _holder(text: bytes | None) -> Holder | None:
    values = parse_attributes(LOCK, text)
    if values is None or isinstance(values, Damaged):  # truncated by a power failure, so its writer is dead
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
    return Holder(uuid.uuid4().hex, socket.gethostname(), place_here(), pid, _process_start(pid), now, now, doing)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def _beating(store: ZarrStore, lock: StoreLock) -> Iterator[None]:
    stop = Event()
    beat = Thread(target=_beat, args=(store, lock, stop), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()


def _beat(store: ZarrStore, lock: StoreLock, stop: Event) -> None:
    """Refresh the heartbeat periodically, and notice when another process takes over the lock."""
    while not stop.wait(BEAT.total_seconds()):
        newer = replace(lock.holder, seen=_now())
        with suppress(OSError, StoreError):  # the run reports a broken store itself; the next heartbeat may succeed
            if exchange(store, LOCK, group_document(asdict(lock.holder)), asdict(newer)):
                lock.holder = newer
                continue
            current = read_holder(store)
            if current is not None and current.token == lock.holder.token:
                lock.holder = current  # an earlier request failed but was carried out
            else:
                lock.lost.set()
                return


def place_here() -> str:
    """Identifier of this boot of this machine and of this container (PID namespace)."""
    try:
        boot = _BOOT.read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def is_this_boot(place: str) -> bool:
    """Return whether `place_here` gave this since the machine was started; False where that cannot be told."""
    return place == place_here() != socket.gethostname()


def _process_start(pid: int) -> str:
    """Start time of a local process in kernel ticks, which tells it from a later process with the same id."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "running" if _exists(pid) else "gone"
    fields = stat.rpartition(")")[2].split()
    return "gone" if fields[0] == "Z" else fields[19]


def _exists(pid: int) -> bool:
    """Return whether a process with this id runs, on systems without /proc."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
