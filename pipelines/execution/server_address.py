"""Addresses of Prefect servers: whether one answers, and ports on loopback."""

from __future__ import annotations

import contextlib
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from urllib.parse import urlsplit

from pipelines.execution import proxies

LOOPBACK = "127.0.0.1"


def answers(api_url: str, timeout: float = 2.0) -> bool:
    """Return whether a Prefect server answers at ``api_url`` (``http://host:port/api``), without using a proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{api_url.rstrip('/')}/health", timeout=timeout) as response:
            return json.load(response) is True
    except (OSError, ValueError, HTTPException):
        return False


def on_loopback(api_url: str) -> bool:
    """Return whether an address is on this machine's loopback interface."""
    return urlsplit(api_url).hostname in proxies.LOOPBACK


def usable(api_url: str | None) -> bool:
    """Return whether runs can be recorded at ``api_url``; a server on this machine must answer."""
    return api_url is not None and (not on_loopback(api_url) or answers(api_url))


def port_of(api_url: str) -> int:
    """The port in a server's address, 80 by default."""
    return urlsplit(api_url).port or 80


def free_port() -> int:
    """A loopback port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def held_port() -> Iterator[int]:
    """Reserve a free loopback port for a server until the block ends.

    The port is bound but not listening, so the system assigns it to no other process, and a server that binds with
    ``SO_REUSEADDR`` can still use it. Without the reservation, any connection could take the port before the server
    starts.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((LOOPBACK, 0))
        yield int(holder.getsockname()[1])
