"""First starts on a machine, several at once: nobody migrates another's database, and records outlast a server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from pipelines.execution.server_address import LOOPBACK, held_port
from tests.system.test_flow_server import SERVE, Served, wait_until_served

pytestmark = pytest.mark.soak
MOCROP = Path(sys.executable).with_name("mocrop")


def fresh(folder: Path) -> dict[str, str]:
    """The environment of someone who has started nothing yet."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    places = {"PREFECT_HOME": str(folder / "home"), "XDG_CACHE_HOME": str(folder / "cache")}
    return {**kept, **places, "PYTHONUNBUFFERED": "1", "DO_NOT_TRACK": "1"}


def test_three_first_runs_at_once_complete(synth_data: Path, tmp_path: Path) -> None:
    words = [MOCROP, "preprocess", "--source", synth_data / "UCF-101", "--recipe", "smoke", "--limit", "2"]
    runs = [
        subprocess.Popen(
            [*map(str, words), "--store", f"{number}.zarr", "--json"], cwd=tmp_path, env=fresh(tmp_path),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(3)
    ]  # fmt: skip
    ended = [(*run.communicate(timeout=600), run.returncode) for run in runs]
    assert [status for *_, status in ended] == [0, 0, 0], ended
    assert [json.loads(out)["done"] for out, *_ in ended] == [2, 2, 2]
    assert not list((tmp_path / "home").glob("*.db"))


def test_two_serves_at_once_start_and_records_outlast_a_server(tmp_path: Path) -> None:
    with ExitStack() as held:
        ports = [held.enter_context(held_port()) for _ in range(2)]
        serve_twice_and_again(tmp_path, ports)


def serve_twice_and_again(tmp_path: Path, ports: list[int]) -> None:
    """Two at once, and then the first of them once more."""
    environments = [fresh(tmp_path) | {"PREFECT_API_URL": f"http://{LOOPBACK}:{port}/api"} for port in ports]
    with ExitStack() as stack:
        started = []
        for number, environment in enumerate(environments):
            output = tmp_path / f"{number}.log"
            log = stack.enter_context(output.open("wb"))
            process = subprocess.Popen(SERVE, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT)
            stack.callback(process.wait, 600)
            stack.callback(process.send_signal, signal.SIGTERM)
            started.append(Served(environment, process, output))
        for served in started:
            wait_until_served(served.process, served.output)
            assert "starting a Prefect server" in served.output.read_text()
        asked = started[0].prefect("deployment", "run", "preprocess-ucf101/local", "--watch", "-p", "source=none",
                                   "-p", "store=none.zarr", folder=tmp_path)  # fmt: skip
        assert asked.returncode == 1, asked.stdout
        (run,) = started[0].read("flow_runs")

    output = tmp_path / "again.log"
    with output.open("wb") as log:
        process = subprocess.Popen(SERVE, cwd=tmp_path, env=environments[0], stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until_served(process, output)
            again = Served(environments[0], process, output)
            assert [record["id"] for record in again.read("flow_runs")] == [run["id"]]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(600)
