"""What docker/ holds, without a Docker engine: linted, valid by its schema, and keeping to rules of our own."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from setuptools import find_packages

from pipelines.execution.server_address import held_port
from tests.support.compose import DOCKER, FILE, read_compose

BIN = Path(sys.executable).parent
REPOSITORY = DOCKER.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
SERVICES: dict[str, dict[str, Any]] = read_compose()["services"]


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=600)


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """A Dockerfile's instructions with their words, lines joined, comments left out."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word.upper(), rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines()) if word]


def final_stage(dockerfile: Path) -> list[tuple[str, str]]:
    found = instructions(dockerfile)
    return found[max(i for i, (word, _) in enumerate(found) if word == "FROM") :]


def values(found: list[tuple[str, str]], word: str) -> list[str]:
    return [rest for name, rest in found if name == word]


def test_there_is_an_image_for_the_pipeline_and_one_for_training() -> None:
    assert [path.name for path in DOCKERFILES] == ["pipeline.Dockerfile", "training.Dockerfile"]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    found = run(BIN / "hadolint", "--failure-threshold", "style", dockerfile)
    assert (found.returncode, found.stdout) == (0, ""), found.stdout + found.stderr


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python\nRUN cd /x && pip install numpy\n")
    assert "DL3006" in run(BIN / "hadolint", bad).stdout


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_pinned_built_in_stages_and_runs_as_nobody_special(dockerfile: Path) -> None:
    everything, final = instructions(dockerfile), final_stage(dockerfile)
    assert len(values(everything, "FROM")) == 2
    (base,) = [rest for rest in values(everything, "ARG") if rest.startswith("PYTHON_IMAGE=")]
    python = re.fullmatch(r"PYTHON_IMAGE=python:(\d+\.\d+\.\d+)-slim-\w+@sha256:[0-9a-f]{64}", base)
    assert python is not None, "a whole version, the distribution's name and the image's digest"
    assert SpecifierSet(PROJECT["requires-python"]).contains(python[1])
    installs = [rest for rest in values(everything, "RUN") if "pip install" in rest]
    assert installs
    assert all("--constraint constraints.txt" in rest for rest in installs)
    assert values(final, "USER") == ["1000:1000"]
    assert [rest for rest in values(final, "RUN") if "pip" in rest or "apt" in rest] == []
    assert len(values(final, "HEALTHCHECK")) == 1
    labels = " ".join(values(final, "LABEL"))
    for name in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{name}=" in labels
    assert f"VERSION={PROJECT['version']}" in values(final, "ARG")


def test_the_version_of_ffmpeg_is_pinned_with_the_rest() -> None:
    pins = {
        Requirement(line).name: Requirement(line)
        for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    assert str(pins["imageio-ffmpeg"].specifier).startswith("==")
    wanted = [Requirement(line).name for line in PROJECT["dependencies"]]
    assert [name for name in wanted if name.replace("_", "-").lower() not in {key.lower() for key in pins}] == []


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_all_that_is_copied_is_there_and_nothing_else_is_sent(dockerfile: Path) -> None:
    rules = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    sent = {rule[1:] for rule in rules if rule.startswith("!")}
    copies = [rest.split()[:-1] for rest in values(instructions(dockerfile), "COPY") if not rest.startswith("--from")]
    copied = {name for names in copies for name in names}
    assert copied
    assert copied <= sent
    assert all((REPOSITORY / name).exists() for name in sent)
    found = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    packages = {name.split(".")[0] for name in find_packages(str(REPOSITORY), include=found["include"])}
    assert {"mocrop", "mocrop_core", "pipelines"} <= packages
    assert packages <= copied


def test_the_compose_file_is_valid_by_the_schema_and_a_wrong_one_is_not(tmp_path: Path) -> None:
    check = (BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec")
    found = run(*check, FILE)
    assert found.returncode == 0, found.stdout + found.stderr
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(FILE.read_text().replace("healthcheck:", "health_check:"))
    assert run(*check, wrong).returncode == 1


def test_every_port_is_on_loopback_alone() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)


def test_no_secret_is_in_the_file_or_would_get_into_git_or_an_image() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            secret = re.search("PASSWORD|SECRET|TOKEN|KEY", variable)
            assert not secret or value.startswith("/run/secrets/"), (name, variable)
    assert not re.search(r"://[^/\s]*:[^/\s]*@", FILE.read_text() + (DOCKER / "example.env").read_text())
    files = {entry["file"] for entry in read_compose()["secrets"].values()}
    assert files == {"./secrets/postgres_password", "./secrets/prefect_password"}
    assert {"/docker/secrets/", "/docker/.env"} <= set((REPOSITORY / ".gitignore").read_text().splitlines())


def test_web_pages_cannot_use_the_prefect_server() -> None:
    settings = SERVICES["prefect"]["environment"]
    assert settings["MOCROP_PREFECT_SECRET"] == SERVICES["serve"]["environment"]["MOCROP_PREFECT_SECRET"]
    assert settings["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] == "true"
    (port,) = SERVICES["prefect"]["ports"]
    own = {f"http://{host}:{port.split(':')[1]}" for host in ("127.0.0.1", "localhost")}
    assert set(settings["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"].split(",")) == own


def test_every_service_is_pinned_checked_and_without_rights_it_does_not_need() -> None:
    assert set(SERVICES) == {"postgres", "prefect", "dask-scheduler", "dask-worker", "serve", "train"}
    for name, service in SERVICES.items():
        assert re.search(r":\d+\.\d+", service["image"]), f"{name}: an image's version"
        assert service["healthcheck"]["test"][0] == "CMD"
        assert "no-new-privileges:true" in service["security_opt"]
        if name == "postgres":
            assert re.search(r"@sha256:[0-9a-f]{64}$", service["image"]), "an image that others build: its digest too"
        else:
            assert service["image"].endswith(f":{PROJECT['version']}")
            assert service["cap_drop"] == ["ALL"]
            assert service["read_only"] is True
            assert (REPOSITORY / service["build"]["dockerfile"]).is_file()
        for needed, condition in service.get("depends_on", {}).items():
            assert needed in SERVICES
            assert condition == {"condition": "service_healthy"}
    assert [name for name, service in SERVICES.items() if service.get("profiles") == ["gpu"]] == ["train"]
    assert all("profiles" not in service for name, service in SERVICES.items() if name != "train")
    (device,) = SERVICES["train"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_those_who_read_and_write_videos_share_one_folder() -> None:
    mounts = {
        name: service["volumes"] for name, service in SERVICES.items() if name in ("dask-worker", "serve", "train")
    }
    assert mounts == {name: ["data:/data"] for name in ("dask-worker", "serve", "train")}
    given = read_compose({"MOCROP_DATA": "/srv/videos", "MOCROP_WORKERS": "7"})["services"]
    assert given["serve"]["volumes"] == ["/srv/videos:/data"]
    assert given["dask-worker"]["deploy"]["replicas"] == "7"


def test_every_variable_is_explained_in_the_example() -> None:
    used = set(re.findall(r"\$\{(\w+)", FILE.read_text()))
    explained = set(re.findall(r"^(\w+)=", (DOCKER / "example.env").read_text(), re.MULTILINE))
    assert used == explained


def test_the_health_check_fails_where_nothing_answers() -> None:
    with held_port() as port:
        found = run(sys.executable, DOCKER / "health.py", f"http://127.0.0.1:{port}/health")
    assert found.returncode == 1
    assert "refused" in found.stdout
    assert run(sys.executable, DOCKER / "health.py").returncode == 1


def test_who_follows_the_head_of_the_compose_file_runs_services_that_can_read_the_password(tmp_path: Path) -> None:
    head = [line[6:] for line in FILE.read_text().splitlines() if line.startswith("#     ")]
    first = next(i for i, line in enumerate(head) if line.startswith("docker compose"))
    assert first == 3
    (tmp_path / "docker").mkdir()
    subprocess.run(["sh", "-euc", "\n".join(head[:first])], cwd=tmp_path, check=True, timeout=600)
    passwords = [tmp_path / "docker" / "secrets" / f"{name}_password" for name in ("postgres", "prefect")]
    assert len({password.read_text() for password in passwords}) == 2
    for password in passwords:
        assert len(password.read_text().strip()) == 48
        owner = password.stat()
        assert owner.st_mode & 0o777 == 0o600
    written = dict(line.split("=") for line in (tmp_path / "docker" / ".env").read_text().splitlines())
    services = read_compose(written)["services"]
    assert services["prefect"]["user"] == f"{owner.st_uid}:{owner.st_gid}"
    assert services["serve"]["volumes"] == [f"{tmp_path}/data:/data"]
