"""The services of docker/compose.yaml without containers: from a deployment run to a finished store.

The commands, settings and health checks are those of the compose file; only hosts, ports and paths are others.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pipelines.execution.deployment_alias import DEPLOYMENT
from pipelines.execution.server_address import LOOPBACK, held_port
from pipelines.runs.options import Options
from pipelines.store.summary import Summary
from tests.support.compose import DOCKER, environment_of, read_compose, without_containers
from tests.support.system_packages import needed

BIN = Path(sys.executable).parent
START_SECONDS = 300.0  # each is up in 10 to 20 s where nothing else runs
CLIPS = 5


@dataclass
class Process:
    """A server of the topology: its process and the file with all that it printed."""

    name: str
    process: subprocess.Popen[bytes]
    output: Path

    def said(self) -> str:
        return f"--- {self.name} ({self.process.poll()}):\n{self.output.read_text(errors='replace')[-3000:]}"


@dataclass
class Topology:
    """Processes that run commands of the compose file; all of them end when it is closed."""

    folder: Path
    places: dict[str, str]
    services: dict[str, Any]
    held: contextlib.ExitStack  # of ports, until all is closed
    running: list[Process] = field(default_factory=list)

    def start(self, service: str) -> None:
        """Start a process of a service."""
        self.run(service, without_containers(self.services[service]["command"], self.places), self.environment(service))

    def start_another(self, service: str, address: str) -> None:
        """Start one more, with another port for ``address``, which in a container of its own could be the same."""
        before = self.places[address]
        self.places[address] = f"{LOOPBACK}:{self.held.enter_context(held_port())}"
        self.start(service)
        self.places[address] = before

    def run(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        output = self.folder / f"{name}-{len(self.running)}.log"
        with output.open("wb") as file:
            process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
        self.running.append(Process(name, process, output))

    def environment(self, service: str) -> dict[str, str]:
        """The settings of the image and of the service, and the programs of this virtual environment first."""
        image = image_settings(DOCKER / "pipeline.Dockerfile")
        settings = environment_of({"environment": image | self.services[service].get("environment", {})}, self.places)
        return settings | {"HOME": str(self.folder), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}

    def wait_until_healthy(self, service: str) -> None:
        """Run the service's own health check until it says that all is well."""
        check = without_containers(self.services[service]["healthcheck"]["test"][1:], self.places)
        deadline = time.monotonic() + START_SECONDS
        while True:
            for process in self.running:
                assert process.process.poll() is None, self.said()
            found = subprocess.run(
                check, env=self.environment(service), capture_output=True, text=True, timeout=START_SECONDS
            )
            if found.returncode == 0:
                return
            assert time.monotonic() < deadline, f"{service}: {found.stdout}{found.stderr}\n{self.said()}"
            time.sleep(1.0)

    def said(self) -> str:
        return "\n".join(process.said() for process in self.running)

    def close(self) -> None:
        """End all, the database after those that use it."""
        for last in (False, True):
            ending = [one.process for one in self.running if (one.name == "postgres") == last]
            for process in ending:
                process.send_signal(signal.SIGINT if last else signal.SIGTERM)
            for process in ending:
                try:
                    process.wait(600)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def image_settings(dockerfile: Path) -> dict[str, str]:
    """What the image's last ENV sets, but for PATH."""
    body = re.findall(r"^ENV ((?:.*\\\n)*.*)$", dockerfile.read_text(), re.MULTILINE)[-1]
    pairs = (word.split("=", 1) for word in body.replace("\\\n", " ").split())
    return {name: value for name, value in pairs if name != "PATH"}


def postgres_bin() -> Path:
    needed("postgresql")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    assert found, "the package postgresql is there, but no /usr/lib/postgresql/<version>/bin/initdb"
    return found[-1].parent


@pytest.fixture
def database_folder() -> Iterator[Path]:
    """A folder that the database's user may enter, which pytest's own folders do not allow."""
    folder = Path(tempfile.mkdtemp(prefix="mocrop-postgres-"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def as_database_user(command: list[str]) -> list[str]:
    """The command as a user that is not root, which PostgreSQL refuses to run as."""
    if os.geteuid() != 0:
        return command
    user = pwd.getpwnam("postgres")
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", *command]


def start_postgres(topology: Topology, folder: Path, password: Path) -> None:
    """A database server with the user, the database and the password that the compose file's container would make."""
    programs, port = postgres_bin(), topology.places['"5432"']
    user = topology.services["postgres"]["environment"]["POSTGRES_USER"]
    copy = folder / "password"
    copy.write_text(password.read_text())
    copy.chmod(0o644)
    cluster = ["--pgdata", f"{folder}/data", "--username", user, "--pwfile", str(copy), "--auth", "scram-sha-256"]
    made = subprocess.run(
        as_database_user([str(programs / "initdb"), *cluster, "--encoding", "UTF8", "--no-sync"]),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    settings = ["-h", LOOPBACK, "-p", port, "-k", str(folder), "-c", "fsync=off"]
    topology.run("postgres", as_database_user([str(programs / "postgres"), "-D", f"{folder}/data", *settings]),
                 {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"})  # fmt: skip
    topology.wait_until_healthy("postgres")
    name = topology.services["postgres"]["environment"]["POSTGRES_DB"]
    created = subprocess.run(
        [str(programs / "createdb"), "--host", LOOPBACK, "--port", port, "--username", user, name],
        env={"PGPASSWORD": password.read_text(), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert created.returncode == 0, created.stderr


@pytest.fixture
def topology(tmp_path: Path, database_folder: Path) -> Iterator[Topology]:
    services = read_compose()["services"]
    passwords = {name: tmp_path / f"{name}_password" for name in ("postgres", "prefect")}
    for password in passwords.values():
        password.write_text(secrets.token_hex(24) + "/@: %")
    held = contextlib.ExitStack()
    ports = [str(held.enter_context(held_port())) for _ in range(5)]
    database, api, dask, page, worker = ports
    places = {
        **{f"/run/secrets/{name}_password": str(password) for name, password in passwords.items()},
        "/opt/mocrop/health.py": str(DOCKER / "health.py"),
        "/tmp/": f"{tmp_path}/",
        "0.0.0.0:8787": f"{LOOPBACK}:{page}",
        "127.0.0.1:8787": f"{LOOPBACK}:{page}",
        "127.0.0.1:8788": f"{LOOPBACK}:{worker}",
        "0.0.0.0": LOOPBACK,
        "prefect:4200": f"{LOOPBACK}:{api}",
        "4200": api,
        "tcp://dask-scheduler:8786": f"tcp://{LOOPBACK}:{dask}",
        "8786": dask,
    }
    made = Topology(tmp_path, places, services, held)
    made.places['"5432"'] = database
    services["prefect"]["environment"] |= {
        "PREFECT_SERVER_DATABASE_HOST": LOOPBACK,
        "PREFECT_SERVER_DATABASE_PORT": database,
    }
    services["postgres"]["healthcheck"]["test"] += ["--port", database]
    with held, contextlib.closing(made):
        yield made


def files_of(store: Path) -> dict[str, bytes]:
    """All of a store's files but the one that holds the seconds that its stages took."""
    files = {path.relative_to(store).as_posix(): path for path in store.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != "progress/zarr.json"}


@pytest.mark.soak
def test_the_composed_services_make_the_same_store_as_one_process(
    topology: Topology,
    database_folder: Path,
    ucf_options: Options,
    do_run: Callable[[Options], tuple[Summary, list[str]]],
    tmp_path: Path,
) -> None:
    start_postgres(topology, database_folder, tmp_path / "postgres_password")
    topology.start("prefect")
    topology.start("dask-scheduler")
    topology.wait_until_healthy("dask-scheduler")
    topology.start("dask-worker")
    topology.start_another("dask-worker", "127.0.0.1:8788")
    topology.wait_until_healthy("dask-worker")
    topology.wait_until_healthy("prefect")
    topology.start("serve")
    topology.wait_until_healthy("serve")

    dask = topology.places["tcp://dask-scheduler:8786"]
    values = {"source": ucf_options.source, "splits": ucf_options.splits, "store": tmp_path / "composed.zarr",
              "recipe": "smoke", "limit": CLIPS, "dask_address": dask}  # fmt: skip
    words = [word for name, value in values.items() for word in ("-p", f"{name}={value}")]
    run = subprocess.run(
        [BIN / "prefect", "deployment", "run", DEPLOYMENT, "--watch", *words],
        cwd=tmp_path,
        env=topology.environment("serve"),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout + run.stderr + topology.said()
    scheduler = next(one for one in topology.running if one.name == "dask-scheduler")
    assert scheduler.output.read_text().count("Register worker addr") == 2, topology.said()

    summary, _ = do_run(replace(ucf_options, store=str(tmp_path / "alone.zarr"), limit=CLIPS))
    assert summary.done == CLIPS
    composed, alone = files_of(tmp_path / "composed.zarr"), files_of(tmp_path / "alone.zarr")
    assert len(alone) > 20
    assert [name for name in composed.keys() | alone.keys() if composed.get(name) != alone.get(name)] == []

    api = topology.environment("serve")["PREFECT_API_URL"]
    for host, status in (("evil.example", 400), (urlsplit(api).netloc, 401)):
        request = urllib.request.Request(f"{api}/admin/version", headers={"Host": host})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=60)
        assert refused.value.code == status
    with urllib.request.urlopen(api.removesuffix("/api"), timeout=60) as page:
        assert b"<html" in page.read().lower(), "the image's folder for Prefect's page cannot be used"
