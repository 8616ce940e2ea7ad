"""Addresses that a served run may open are the server's setting: the caller's own are refused before any is opened."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.errors import RunError
from pipelines.runs.addresses import ALLOWED, check_addresses
from pipelines.runs.options import Options

OPTIONS: dict[str, Any] = {"source": "videos", "store": "a.zarr"}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"store": "s3://bucket/a.zarr", "work_dir": "work"},
        {"store": "s3://bucket/deep/a.zarr/"},
        {"dask_address": "tcp://scheduler:8786"},
        {"dask_address": "tcp://scheduler:8786/"},
    ],
)
def test_local_paths_and_allowed_addresses_may_be_opened(monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]) -> None:
    monkeypatch.setenv(ALLOWED, "s3://bucket/ tcp://scheduler:8786")
    check_addresses(Options(**{**OPTIONS, **more}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("store", "s3://bucket-of-another/a.zarr"),
        ("store", "gs://bucket/a.zarr"),
        ("source", "http://169.254.169.254/latest"),
        ("splits", "s3://other/splits"),
        ("work_dir", "s3://other/work"),
        ("recipe", "https://example.org/recipe.toml"),
        ("dask_address", "tcp://scheduler:87860"),
        ("dask_address", "tls://scheduler:8786"),
        ("dask_address", "scheduler:8786"),
        ("dask_address", "inproc://1/2/3"),
        ("dask_address", ""),
    ],
)
def test_other_addresses_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(ALLOWED, "s3://bucket tcp://scheduler:8786")
    with pytest.raises(RunError, match=rf"^{name} '.*': this server does not allow this address; .*--allow ") as error:
        check_addresses(Options(**{**OPTIONS, name: value}))
    assert value in str(error.value)


def test_nothing_is_allowed_unless_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALLOWED, raising=False)
    with pytest.raises(RunError, match="this server does not allow this address"):
        check_addresses(Options(**OPTIONS, dask_address="tcp://127.0.0.1:8786"))
