"""The proxies of the environment, so that nothing on loopback is ever reached through one."""

from __future__ import annotations

import os
from ipaddress import IPv6Address

import httpx

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_BYPASS = ("NO_PROXY", "no_proxy")


def around_loopback() -> dict[str, str | None]:
    """Changes to the environment (None: unset) under which httpx and websockets reach loopback directly.

    ``NO_PROXY`` gets the loopback addresses. A variable that httpx cannot make a proxy of is unset: httpx makes
    all proxies when it makes a client, also for an address that needs none, so one such variable stops every client.
    All other proxies stay, for object stores.
    """
    changes: dict[str, str | None] = {
        name: None for name, value in os.environ.items() if name.lower() in _PROXIES and not _is_proxy(value)
    }
    given = next((os.environ[name] for name in reversed(_BYPASS) if os.environ.get(name)), "")
    hosts = [host.strip() for host in given.split(",")]
    bypass = ",".join(dict.fromkeys([*filter(_is_host, hosts), *LOOPBACK]))
    return changes | dict.fromkeys(_BYPASS, bypass)


def _is_proxy(value: str) -> bool:
    try:
        httpx.Proxy(value if "://" in value else f"http://{value}")
    except (ValueError, httpx.InvalidURL):
        return not value.strip()
    return True


def _is_host(host: str) -> bool:
    """Whether httpx takes an entry of ``NO_PROXY``; it refuses networks of IPv6 and addresses in brackets."""
    try:
        IPv6Address(host.partition("/")[0])
        pattern = f"all://[{host}]"
    except ValueError:
        pattern = host if "://" in host else f"all://*{host}"
    try:
        httpx.URL(pattern)
    except httpx.InvalidURL:
        return False
    return bool(host)
