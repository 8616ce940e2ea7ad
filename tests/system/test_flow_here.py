"""The flow run in one process, as `mocrop preprocess` does it: no server to start, none left behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipelines.execution import prefect_server, server_address
from pipelines.execution.deployment_alias import DEPLOYMENT
from pipelines.execution.server_address import held_port
from pipelines.runs import outcome
from pipelines.store.summary import Summary
from tests.support.environments import proxied, recording_proxy
from tests.support.saboteurs import contents, descendants, records, wait_until

RUN = """
import os, sys
from pipelines.flow_runs import run_here
from pipelines.errors import RunError
from pipelines.runs.options import Options
def show(stage, done, total, report):
    if stage == "transcode" and report is None:
        print(os.environ["PREFECT_API_URL"])
    print(stage, done, total, report is not None, flush=True)
try:
    asked = Options(*sys.argv[1:], recipe="smoke", workers=2)
    summary = run_here(asked, show)
    print(f"{summary.done} done")
except RunError as error:
    sys.exit(f"refused: {error}")
"""


DAMAGED = "no database\n" * 100


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A terminal with much that must not matter to a run that brings its own server.

    Proxies, a home that cannot be made, a Prefect that wants a password, a key and another database and has a damaged
    one, and a Dask that wants encryption.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    home = tmp_path_factory.mktemp("home")
    (home / "prefect.db").write_text(DAMAGED)
    with recording_proxy() as (address, asked):
        yield {
            **kept,
            **proxied(address),
            "HOME": "/nonexistent",
            "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
            "PREFECT_HOME": str(home),
            "PREFECT_SERVER_API_AUTH_STRING": "someone:else",
            "PREFECT_API_AUTH_STRING": "someone:other",
            "PREFECT_API_KEY": "a-key",
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://nobody@127.0.0.1:1/none",
            "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "true",
        }
        assert asked == []
    assert [path.name for path in home.iterdir()] == ["prefect.db"]
    assert (home / "prefect.db").read_text() == DAMAGED


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port on which nobody listens, and nobody else will."""
    with held_port() as port:
        yield port


def run(environment: dict[str, str], folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", RUN, *map(str, words)], cwd=folder, env=environment, text=True,
        capture_output=True, timeout=600,
    )  # fmt: skip


def stop_in_its_middle(number: signal.Signals, environment: dict[str, str], folder: Path, *words: object) -> str:
    """Send a run a signal once a shard is done, SIGINT to its whole group as a terminal does; its server's address.

    All processes below it must end with it.
    """
    child = subprocess.Popen(
        [sys.executable, "-c", RUN, *map(str, words)], cwd=folder, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, start_new_session=True, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    url = child.stdout.readline().strip()
    assert server_address.answers(url, timeout=600)
    assert any(line.endswith("True\n") for line in child.stdout), "it ended before a shard was done"
    below = descendants(child.pid, "")
    assert len(below) >= 3, "a server and two workers"
    if number is signal.SIGINT:
        os.killpg(child.pid, number)
    else:
        child.send_signal(number)
    assert child.wait(600) == -number
    _, left = psutil.wait_procs(below, 60)
    assert not left, f"they outlived {number.name}: {left}"
    return url


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_needs_no_server_leaves_none_and_goes_on_after_being_stopped(
    number: signal.Signals,
    environment: dict[str, str],
    silent_port: int,
    synth_data: Path,
    synth_store: Path,
    tmp_path: Path,
) -> None:
    # settings as in this repository, with a server that does not answer
    (tmp_path / "prefect.toml").write_text(f'[api]\nurl = "http://127.0.0.1:{silent_port}/api"\n')
    words = (synth_data / "UCF-101", "a.zarr", synth_data / "ucfTrainTestlist")
    url = stop_in_its_middle(number, environment, tmp_path, *words)
    assert not server_address.answers(url)
    finished = records(tmp_path / "a.zarr")
    assert finished

    found = run(environment, tmp_path, *words)
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stderr == ""
    lines = found.stdout.splitlines()
    assert not server_address.answers(lines[0])
    assert re.fullmatch(r"transcode \d+ 12 False", lines[1])
    assert [f"{stage} 12 12 True" in lines for stage in ("motion", "boxes", "clips")] == [True] * 3
    assert lines[-1] == "12 done"
    assert contents(tmp_path / "a.zarr") == contents(synth_store)
    assert finished.items() <= records(tmp_path / "a.zarr").items(), "a finished shard was done again"


@pytest.mark.soak
@pytest.mark.parametrize("times", [1, prefect_server.RESTARTS + 1])
def test_a_run_whose_server_is_killed_goes_on_or_ends_at_once_and_nothing_is_lost(
    environment: dict[str, str], synth_data: Path, tmp_path: Path, times: int
) -> None:
    command = [sys.executable, "-c", RUN, str(synth_data / "UCF-101"), "a.zarr"]
    child = subprocess.Popen(
        command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline().startswith("http://127.0.0.1:"), "the first stage has begun"
    killed = 0
    while killed < times:
        assert child.poll() is None
        for process in descendants(child.pid, "pipelines.execution.server_process"):
            process.kill()
            killed += 1
            assert wait_until(lambda gone=process: not gone.is_running() or gone.status() == psutil.STATUS_ZOMBIE, 60)
    end = time.monotonic()
    out, err = child.communicate(timeout=600)
    lines = [line for line in err.splitlines() if "resource_tracker" not in line and "warnings.warn(" not in line]
    again = "the run's own Prefect server ended (status -9); restarting it, the run continues"
    if times == 1:
        assert (child.returncode, lines) == (0, [again]), err
        assert out.splitlines()[-1] == "12 done"
    else:
        assert time.monotonic() - end < 60, "it stood still"
        assert child.returncode == 1
        assert lines == [again] * prefect_server.RESTARTS + [
            "the run's own Prefect server ended (status -9) 4 times; completed work is kept, run the same command again"
        ]
        found = run(environment, tmp_path, synth_data / "UCF-101", "a.zarr")
        assert found.returncode == 0, found.stderr
        assert found.stdout.splitlines()[-1] == "12 done"


def test_a_wrong_call_is_refused_in_one_line_before_any_server_is_up(
    environment: dict[str, str], tmp_path: Path
) -> None:
    found = run(environment, tmp_path, tmp_path / "nowhere", "b.zarr")
    assert found.returncode == 1
    assert found.stderr.startswith("refused: ")
    assert len(found.stderr.splitlines()) == 1
    assert "nowhere" in found.stderr


@pytest.mark.soak
def test_a_server_elsewhere_that_does_not_answer_is_one_line(
    environment: dict[str, str], silent_port: int, synth_data: Path, tmp_path: Path
) -> None:
    away = f"http://me:hidden@127.0.0.2:{silent_port}/api"  # not asked beforehand, as if it were far away
    settings = {**environment, "PREFECT_API_URL": away, "no_proxy": "127.0.0.2"}
    found = run(settings, tmp_path, synth_data / "UCF-101", "c.zarr")
    assert found.returncode == 1
    assert found.stderr.startswith(
        "refused: the Prefect server cannot be reached or refuses; correct or unset PREFECT_API_URL"
    )
    assert len(found.stderr.splitlines()) == 1
    assert "hidden" not in found.stdout + found.stderr


def test_a_port_that_another_program_uses_is_one_line_with_the_variable_that_names_another(tmp_path: Path) -> None:
    with recording_proxy() as (address, _):
        port = int(address.rpartition(":")[2])
        with pytest.raises(prefect_server.ServerError) as error, prefect_server.persistent(port, tmp_path):
            pass
    assert re.fullmatch(
        rf"the Prefect server ended while starting: another program uses port {port}; "
        r"choose another port with PREFECT_API_URL=http://127.0.0.1:\d+/api",
        str(error.value),
    )


def test_a_home_that_cannot_be_written_is_named(silent_port: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    home = tmp_path / "file" / "home"
    with pytest.raises(prefect_server.ServerError) as error, prefect_server.persistent(silent_port, home):
        pass
    assert str(error.value) == (
        f"the Prefect server's folder {home} cannot be written (Not a directory); name another in PREFECT_HOME"
    )


@pytest.mark.soak
@pytest.mark.parametrize("state", ["damaged", "newer"])
def test_a_database_that_cannot_be_used_is_one_line_with_what_to_do(
    state: str, silent_port: int, tmp_path: Path
) -> None:
    database = prefect_server.database_of(tmp_path, silent_port)
    if state == "damaged":
        database.write_text(DAMAGED)
    else:
        with contextlib.closing(sqlite3.connect(database)) as made, made:
            made.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
            made.execute("INSERT INTO alembic_version VALUES ('fedcba987654')")
    with pytest.raises(prefect_server.ServerError) as error, prefect_server.persistent(silent_port, tmp_path):
        pass
    expected = {"damaged": "is damaged; move the file away", "newer": "is of a newer Prefect; install that version, or"}
    assert f"its database {database} {expected[state]}" in str(error.value)


def test_only_servers_on_this_machine_are_asked_whether_they_answer(silent_port: int) -> None:
    assert not server_address.usable(None)
    assert not server_address.usable(f"http://127.0.0.1:{silent_port}/api")
    assert server_address.usable("https://api.prefect.cloud/api/accounts/a/workspaces/b")


def test_a_password_in_a_prefect_servers_address_is_not_shown(tmp_path: Path) -> None:
    url = "http://me:hidden@127.0.0.1:4200/api"
    said = prefect_server.how_to_start_runs(DEPLOYMENT, url, prefect_server.page_of(url, tmp_path))
    assert "export PREFECT_API_URL=http://127.0.0.1:4200/api" in said
    assert "hidden" not in said


def summary(quarantined: int, clips: int) -> Summary:
    reasons = {f"A/v_A_g01_c{clip:02}": "motion: broken" for clip in range(quarantined)}
    return Summary("store", clips, clips - quarantined, 0, reasons, {"motion": (1, 1)})


def test_more_than_the_share_allowed_fails_and_the_share_itself_does_not() -> None:
    assert outcome.too_many_quarantined(summary(1, 20), 0.05) is None
    assert outcome.too_many_quarantined(summary(0, 20), 0.0) is None
    found = outcome.too_many_quarantined(summary(2, 20), 0.05)
    assert found is not None
    assert found.startswith("2 of 20 clips are quarantined")
    assert "A/v_A_g01_c00: motion: broken" in found


def test_the_table_lists_counts_and_a_bounded_number_of_reasons() -> None:
    rows = outcome.table(summary(1500, 2000))
    assert {"what": "quarantined", "count": 1500, "detail": ""} in rows
    assert sum(row["detail"] == "motion: broken" for row in rows) == outcome.LISTED
    assert rows[-1] == {"what": "more quarantined clips", "count": 500, "detail": "see mocrop status"}
