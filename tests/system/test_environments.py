"""What stands in a user's environment and must not matter: proxies, modules in the current folder, warnings."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pipelines.acquire.download import DownloadError, Wanted, download
from pipelines.execution import proxies
from pipelines.execution.process_setup import environment
from pipelines.execution.worker import attempt_apart
from pipelines.runs.opening import open_run
from pipelines.runs.options import Options
from tests.support.environments import proxied, recording_proxy, write_hostile_modules


@pytest.fixture
def loopback_server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_loopback_is_reached_directly_whatever_proxies_are_named(
    loopback_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):  # a command that ran in this process has set them for good
        monkeypatch.delenv(name, raising=False)
    with recording_proxy() as (address, asked):
        with environment(HTTP_PROXY=f"http://{address}"):
            with pytest.raises(httpx.HTTPError):
                httpx.get(loopback_server, timeout=600)
            assert asked, "the proxy that this test is about is not used at all"
            asked.clear()
        with environment(**proxied(address)), environment(**proxies.around_loopback()):
            assert httpx.get(loopback_server, timeout=600).status_code == 200
            assert os.environ["HTTP_PROXY"] == f"http://{address}", "object stores may need it"
            assert os.environ["NO_PROXY"] == "example.org,127.0.0.1,localhost,::1"
        assert asked == []


@pytest.mark.parametrize("value", ["socks4://a:1", "socks://a:1", "http://a:port", "http://[::1", "ftp://a", " ", "*"])
def test_a_variable_that_names_no_proxy_stops_no_client(loopback_server: str, value: str) -> None:
    with environment(ALL_PROXY=value), environment(**proxies.around_loopback()):
        assert httpx.get(loopback_server, timeout=600).status_code == 200


@pytest.mark.parametrize("entry", ["[::1]", "fe80::/10", "é.x", "a:b:c", "x://:-", "*", ".local", "10.0.0.0/8", " ,, "])
def test_an_entry_of_no_proxy_that_httpx_refuses_stops_no_client(loopback_server: str, entry: str) -> None:
    with recording_proxy() as (address, asked):
        with environment(HTTP_PROXY=f"http://{address}", NO_PROXY=entry), environment(**proxies.around_loopback()):
            assert httpx.get(loopback_server, timeout=600).status_code == 200
        assert asked == []


def test_a_download_through_what_is_no_proxy_is_one_line(loopback_server: str, tmp_path: Path) -> None:
    wanted = Wanted(tmp_path / "file", (loopback_server,), None, False)
    with (
        environment(ALL_PROXY="socks://a:1"),
        pytest.raises(DownloadError, match=r"^a proxy .*ALL_PROXY.*'socks://a:1'"),
    ):
        download(wanted)


def test_warnings_that_the_environment_makes_errors_are_warnings_again_here_and_in_children() -> None:
    code = """
import os, subprocess, sys, warnings
from pipelines.execution.process_setup import warn_only
warn_only()
warnings.warn("one", UserWarning)
warnings.warn("two", DeprecationWarning)
import multiprocessing.util
flags = multiprocessing.util._args_from_interpreter_flags()
print([flag for flag in flags if flag.startswith("-W")], os.environ.get("PYTHONWARNINGS"))
"""
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONWARNINGS": "error"}, text=True, capture_output=True, timeout=600,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "UserWarning: one" in found.stderr
    assert found.stdout == "[] None\n"


def test_settings_that_prefect_refuses_are_one_line_before_any_work(synth_data: Path, tmp_path: Path) -> None:
    (tmp_path / "profiles.toml").write_text("[[")
    words = ["preprocess", "--source", str(synth_data / "UCF-101"), "--store", "a.zarr"]
    found = subprocess.run(
        [Path(sys.executable).with_name("mocrop"), *words], cwd=tmp_path, text=True, capture_output=True, timeout=600,
        env={**os.environ, "PREFECT_HOME": str(tmp_path)},
    )  # fmt: skip
    assert found.returncode == 1
    assert found.stderr.startswith("mocrop: Prefect refuses its settings (PREFECT_ variables, profiles.toml, ")
    assert len(found.stderr.splitlines()) == 1
    assert not (tmp_path / "a.zarr").exists()


def test_a_shards_own_process_imports_nothing_out_of_the_current_folder(
    synth_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record = write_hostile_modules(tmp_path / "here")
    control = subprocess.run(
        [sys.executable, "-c", "import random"], cwd=record.parent, capture_output=True, timeout=600
    )
    assert control.returncode == 1
    assert record.read_text()  # which module is first depends on the Python
    record.unlink()
    monkeypatch.chdir(record.parent)
    with open_run(Options(str(synth_data / "UCF-101"), str(tmp_path / "a.zarr"), recipe="smoke", limit=1)) as run:
        (plan,) = run.pending("transcode")
        found = attempt_apart(plan, run.recipe)
    assert found.report is not None, found.error
    assert not record.exists(), record.read_text()
