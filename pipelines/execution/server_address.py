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
    """Whether a Prefect server answers at ``api_url`` (``http://host:port/api``); no proxy is asked."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{api_url.rstrip('/')}/health", timeout=timeout) as response:
            return json.load(response) is True
    except (OSError, ValueError, HTTPException):
        return False


def on_loopback(api_url: str) -> bool:
    """Whether an address is one of this machine's alone."""
    return urlsplit(api_url).hostname in proxies.LOOPBACK


def usable(api_url: str | None) -> bool:
    """Whether runs can be recorded at ``api_url``: of a server on this machine, whether it answers."""
    return api_url is not None and (not on_loopback(api_url) or answers(api_url))


def port_of(api_url: str) -> int:
    """The port in a server's address."""
    return urlsplit(api_url).port or 80


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def held_port() -> Iterator[int]:
    """A loopback port that the system gives to nobody else while it is held, and on which nobody listens.

    It is bound but does not listen, so that connections are refused. A server that is given its number can listen on
    it all the same, as servers bind with ``SO_REUSEADDR``. A port that is found free and let go of may be taken by any
    connection before its server starts.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((LOOPBACK, 0))
        yield int(holder.getsockname()[1])
