"""One run a store: who holds the lock, who may take it over, and that of several at once one gets it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from data_specs.stored import zarr_store
from pipelines.errors import RunError
from pipelines.runs.opening import open_run
from pipelines.runs.options import Options
from pipelines.stages.shard_task import process_shard
from pipelines.stages.tasks import STAGES
from pipelines.store import lock
from pipelines.store.lock import LOCK, Holder, StoreLocked, locked, read_holder
from pipelines.store.writer import exchange, group_document
from tests.conftest import Said
from tests.support.saboteurs import wait_until


@pytest.fixture
def place(tmp_path: Path) -> str:
    """Where a store may be made."""
    return str(tmp_path / "store.zarr")


def holder(**values: str | int) -> Holder:
    """A holder on this machine whose process is gone; others by ``values``."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    known = {"token": "t", "host": "h", "place": lock.place_here(), "pid": 2**22 + 1, "started": "1"}
    return Holder(**{**known, "since": now, "seen": now, **values})  # type: ignore[arg-type]


def left(place: str, by: Holder) -> None:
    """Put a lock into a store as another run does, in exchange for the one that is there.

    Written without an exchange, it would be lost if the holder's heartbeat were just being written.
    """
    store = zarr_store(place, read_only=False)
    assert wait_until(lambda: exchange(store, LOCK, lock._text(store), asdict(by)))


def test_a_lock_that_a_killed_run_left_is_put_back_until_a_run_dealt_with_it(place: str) -> None:
    store = zarr_store(place, read_only=False)
    with locked(place) as taken:
        assert taken.abandoned is None
    assert read_holder(store) is None
    left(place, holder(token="killed"))
    with locked(place, "verified") as taken:
        assert taken.abandoned is not None
    kept = read_holder(store)
    assert kept is not None
    assert kept.token == "killed"
    with locked(place) as taken:
        taken.settled = True
    assert read_holder(store) is None


def take_together(place: str, count: int) -> list[str]:
    """Have so many ask for the lock at once; who got it keeps it until all have asked."""
    together, done = threading.Barrier(count), threading.Barrier(count)

    def ask(_: int) -> str:
        together.wait()
        try:
            with locked(place) as taken:
                taken.settled = True
                done.wait(600)
                return "held"
        except StoreLocked as error:
            done.wait(600)
            return str(error)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(ask, range(count)))


def test_of_many_that_ask_at_once_one_gets_the_lock(place: str) -> None:
    for round in range(10):
        if round % 2:  # a dead process has left it: all see that, and all would take it over
            left(place, holder())
        found = take_together(place, 8)
        assert found.count("held") == 1, found
        refused = f"is being written by process {os.getpid()} on {socket.gethostname()} since 20"
        assert all(refused in answer for answer in found if answer != "held")
        assert read_holder(zarr_store(place, read_only=True)) is None


def test_of_many_exchanges_of_the_same_value_one_succeeds(place: str) -> None:
    store = zarr_store(place, read_only=False)
    expected = None
    for round in range(5):
        values = [{"round": round, "writer": writer} for writer in range(8)]
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(partial(exchange, store, "progress/x", expected), values))
        assert won.count(True) == 1
        expected = group_document(values[won.index(True)])
    assert not exchange(store, "progress/x", b"other", None)
    assert exchange(store, "progress/x", expected, None)


def test_a_second_mocrop_preprocess_is_refused_in_one_line_and_the_first_ends_well(
    place: str, synth_data: Path, mocrop_here: Callable[..., Said]
) -> None:
    words = ["--source", synth_data / "UCF-101", "--store", place, "--recipe", "smoke", "--limit", 2]
    with open_run(Options(str(synth_data / "UCF-101"), place, recipe="smoke", limit=2)) as first:
        for stage in STAGES:
            for plan in first.pending(stage):
                process_shard(plan, first.recipe)
                second = mocrop_here("preprocess", *words)
                assert (second.status, second.out) == (1, "")
                who = f"process {os.getpid()} on {socket.gethostname()} since 20"
                assert second.err.startswith(f"mocrop: store {place!r} is being written by {who}")
                assert second.err.endswith("; wait for it, or stop it first\n")
                assert second.err.count("\n") == 1
        assert first.publish().done == 2


def test_the_lock_of_a_killed_process_is_taken_over(place: str) -> None:
    hold = "with locked(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", f"import sys; from pipelines.store.lock import locked\n{hold}", place]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(StoreLocked, match=f"by process {process.pid} on .+ since 20"), locked(place):
            pass
        process.kill()
    with locked(place):
        pass


def test_a_process_number_that_was_given_again_is_not_mistaken_for_the_holder(place: str) -> None:
    left(place, holder(pid=os.getpid(), started="1"))
    with locked(place):
        assert read_holder(zarr_store(place, read_only=True)).pid == os.getpid()  # type: ignore[union-attr]


def test_a_process_number_in_another_container_means_nothing(place: str) -> None:
    other = holder(place="another boot or container", host=socket.gethostname())
    left(place, other)  # no process of that number runs here
    with pytest.raises(StoreLocked, match=r"since 20.* \(last seen 20"), locked(place):
        pass


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hearts beat ten times a second."""
    monkeypatch.setattr(lock, "BEAT", timedelta(seconds=0.1))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("hours", [-1, 1], ids=["long ago", "in the future, by a clock that is wrong"])
def test_the_lock_of_a_dead_process_elsewhere_is_taken_over_when_it_stays_silent(place: str, hours: int) -> None:
    seen = (datetime.now(UTC) + timedelta(hours=hours)).isoformat(timespec="seconds")
    left(place, holder(place="elsewhere", seen=seen))
    with locked(place):
        assert read_holder(zarr_store(place, read_only=True)).pid == os.getpid()  # type: ignore[union-attr]


def test_a_live_process_elsewhere_whose_clock_is_wrong_keeps_its_lock(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT", timedelta(seconds=8))  # it is watched for 20 s, and its next beat ends that
    seen = datetime.now(UTC) - timedelta(hours=3)
    other = holder(place="elsewhere", seen=seen.isoformat(timespec="seconds"))
    left(place, other)
    stop = threading.Event()

    def beat() -> None:
        for seconds in count():
            left(place, replace(other, seen=(seen + timedelta(seconds=seconds)).isoformat(timespec="seconds")))
            if stop.wait(0.05):
                return

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with pytest.raises(StoreLocked, match="is being written by process"), locked(place):
            pass
    finally:
        stop.set()
        beating.join()


@pytest.mark.usefixtures("quick")
def test_the_holder_says_that_it_lives(place: str) -> None:
    store = zarr_store(place, read_only=True)
    with locked(place) as held:
        before = held.holder
        old = replace(before, seen="2020-01-01T00:00:00+00:00")
        assert wait_until(lambda: read_holder(store) not in (before, old))
        held.check()


@pytest.mark.usefixtures("quick")
def test_a_run_whose_lock_was_taken_over_ends_and_leaves_the_others_lock(place: str, synth_data: Path) -> None:
    options = Options(str(synth_data / "UCF-101"), place, recipe="smoke", limit=2)
    other = holder(place="elsewhere")

    def lose() -> None:
        with open_run(options) as run:
            left(place, other)
            assert run.lock.lost.wait(600)
            run.pending("transcode")

    with pytest.raises(RunError, match=r"was taken over by another run .*; this run ends, completed work is kept"):
        lose()
    assert read_holder(zarr_store(place, read_only=True)) == other


@pytest.mark.parametrize("text", [b"", b"{", b'{"zarr_format": 3, "node_type": "group", "attributes": {"pid": 1}}'])
def test_a_lock_cut_short_by_a_loss_of_power_is_taken_over(place: str, text: bytes) -> None:
    file = Path(place, LOCK, "zarr.json")
    file.parent.mkdir(parents=True)
    file.write_bytes(text)
    with locked(place) as taken:
        assert read_holder(zarr_store(place, read_only=True)) is not None
        taken.settled = True
    assert not file.exists()
