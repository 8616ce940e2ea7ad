"""What the processes of a tree listen on, as the kernel says (Linux)."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

LISTEN = "0A"


def tree(root: int) -> set[int]:
    """The process ``root`` and all its descendants, those in sessions of their own too."""
    children: dict[int, set[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, set()).add(int(entry.name))
    found, new = {root}, [root]
    while new:
        more = children.get(new.pop(), set()) - found
        found |= more
        new += more
    return found


def listening(root: int) -> set[str]:
    """The addresses and ports that a process or its descendants listen on."""
    inodes = set()
    for process in tree(root):
        with suppress(OSError):
            for place in Path(f"/proc/{process}/fd").iterdir():
                with suppress(OSError):
                    inodes.add(os.readlink(place).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            (
                _,
                local,
                _,
                state,
                *_,
            ) = line.split()[:4]
            if state == LISTEN and line.split()[9] in inodes:
                address, _, port = local.partition(":")
                found.add(f"{_address(address)} {int(port, 16)}")
    return found


def _address(text: str) -> str:
    words = [struct.pack("=I", int(text[start : start + 8], 16)) for start in range(0, len(text), 8)]
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return socket.inet_ntop(family, b"".join(words))


def is_loopback(place: str) -> bool:
    """Whether nobody from outside reaches an address that ``listening`` told."""
    address = ipaddress.ip_address(place.split()[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def watch(process: subprocess.Popen[str], until: Callable[[], bool], limit: float = 900) -> set[str]:
    """All that a process and its descendants listen on from now until it ends or ``until`` says so."""
    found: set[str] = set()
    deadline = time.monotonic() + limit
    while process.poll() is None and not until():
        found |= listening(process.pid)
        assert time.monotonic() < deadline
        time.sleep(0.5)
    return found
