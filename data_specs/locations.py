"""The location of a store: a local folder, or an object store's URL without secrets."""

from __future__ import annotations

import os
import re

SCHEMES = {"s3": "Amazon S3 and compatible stores", "gs": "Google Cloud Storage", "az": "Azure Blob Storage"}
_HOST = r"([^/@:?#\x00]+|\[[0-9A-Fa-f:.%]+\])(:[0-9]*)?"
SAFE = rf"^([^:\x00]|:+[^:/\x00])*(:+/*|:+/+{_HOST}(/[^?#\x00]*)?)?$"
"""Pattern for schemas of a path or address without a secret: ``:/`` is followed by a host and perhaps a port, and
no query. One slash counts as two: `pathlib` makes one of them."""

_URL = re.compile(r"([a-z0-9]+)://([^/@?#]+)/+([^?#]*[^?#/])/*")


class StoreError(Exception):
    """The store cannot be used; the message is one line with the cause and the remedy."""


class NoStore(StoreError):
    """There is no store at the given location."""


class Damaged(StoreError):
    """Data in a store differs from what was written."""


class Linked(StoreError):
    """A symbolic link is in the place of something to write or remove."""


class Replaced(Exception):
    """The object was replaced since it was last read."""


def is_url(location: str) -> bool:
    """Whether the location is on an object store (``s3://bucket/name.zarr``) rather than a local folder."""
    return "://" in location


def expanded(path: str) -> str:
    """The path with a leading ``~`` or ``~user`` replaced by the home folder, as a shell does.

    Shells do not expand ``--store=~/x``. Raises a one-line ``ValueError`` if there is no such home folder.
    """
    whole = os.path.expanduser(path)
    if whole.startswith("~"):
        raise ValueError(f"{path!r} names a home folder that does not exist; for a folder of that name, give ./{path}")
    return whole


_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/+)([^\s'\"<>]*)")
_SECRET = re.compile(
    r"([?&](?:[a-z-]*(?:signature|token|password|secret|credential|key)[a-z-]*|sig)=)[^&\s'\"]+", re.IGNORECASE
)


def shown(location: str) -> str:
    """The path or address without a password or a query in it, for messages and attributes."""
    scheme, slashes, rest = location.partition(":/")
    if not slashes or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return location
    after = rest.lstrip("/")
    start = scheme + slashes + rest[: len(rest) - len(after)]
    return start + _without_user(re.split(r"[?#]", after)[0] if is_url(location) else after)


def _without_user(address: str) -> str:
    """The part after user and password of an address, which is given without its scheme and ``://``."""
    host = address.partition("/")[0]
    if "@" in host:
        return address[host.rindex("@") + 1 :]
    # a secret may contain slashes: then no port follows the colon of what looks like the host
    return address if re.fullmatch(_HOST, host) else address.rpartition("@")[2]


def without_passwords(text: str) -> str:
    """The message without the passwords and queries of the addresses in it."""
    text = _SECRET.sub(r"\1…", text)
    return _ADDRESS.sub(lambda found: found[1] + _without_user(found[2]), text)


def split_url(location: str) -> tuple[str, str, str]:
    """The scheme, the bucket and the key of an object store's URL.

    The key is used literally: ``%20`` is not decoded. Raises ``StoreError`` for a URL with credentials (they would end
    up in logs and in Prefect's records), with a query or fragment, without a key, or with an unsupported scheme.
    """
    where = f"store {shown(location)!r}"
    rest = location.partition("://")[2]
    if _without_user(rest) != rest:
        raise StoreError(
            f"{where}: a URL with credentials in it is refused, as it would be logged; put them into the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
        )
    found = _URL.fullmatch(location)
    if found is None or found[1] not in SCHEMES:
        kinds = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise StoreError(
            f"{where}: give a folder or a URL like s3://bucket/name.zarr, without ? and # (supported: {kinds})"
        )
    return found[1], found[2], found[3]


def check_location(location: str) -> None:
    """``StoreError`` for an impossible location; makes no network request."""
    if not location.strip():
        raise StoreError("store '': give a folder or a URL like s3://bucket/name.zarr")
    if is_url(location):
        split_url(location)
