"""Passwords in addresses: never shown, and never in what a server keeps."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_specs.locations import SAFE, shown, without_passwords
from pipelines.cli import app
from pipelines.errors import RunError
from pipelines.internal_errors import InternalError, record
from pipelines.runs.options import Options, read_request
from training import test as testing
from training import train as training

PASSWORD = "s3cr3t-of-a-user"
ADDRESSES = (
    f"s3://key:{PASSWORD}@bucket/x.zarr",
    f"s3:/key:{PASSWORD}@bucket/x.zarr",
    f"https://{PASSWORD}@host/x",
    f"s3://key:ab/{PASSWORD}/cd@bucket/x.zarr",
    f"tcp://key:{PASSWORD}@127.0.0.1:9",
)
PLAIN = (
    "x.zarr",
    "/data/a@b.zarr",
    "a:b/c",
    "s3://bucket/a@b.zarr",
    "tcp://[::1]:8786",
    "tls://host:8786",
    "/data/18:30@home/x",
    "C:/x",
    "",
)


def test_addresses_are_shown_without_their_passwords_and_others_as_they_are() -> None:
    for address in ADDRESSES:
        assert PASSWORD not in shown(address)
        assert not re.fullmatch(SAFE, address), address
        assert PASSWORD not in without_passwords(f"no file at '{address}'; and {address}, too")
    for place in PLAIN:
        assert shown(place) == place
        assert re.fullmatch(SAFE, place), place
        assert without_passwords(f"no file at {place!r}") == f"no file at {place!r}"
    assert shown(ADDRESSES[0]) == "s3://bucket/x.zarr"
    assert shown(f"https://host/x?sig={PASSWORD}#y") == "https://host/x"
    assert without_passwords(f"GET https://host/x?a=1&X-Amz-Signature={PASSWORD}&b=2 failed").endswith("=…&b=2 failed")
    assert not re.fullmatch(SAFE, f"https://host/x?sig={PASSWORD}")


@given(st.text("ab1:/@", max_size=12), st.text("cd-/", max_size=8))
def test_whatever_stands_before_the_host_is_taken_out(user: str, path: str) -> None:
    address = f"s3://{user.lstrip('/')}{PASSWORD}@host/{path}"
    if "/" not in user.lstrip("/"):
        assert shown(address) == f"s3://host/{path}"
        assert not re.fullmatch(SAFE, address)


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """The one line on standard error of a command that is refused."""
    monkeypatch.setattr(sys, "argv", ["mocrop", *words])
    with pytest.raises(SystemExit) as ended:
        app.main()
    printed = capsys.readouterr()
    assert ended.value.code == 1, printed
    assert printed.out == ""
    assert printed.err.startswith("mocrop: ")
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_command_shows_a_password(
    address: str,
    synth_data: Path,
    synth_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = ("plan", "--source", str(synth_data / "UCF-101"), "--store", str(tmp_path / "x.zarr"))
    commands = [
        (*plan, "--splits", address),
        (*plan, "--recipe", address),
        (*plan, "--work-dir", address),
        (*plan[:3], "--store", address),
        ("plan", "--source", address, "--store", "x.zarr"),
        ("status", address),
        ("verify", address),
        ("boxes", address),
        ("report", str(synth_store), "--out", str(tmp_path / "r.html"), "--annotations", address),
    ]
    for words in commands:
        assert PASSWORD not in run(capsys, monkeypatch, *words), words
    flags = ["--store", str(synth_store), "--cpu"]
    calls = [
        (testing.main, ["--weights", address]),
        (training.main, ["--init-weights", address, "--no-pretrained"]),
        (training.main, ["--resume", address, "--no-pretrained", "--arch", "test_resnet", "--input-size", "32"]),
        (training.main, ["--split", address]),
        (training.main, ["--view", address]),
    ]
    for main, words_of in calls:
        try:
            status = main([*flags, *words_of])
        except SystemExit as ended:
            status = ended.code  # type: ignore[assignment]
        printed = capsys.readouterr()
        assert status == 2, words_of
        assert PASSWORD not in printed.err + printed.out, words_of
        assert printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_for_results_is_no_address(
    synth_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--store", str(synth_store), "--cpu", "--no-pretrained", "--arch", "test_resnet", "-b", "4"]
    assert training.main([*words, "--output-dir", ADDRESSES[0]]) == 2
    assert capsys.readouterr().err == "error: --output-dir 's3://bucket/x.zarr': give a local folder\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["source", "splits", "recipe", "work_dir", "dask_address", "store", "clips"])
def test_no_parameter_of_a_deployment_may_hold_a_password(name: str, tmp_path: Path) -> None:
    """By the schema that Prefect's server checks before it keeps a run, and by a run without a server."""
    from prefect.utilities.callables import parameter_schema
    from prefect.utilities.schema_tools.validation import ValidationError, validate

    from pipelines.flow import preprocess_ucf101

    schema = parameter_schema(preprocess_ucf101).model_dump()
    (tmp_path / "A").mkdir()
    (tmp_path / "A" / "x.avi").touch()
    good = {"source": str(tmp_path), "store": str(tmp_path / "x.zarr")}
    validate(good, schema, raise_on_error=True)
    for place in ("tcp://10.0.0.1:8786", "/data/a@b", "~/x", "s3://bucket/x.zarr"):
        validate({**good, name: place}, schema, raise_on_error=True)
    for address in (*ADDRESSES, f"https://host/x?sig={PASSWORD}", "a\0b"):
        with pytest.raises(ValidationError):
            validate({**good, name: address}, schema, raise_on_error=True)
    for address in ADDRESSES:
        with pytest.raises(RunError) as refused:
            read_request(Options(**{**good, name: address}))  # type: ignore[arg-type]
        assert PASSWORD not in str(refused.value)
        assert str(refused.value).startswith(f"{name} ")


def test_a_log_of_an_internal_error_holds_no_password(tmp_path: Path) -> None:
    record(InternalError(f"KeyError: {ADDRESSES[0]!r}", "", f"Traceback {ADDRESSES[1]}"), tmp_path)
    (log,) = tmp_path.iterdir()
    assert PASSWORD not in log.read_text()
    assert "s3://bucket/x.zarr" in log.read_text()
