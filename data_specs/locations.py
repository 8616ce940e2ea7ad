"""Where a store lies: a local folder, or an object store's URL without a secret in it."""

from __future__ import annotations

import os
import re

SCHEMES = {"s3": "Amazon S3 and its like", "gs": "Google Cloud Storage", "az": "Azure Blob Storage"}
_HOST = r"([^/@:?#\x00]+|\[[0-9A-Fa-f:.%]+\])(:[0-9]*)?"
SAFE = rf"^([^:\x00]|:+[^:/\x00])*(:+/*|:+/+{_HOST}(/[^?#\x00]*)?)?$"
"""What a path or an address without a secret looks like, for schemas: behind ``:/`` are a host and perhaps a port, and
no query. One slash counts as two: `pathlib` makes one of them."""

_URL = re.compile(r"([a-z0-9]+)://([^/@?#]+)/+([^?#]*[^?#/])/*")


class StoreError(Exception):
    """A store that cannot be used as asked: one line that says why and what to do."""


class NoStore(StoreError):
    """There is no store at the place that was named."""


class Damaged(StoreError):
    """Something in a store is not as it was written."""


class Linked(StoreError):
    """A symbolic link stands where something would be written or removed."""


class Replaced(Exception):
    """Another object has taken the place of the one that was read before."""


def is_url(location: str) -> bool:
    """Whether the store lies on an object store (``s3://bucket/name.zarr``) and not in a local folder."""
    return "://" in location


def expanded(path: str) -> str:
    """The path with the home folder in place of a leading ``~`` or ``~user``, as a shell writes it.

    Shells leave ``--store=~/x`` as it is. ``ValueError`` in one line where there is no such home folder.
    """
    whole = os.path.expanduser(path)
    if whole.startswith("~"):
        raise ValueError(f"{path!r} names a home folder that does not exist; for a folder of that name give ./{path}")
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
    """What comes behind the user and password in an address that begins behind ``://``."""
    host = address.partition("/")[0]
    if "@" in host:
        return address[host.rindex("@") + 1 :]
    # a secret may hold slashes: then what looks like the host has something else than a port behind its colon
    return address if re.fullmatch(_HOST, host) else address.rpartition("@")[2]


def without_passwords(text: str) -> str:
    """A message without the passwords in addresses that it quotes, and without the secrets in their queries."""
    text = _SECRET.sub(r"\1…", text)
    return _ADDRESS.sub(lambda found: found[1] + _without_user(found[2]), text)


def split_url(location: str) -> tuple[str, str, str]:
    """The scheme, the bucket and the key of an object store's URL.

    The key is taken as it stands: no ``%20`` is decoded. ``StoreError`` for a URL with credentials (they would end up
    in logs and in Prefect's records), with a query or fragment, without a key, or of a kind that is not read here.
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
            f"{where}: give a folder or a URL like s3://bucket/name.zarr, without ? and # ({kinds} are read)"
        )
    return found[1], found[2], found[3]


def check_location(location: str) -> None:
    """``StoreError`` for a location that no store can have; nothing is asked over the network."""
    if not location.strip():
        raise StoreError("store '': give a folder or a URL like s3://bucket/name.zarr")
    if is_url(location):
        split_url(location)
