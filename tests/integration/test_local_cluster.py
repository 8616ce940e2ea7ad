"""The local Dask cluster is closed to all who are not of the run: whoever can send it a task runs code as its user."""

from __future__ import annotations

import os
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import distributed
import pytest
from distributed.security import Security

from pipelines.execution.dask_cluster import Client, dask_client
from tests.support.listening import listening

STRANGER = Security.temporary()


@pytest.fixture(scope="module")
def others() -> set[str]:
    """What listens already in this process and below it: servers of other tests."""
    return listening(os.getpid())


@pytest.fixture(scope="module")
def client(others: set[str]) -> Iterator[Client]:
    with dask_client(workers=1) as client:
        assert client.submit(os.getpid, pure=False).result(60) != os.getpid()
        yield client


@pytest.fixture(scope="module")
def ports(client: Client, others: set[str]) -> list[int]:
    """All ports that the run's processes listen on: of the scheduler, the nanny and the worker."""
    found = [int(place.split()[1]) for place in listening(os.getpid()) - others]
    assert len(found) >= 3
    return found


@pytest.mark.parametrize("security", [None, STRANGER], ids=["without TLS", "with a certificate of their own"])
def test_no_stranger_becomes_a_client(client: Client, security: Security | None, tmp_path: Path) -> None:
    scheduler = client.scheduler_info()["address"]
    assert scheduler.startswith("tls://127.0.0.1:")
    address = scheduler if security else scheduler.replace("tls", "tcp")
    with (
        pytest.raises(OSError, match=r"(?i)timed out|connect|certificate does not match"),
        distributed.Client(address, timeout=3, security=security, set_as_default=False) as other,
    ):
        other.submit((tmp_path / "owned").touch).result(3)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("certificate", [False, True])
def test_no_port_talks_to_who_has_no_certificate_of_the_run(ports: list[int], certificate: bool) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate:
        context = STRANGER.get_connection_args("client")["ssl_context"]

    def told_by(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as plain:
            try:
                with context.wrap_socket(plain) as secure:
                    secure.sendall(b"x" * 100)
                    return secure.recv(100)
            except OSError:
                return b""

    with ThreadPoolExecutor(len(ports)) as pool:  # together, as some of them say nothing until the time is over
        assert list(pool.map(told_by, ports)) == [b""] * len(ports)


def test_no_port_has_pages(ports: list[int]) -> None:
    answered = []
    for port in ports:
        for path in ("/", "/info/main/workers.html", "/json/identity.json", "/health", "/api/v1/get_workers"):
            try:
                answered.append(urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10).status)
            except (urllib.error.URLError, OSError, ValueError):
                continue
    assert answered == []
