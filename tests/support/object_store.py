"""A real S3 server in a process of its own, and a proxy before it that fails on purpose; both on loopback."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Literal

KEY, SECRET = "AKIAMOCROPTEST", "s3cr3t-of-the-test"  # the server asks for a signature and does not check it
Fault = Literal["error", "reset", "cut", "denied", ""]
SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
"""It says which port the system gave it, and ends with its standard input."""


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of moto's S3 server, empty."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        port = process.stdout.readline().decode().strip()
        assert port, "moto's server ended while starting"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def environment(address: str) -> dict[str, str]:
    """What the usual clients take from the environment."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def make_bucket(address: str, name: str) -> None:
    """An empty bucket."""
    urllib.request.urlopen(urllib.request.Request(f"{address}/{name}", method="PUT"), timeout=60).close()


def contents(address: str, location: str) -> dict[str, bytes]:
    """Every object of a store but the note of how long stages took, read without the package under test."""
    import boto3

    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    client = boto3.client(
        "s3", endpoint_url=address, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name="us-east-1"
    )
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    found = {key.removeprefix(f"{prefix}/"): client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}
    found.pop("progress/zarr.json", None)
    return found


class _Proxy(BaseHTTPRequestHandler):
    """Hands requests on to the server behind it, or fails them as its server's ``fault`` says."""

    protocol_version = "HTTP/1.1"
    server: FaultyServer

    def handle_request(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.fault(next(self.server.numbers), self.command)
        if fault:
            self.server.failed.append((fault, self.command))
        if fault in ("error", "denied"):
            text = b"<Error><Code>AccessDenied</Code></Error>" if fault == "denied" else b""
            self.send_response(403 if fault == "denied" else 500)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)
            return
        if fault == "reset":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        behind = HTTPConnection(self.server.behind, timeout=600)
        behind.request(self.command, self.path, body, dict(self.headers))
        answer = behind.getresponse()
        payload = answer.read()
        behind.close()
        self.server.answers.append((self.command, self.path, answer.status))
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(payload)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        if fault == "cut":
            self.wfile.write(payload[: len(payload) // 2])
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif self.command != "HEAD":
            self.wfile.write(payload)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_request

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class FaultyServer(ThreadingHTTPServer):
    """A proxy; ``fault`` says, of the number and method of a request, how it fails; ``failed`` are those that did.

    ``answers`` has the method, path and status of each request that the server behind it answered.
    """

    daemon_threads = True

    def __init__(self, behind: str, fault: Callable[[int, str], Fault]) -> None:
        super().__init__(("127.0.0.1", 0), _Proxy)
        self.behind, self.fault = behind.removeprefix("http://"), fault
        self.numbers, self.failed = count(1), list[tuple[Fault, str]]()
        self.answers: list[tuple[str, str, int]] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: connections are broken on purpose."""


@contextmanager
def faulty(behind: str, fault: Callable[[int, str], Fault]) -> Iterator[tuple[str, FaultyServer]]:
    """The address of a proxy before the server at ``behind``, and the proxy."""
    server = FaultyServer(behind, fault)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", server
    finally:
        with suppress(OSError):
            server.shutdown()
        server.server_close()
        thread.join()
