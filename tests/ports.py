"""Ports of this machine for tests: one that is kept for a server to come, or on which nobody listens."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.server import LOOPBACK


@contextmanager
def held_port() -> Iterator[int]:
    """A loopback port that the system gives to nobody else while it is held, and on which nobody listens.

    It is bound but does not listen, so that connections are refused. A server that is given its number can listen on
    it all the same, as all servers bind with ``SO_REUSEADDR``. A port that is found free and let go of may be taken by
    any connection before its server starts.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((LOOPBACK, 0))
        yield int(holder.getsockname()[1])
