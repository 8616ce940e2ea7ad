"""Proxy settings of the environment: loopback is never reached through a proxy."""

from __future__ import annotations

import os
from ipaddress import IPv6Address

import httpx

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_BYPASS = ("NO_PROXY", "no_proxy")


def around_loopback() -> dict[str, str | None]:
    """Environment changes (None unsets) that make httpx and websockets reach loopback directly.

    The loopback addresses are added to ``NO_PROXY``. A variable with an invalid proxy is unset: httpx creates all
    proxies with every client, even for addresses that need none, so one invalid variable breaks every client. Valid
    proxies stay, for object stores.
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
    """Return whether httpx accepts an entry of ``NO_PROXY``; it rejects IPv6 networks and bracketed addresses."""
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
