"""Where a store lies: a local folder, or an object store's URL without a secret in it."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit, urlunsplit

SCHEMES = {"s3": "Amazon S3 and its like", "gs": "Google Cloud Storage", "az": "Azure Blob Storage"}
SAFE = r"^(([^:]|:[^/]|:/[^/])*(:/?)?|[^/@]*://[^/@]*(/[\s\S]*)?)$"
"""What a location without credentials looks like, for schemas: where ``://`` is, no ``@`` before the next slash."""

_URL = re.compile(r"([a-z0-9]+)://([^/@?#]+)/+([^?#]*[^?#/])/*")


class StoreError(Exception):
    """A store that cannot be used as asked: one line that says why and what to do."""


class NoStore(StoreError):
    """There is no store at the place that was named."""


class Damaged(StoreError):
    """Something in a store is not as it was written."""


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


def shown(location: str) -> str:
    """The location without a password in it, for messages and attributes."""
    if not is_url(location):
        return location
    try:
        parts = urlsplit(location)
    except ValueError:
        return location.partition("://")[0] + "://…"
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def split_url(location: str) -> tuple[str, str, str]:
    """The scheme, the bucket and the key of an object store's URL.

    The key is taken as it stands: no ``%20`` is decoded. ``StoreError`` for a URL with credentials (they would end up
    in logs and in Prefect's records), with a query or fragment, without a key, or of a kind that is not read here.
    """
    where = f"store {shown(location)!r}"
    if "@" in location.partition("://")[2].partition("/")[0]:
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
