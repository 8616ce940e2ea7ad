"""The flow against a real Prefect server: served, started from a second process, watched to its end."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from pipelines.execution import server_address
from pipelines.execution.deployment_alias import DEPLOYMENT, FLOW
from pipelines.execution.server_address import held_port
from pipelines.execution.server_secret import secret_path
from pipelines.runs.opening import open_run
from pipelines.runs.options import Options
from pipelines.stages.tasks import DOES, ONE_PASS, STAGES
from tests.places import ROOT, SUPPORT
from tests.support.browser import Browser, open_chromium, website
from tests.support.environments import proxied, recording_proxy, write_hostile_modules
from tests.support.listening import is_loopback, listening, tree
from tests.support.saboteurs import wait_until

REPOSITORY = ROOT
PREFECT = [sys.executable, "-m", "prefect"]
SERVE = [Path(sys.executable).with_name("mocrop"), "serve"]


@dataclass(frozen=True, slots=True)
class Served:
    """``mocrop serve`` in a process of its own: what Prefect's commands need to reach it, and what it prints."""

    environment: dict[str, str]
    process: subprocess.Popen[bytes]
    output: Path

    def prefect(self, *words: str, folder: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
        """Prefect's command line in another process."""
        return subprocess.run(
            [*PREFECT, *words], cwd=folder, env=self.environment, text=True, capture_output=True, timeout=600
        )

    @property
    def secret(self) -> str:
        """The password that the server has left for its user."""
        port = server_address.port_of(self.environment["PREFECT_API_URL"])
        return secret_path(Path(self.environment["PREFECT_HOME"]), port).read_text()

    @property
    def url(self) -> str:
        """Where its API is."""
        return self.environment["PREFECT_API_URL"]

    def ask(self, path: str, body: Any = None, **headers: str) -> Any:
        """What the API answers to somebody who has the password."""
        request = urllib.request.Request(
            f"{self.url}/{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Basic {base64.b64encode(self.secret.encode()).decode()}", **headers},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def post(self, path: str, body: Any) -> Any:
        """The same for a request that has to show the token against forged ones."""
        token = self.ask("csrf-token?client=tests")["token"]
        known = {"Prefect-Csrf-Client": "tests", "Prefect-Csrf-Token": token, "Content-Type": "application/json"}
        return self.ask(path, body, **known)

    def read(self, kind: str, **filters: Any) -> list[dict[str, Any]]:
        """Records of the server, newest first."""
        return sorted(self.post(f"{kind}/filter", filters), key=lambda record: record["created"], reverse=True)

    def deployment(self) -> dict[str, Any]:
        """The one that is served, which the server has soon after it was announced."""
        assert wait_until(lambda: self.read("deployments"))
        (found,) = self.read("deployments")
        return found

    def start(self, **parameters: Any) -> dict[str, Any]:
        """Ask for a run, as Prefect's command line does."""
        asked = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        run: dict[str, Any] = self.post(f"deployments/{self.deployment()['id']}/create_flow_run", asked)
        return run

    def refusal(self, **parameters: Any) -> str:
        """Ask for a run with wrong parameters; what the server says to it."""
        with pytest.raises(urllib.error.HTTPError) as refused:
            self.start(**parameters)
        assert 400 <= refused.value.code < 500
        return refused.value.read().decode()


def wait_until_served(process: subprocess.Popen[bytes], output: Path) -> None:
    assert wait_until(lambda: "serving " in output.read_text() or process.poll() is not None, 180), output.read_text()
    assert process.poll() is None, output.read_text()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server and one served deployment for this module; both are ended through the one process started here.

    Proxies are named where it starts, and the folder has modules that nobody should import.
    """
    home = tmp_path_factory.mktemp("prefect")
    executed = write_hostile_modules(home / "here")
    output = home / "serve.log"
    output.touch(0o600)
    with recording_proxy() as (address, asked), output.open("wb") as log, held_port() as port:
        environment = {
            **os.environ,
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": f"http://{server_address.LOOPBACK}:{port}/api",
            "DO_NOT_TRACK": "1",
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "200",
        }
        process = subprocess.Popen(
            SERVE, cwd=executed.parent, env=environment | proxied(address), stdout=log, stderr=subprocess.STDOUT
        )
        try:
            wait_until_served(process, output)
            served = Served(environment, process, output)
            served.deployment()
            yield served
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(600)
    assert asked == []
    assert not executed.exists(), executed.read_text()
    assert not server_address.answers(environment["PREFECT_API_URL"]), "the server outlived the process that started it"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


def run_arguments(source: Path, store: Path, **more: Any) -> list[str]:
    values = {"source": source, "store": store, "recipe": "smoke", "workers": 1, "limit": 2, **more}
    return [word for name, value in values.items() for word in ("-p", f"{name}={value}")]


@pytest.mark.parametrize(
    ("more", "passes"),
    [({}, STAGES), pytest.param({"discard_h264": "true"}, (ONE_PASS,), marks=pytest.mark.soak)],
    ids=["four stages", "one pass"],
)
def test_a_run_started_by_its_bare_name_from_a_second_process_completes_and_leaves_its_artifacts(
    served: Served, synth_data: Path, tmp_path: Path, more: dict[str, str], passes: tuple[str, ...]
) -> None:
    words = run_arguments(synth_data / "UCF-101", tmp_path / "a.zarr", **more)
    found = served.prefect("deployment", "run", "--watch", *words, FLOW)
    assert found.returncode == 0, found.stdout + found.stderr + served.output.read_text()
    assert f"'{DEPLOYMENT}'" in found.stdout
    assert "Completed" in found.stdout
    assert (tmp_path / "a.zarr" / "zarr.json").is_file()

    run = served.read("flow_runs")[0]
    assert run["state"]["message"] == "2 clips: 2 done, 0 quarantined, 0 pending"

    def tasks() -> list[str]:
        """The names of the run's tasks; the server writes them down when it gets to it."""
        of_this_run = {"task_runs": {"flow_run_id": {"any_": [run["id"]]}}}
        return sorted(record["name"] for record in served.read("task_runs", **of_this_run))

    assert wait_until(lambda: len(tasks()) == len(passes)), tasks()
    names = tasks()
    assert [name.split(":")[0] for name in names] == sorted(passes)
    assert all(name.endswith("shards to do") for name in names)
    artifacts = {record["key"]: record for record in served.read("artifacts")}
    for stage in passes:
        assert artifacts[f"{FLOW}-{stage}"]["data"] == 100
        assert artifacts[f"{FLOW}-{stage}"]["description"] == f"{DOES[stage]}: 2 of 2 clips"
    rows = json.loads(artifacts[f"{FLOW}-result"]["data"])
    assert {"what": "done", "count": 2, "detail": ""} in rows
    sheet = artifacts[f"{FLOW}-contact-sheet"]
    assert sheet["type"] == "image"
    kind, _, picture = sheet["data"].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(picture))).width > 400, "two clips side by side"


@pytest.mark.soak
def test_where_the_hook_is_off_the_bare_name_is_refused(served: Served, tmp_path: Path) -> None:
    off = replace(served, environment=served.environment | {"PREFECT_PLUGINS_ENABLED": "false"})
    found = off.prefect("deployment", "run", FLOW, folder=tmp_path)
    assert found.returncode == 1
    assert "Invalid deployment name" in found.stdout + found.stderr


@pytest.mark.parametrize("password", ["", "mocrop:guessed"])
def test_clients_without_the_password_are_refused(served: Served, password: str) -> None:
    assert served.deployment()
    given = {"Authorization": f"Basic {base64.b64encode(password.encode()).decode()}"} if password else {}
    for path in ("admin/version", "csrf-token?client=tests", "deployments/name/preprocess-ucf101/local"):
        assert served.ask(path)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(f"{served.url}/{path}", headers=given), timeout=60)
        assert refused.value.code == 401


def test_the_password_is_new_and_for_its_user_alone_and_nothing_else_shows_it(served: Served) -> None:
    home = Path(served.environment["PREFECT_HOME"])
    port = server_address.port_of(served.environment["PREFECT_API_URL"])
    assert re.fullmatch(r"mocrop:[\w-]{43}", served.secret)
    assert secret_path(home, port).stat().st_mode & 0o777 == 0o600
    processes = [Path(f"/proc/{process}/cmdline") for process in tree(served.process.pid)]
    assert len(processes) > 1
    assert not any(served.secret.encode() in process.read_bytes() for process in processes)


@pytest.mark.soak
def test_the_page_works_in_a_browser_from_the_printed_link(served: Served, chromium: Browser) -> None:
    (link,) = re.findall(r"the page is (http\S+);", served.output.read_text())
    assert link.endswith(f"#{quote(served.secret)}")
    chromium.get(link)
    page = WebDriverWait(chromium, 120, poll_frequency=0.2, ignored_exceptions=[WebDriverException])
    page.until(lambda browser: "login" not in browser.current_url)
    chromium.get(f"{link.partition('/login')[0]}/deployments")
    page.until(lambda browser: FLOW in browser.find_element(By.TAG_NAME, "body").text)
    assert served.secret not in chromium.current_url
    chromium.execute_script("localStorage.clear()")
    chromium.get(f"{link.partition('/login')[0]}/deployments")
    page.until(lambda browser: "/login" in browser.current_url)


def test_a_page_of_another_origin_gets_nothing_done_and_reads_nothing(
    served: Served, chromium: Browser, tmp_path: Path
) -> None:
    kinds = ("variables", "flows", "work_pools", "deployments", "flow_runs")
    before = {kind: len(served.read(kind)) for kind in kinds}
    shutil.copy(SUPPORT / "hostile_page.html", tmp_path / "page.html")
    with website(tmp_path) as port:
        for host in ("localhost", "127.0.0.1"):
            chromium.get(f"http://{host}:{port}/page.html#{served.environment['PREFECT_API_URL']}")
            WebDriverWait(chromium, 120).until(lambda browser: browser.title.startswith("{"))
            found = json.loads(chromium.title)
            assert len(found) == 26
            assert {what for name, what in found.items() if "socket" in name} == {"closed"}
            assert {what for name, what in found.items() if name.endswith("unread")} == {"opaque"}
            rest = {name: what for name, what in found.items() if "socket" not in name and not name.endswith("unread")}
            assert set(rest.values()) == {"blocked"}, rest
    assert {kind: len(served.read(kind)) for kind in kinds} == before


@pytest.mark.parametrize("host", ["rebound.example", "rebound.example:4200", "127.0.0.1.rebound.example", ""])
@pytest.mark.parametrize("path", ["/", "/api/health", "/api/admin/version", "/login-link"])
def test_a_request_to_a_host_that_is_not_loopback_is_refused(served: Served, host: str, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server_address.port_of(served.environment["PREFECT_API_URL"]))
    connection.request("GET", path, headers={"Host": host})
    assert connection.getresponse().status == 400


@pytest.mark.soak
def test_a_run_with_too_many_quarantined_clips_fails_and_says_why(
    served: Served, synth_data: Path, tmp_path: Path
) -> None:
    source = tmp_path / "videos" / "Broken"
    source.mkdir(parents=True)
    (source / "v_Broken_g01_c01.avi").write_bytes(b"RIFF, but no video")
    good = next(iter(sorted((synth_data / "UCF-101").rglob("*.avi"))))
    (source / "v_Broken_g01_c02.avi").write_bytes(good.read_bytes())
    words = run_arguments(source.parent, tmp_path / "broken.zarr")
    found = served.prefect("deployment", "run", "--watch", *words, DEPLOYMENT)
    assert found.returncode == 1, found.stdout
    run = served.read("flow_runs")[0]
    assert run["state"]["type"] == "FAILED"
    assert run["state"]["message"].startswith("1 of 2 clips are quarantined, more than --max-quarantined 0.05")
    table = next(record for record in served.read("artifacts") if record["key"] == f"{FLOW}-result")
    assert any("transcode: " in row["detail"] for row in json.loads(table["data"]))


@pytest.mark.soak
def test_a_stage_that_fails_for_good_leaves_the_table_and_the_boxes_of_what_is_there(
    served: Served, synth_data: Path, tmp_path: Path
) -> None:
    store = tmp_path / "stuck.zarr"
    with open_run(Options(str(synth_data / "UCF-101"), str(store), recipe="smoke", limit=2)):
        pass
    (store / "views" / "mocrop" / "frames" / "c.0.0.0.0.0" / "in the way of the crops").mkdir(parents=True)
    before = [record["id"] for record in served.read("artifacts")]
    words = run_arguments(synth_data / "UCF-101", store)
    found = served.prefect("deployment", "run", DEPLOYMENT, "--watch", *words, folder=tmp_path)
    assert found.returncode == 1, found.stdout
    message = served.read("flow_runs")[0]["state"]["message"]
    assert message.startswith("clips: shard 0 failed 3 times: ")
    artifacts = {record["key"]: record for record in served.read("artifacts") if record["id"] not in before}
    rows = json.loads(artifacts[f"{FLOW}-result"]["data"])
    assert {"what": "stage boxes", "count": 1, "detail": "of 1 shards"} in rows
    assert {"what": "stage clips", "count": 0, "detail": "of 1 shards"} in rows
    assert {"what": "pending", "count": 2, "detail": ""} in rows
    assert artifacts[f"{FLOW}-contact-sheet"]["type"] == "image"


@pytest.mark.soak
def test_a_wrong_source_ends_a_served_run_with_the_one_line(served: Served, tmp_path: Path) -> None:
    words = run_arguments(tmp_path / "nowhere", tmp_path / "none.zarr")
    found = served.prefect("deployment", "run", DEPLOYMENT, "--watch", *words, folder=tmp_path)
    assert found.returncode == 1
    message = served.read("flow_runs")[0]["state"]["message"]
    assert "nowhere" in message
    assert "\n" not in message
    assert not (tmp_path / "none.zarr").exists()


@pytest.mark.soak
def test_a_caller_cannot_have_the_server_open_an_address_of_its_choice(
    served: Served, synth_data: Path, tmp_path: Path
) -> None:
    with recording_proxy() as (address, asked):
        source, store = str(synth_data / "UCF-101"), tmp_path / "a.zarr"
        run = served.start(source=source, store=str(store), dask_address=f"tcp://{address}")

        def state() -> Any:
            return served.ask(f"flow_runs/{run['id']}")["state"]

        assert wait_until(lambda: state()["type"] in ("COMPLETED", "FAILED", "CRASHED"))
        assert state()["type"] == "FAILED"
        assert asked == []
    message = state()["message"]
    assert message.startswith(f"dask_address 'tcp://{address}': this server does not allow this address; ")
    assert not store.exists()


def test_the_page_draws_the_form_from_the_recipe_and_the_docstring(served: Served) -> None:
    from pipelines.flow import preprocess_ucf101

    deployment = served.deployment()
    schema = deployment["parameter_openapi_schema"]
    assert deployment["name"] == "local"
    assert deployment["description"] == preprocess_ucf101.description
    assert deployment["description"].startswith("Preprocess a folder of videos into a store of motion-guided boxes")
    assert schema["required"] == ["source", "store"]
    assert schema["properties"]["source"]["description"].startswith("folder of the videos")
    assert {"views", "transcode", "frames", "seed"} <= schema["definitions"]["Recipe"]["properties"].keys()
    assert [choice.get("type") or choice["$ref"] for choice in schema["properties"]["recipe"]["anyOf"]] == [
        "string",
        "#/definitions/Recipe",
    ]
    assert schema["properties"]["max_quarantined"]["maximum"] == 1


def test_a_value_out_of_range_is_refused_when_the_run_is_asked_for(served: Served, tmp_path: Path) -> None:
    refused = served.refusal(source=str(tmp_path), store=str(tmp_path / "x.zarr"), max_quarantined=2)
    assert "max_quarantined" in refused


def test_credentials_in_a_url_are_refused_before_the_server_keeps_them(served: Served, tmp_path: Path) -> None:
    refused = served.refusal(source=str(tmp_path), store="s3://key:s3cr3t-of-a-user@bucket/x.zarr")
    assert "store" in refused
    home = Path(served.environment["PREFECT_HOME"])
    kept = [path for path in home.rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in kept)
    assert [path for path in kept if b"s3cr3t-of-a-user" in path.read_bytes()] == []


def test_all_that_serve_listens_on_is_loopback(served: Served) -> None:
    found = listening(served.process.pid)
    port = server_address.port_of(served.environment["PREFECT_API_URL"])
    assert f"{server_address.LOOPBACK} {port}" in found
    assert [place for place in found if not is_loopback(place)] == []


@pytest.mark.soak
def test_a_second_serve_uses_the_server_that_is_there(served: Served, tmp_path: Path) -> None:
    output = tmp_path / "second.log"
    with output.open("wb") as log:
        second = subprocess.Popen(SERVE, cwd=tmp_path, env=served.environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until_served(second, output)
        finally:
            second.send_signal(signal.SIGTERM)
            second.wait(600)
    assert "starting a Prefect server" not in output.read_text()
    assert server_address.answers(served.environment["PREFECT_API_URL"])
