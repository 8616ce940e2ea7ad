"""The doctor: it finds this machine well, and names each fault and its remedy."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pipelines.cli import doctor
from pipelines.cli.doctor import Check


@pytest.fixture(scope="module")
def found() -> dict[str, Check]:
    seen: list[Check] = []
    checks = doctor.checks(on_check=seen.append)
    assert seen == checks
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


def script(path: Path, text: str, mode: int = 0o755) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def ffmpeg_findings(monkeypatch: pytest.MonkeyPatch, path: Path) -> list[Check]:
    monkeypatch.setenv("MOCROP_FFMPEG", str(path))
    return list(doctor.video_checks())


def test_this_machine_is_well(found: dict[str, Check]) -> None:
    assert {name: check for name, check in found.items() if not check.ok} == {}
    assert all(check.found and not check.remedy for check in found.values())
    assert {"python", "mocrop", "av", "numpy", "zarr", "prefect", "dask", "fastapi", "torch"} <= set(found)
    assert {"ffmpeg", "disk", "memory", "prefect server"} <= set(found)
    assert found["python"].found == ".".join(map(str, sys.version_info[:3]))
    assert "libx264" in found["ffmpeg"].found


@pytest.mark.parametrize("codec", ["MPEG-4", "H.264"])
def test_a_video_is_written_and_gives_motion_vectors(codec: str, found: dict[str, Check]) -> None:
    frames, vectors = (int(part.split()[0]) for part in found[f"{codec} round trip"].found.split(","))
    assert frames == 12
    assert vectors > 100


def test_what_only_developers_need_is_not_looked_for(found: dict[str, Check]) -> None:
    assert not {"ruff", "mypy", "pytest", "hypothesis"} & set(found)


def test_an_ffmpeg_that_is_not_executable_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (check,) = ffmpeg_findings(monkeypatch, script(tmp_path / "ffmpeg", "#!/bin/sh\n", mode=0o644))
    assert (check.name, check.ok) == ("ffmpeg", False)
    assert "MOCROP_FFMPEG names a program that cannot be run" in check.found
    assert "unset MOCROP_FFMPEG" in check.remedy
    assert "apt install ffmpeg" in check.remedy


def test_an_ffmpeg_that_is_not_there_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (check,) = ffmpeg_findings(monkeypatch, tmp_path / "nowhere")
    assert not check.ok
    assert "unset MOCROP_FFMPEG" in check.remedy


def test_an_ffmpeg_without_libx264_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = """#!/bin/sh
    if [ "$1" = -version ]; then echo "ffmpeg version 7.1"; exit 0; fi
    cat > /dev/null
    echo "[error] Unknown encoder 'libx264'" >&2
    exit 8
    """
    (check,) = ffmpeg_findings(monkeypatch, script(tmp_path / "ffmpeg", text.replace("\n    ", "\n")))
    assert not check.ok
    assert "cannot encode with libx264 (Unknown encoder 'libx264')" in check.found
    assert "install an ffmpeg with libx264" in check.remedy


def test_an_ffmpeg_that_writes_nothing_to_read_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = '#!/bin/sh\n[ "$1" = -version ] && echo "ffmpeg version 7.1"\ncat > /dev/null\n'
    tool, *trials = ffmpeg_findings(monkeypatch, script(tmp_path / "ffmpeg", text))
    assert tool.ok
    assert "named by MOCROP_FFMPEG" in tool.found
    assert [trial.name for trial in trials] == ["MPEG-4 round trip", "H.264 round trip"]
    for trial in trials:
        assert not trial.ok
        assert trial.found
        assert "MOCROP_FFMPEG" in trial.remedy


def test_a_version_out_of_range_is_a_finding_with_the_command_that_repairs_it() -> None:
    assert doctor.package_check(Requirement("numpy>=2"), None).ok
    old = doctor.package_check(Requirement("numpy>=99,<100"), None)
    assert not old.ok
    assert ", needed <100,>=99" in old.found
    assert old.remedy == 'pip install "numpy<100,>=99"'
    server = doctor.package_check(Requirement("fastapi<0.1"), None)
    assert "the Prefect server does not start with it" in server.found
    assert server.remedy == 'pip install "fastapi<0.1"'


def test_an_absent_package_is_an_error_only_where_it_is_no_extra() -> None:
    absent = doctor.package_check(Requirement("no-such-package>=1"), None)
    assert (absent.ok, absent.found) == (False, "not installed")
    assert absent.remedy == 'pip install "no-such-package>=1"'
    extra = doctor.package_check(Requirement("no-such-package>=1"), "train")
    assert (extra.ok, extra.remedy) == (True, "")
    assert (extra.absent, extra.found) == (True, 'not installed; part of the extra "train"')


def test_a_torchvision_made_for_another_torch_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script(tmp_path / "torch.py", "")
    script(tmp_path / "torchvision.py", "raise RuntimeError('operator torchvision::nms does not exist')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check = doctor.torch_check()
    assert not check.ok
    assert check.found.endswith("RuntimeError: operator torchvision::nms does not exist")
    assert "install both from one index" in check.remedy


def test_disk_is_measured_where_a_new_folder_would_be(tmp_path: Path) -> None:
    check = doctor.disk_check(tmp_path / "new" / "store")
    assert check.ok
    assert f"GiB free at {tmp_path};" in check.found
    file = script(tmp_path / "file", "")
    assert not doctor.disk_check(file).ok
    assert not doctor.disk_check(file / "below").ok
    assert list(tmp_path.iterdir()) == [file]


def test_too_little_disk_or_memory_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "LEAST_DISK", 2**70)
    monkeypatch.setattr(doctor, "LEAST_MEMORY", 2**70)
    for check, advice in (
        (doctor.disk_check(tmp_path), "mocrop plan"),
        (doctor.memory_check(), "--workers 1"),
    ):
        assert not check.ok
        assert advice in check.remedy


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()
        self.wfile.write(b"true")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api_url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()
        thread.join()


def test_a_prefect_server_is_looked_for_and_not_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, api_url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert doctor.prefect_check() == Check(
        "prefect server", True, "PREFECT_API_URL is not set: each run starts its own server"
    )
    script(tmp_path / "prefect.toml", f'[api]\nurl = "{api_url}"\n')
    assert doctor.prefect_check().found == f"answers at {api_url}"
    monkeypatch.setenv("PREFECT_API_URL", api_url.replace("/api", "/else"))
    away = doctor.prefect_check()
    assert away.ok
    assert away.found.startswith(f"none answers at {api_url.replace('/api', '/else')}")
    for host in ("127.0.0.1:9", "127.0.0.1:no"):
        monkeypatch.setenv("PREFECT_API_URL", f"http://me:hidden@{host}/api")
        assert doctor.prefect_check().found.startswith(f"none answers at http://{host}/api")


def test_a_prefect_toml_that_cannot_be_read_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    script(tmp_path / "prefect.toml", "[api\n")
    check = doctor.prefect_check()
    assert not check.ok
    assert check.remedy == "correct or remove prefect.toml"
