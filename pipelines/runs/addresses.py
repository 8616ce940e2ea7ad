"""Restriction of the addresses that a served run may open to those in the server's setting."""

from __future__ import annotations

import os
from dataclasses import fields

from data_specs.locations import is_url, shown
from pipelines.errors import RunError
from pipelines.runs.options import Options

ALLOWED = "MOCROP_ALLOWED_ADDRESSES"  # environment variable: space-separated; `mocrop serve --allow` sets it


def check_addresses(options: Options) -> None:
    """Raise ``RunError`` if a run would open an address that is neither allowed nor below an allowed one.

    Every Dask scheduler and everything with ``://`` in it is an address; local paths are not.
    """
    allowed = [address.rstrip("/") for address in os.environ.get(ALLOWED, "").split()]
    for option in fields(Options):
        value = getattr(options, option.name)
        if not isinstance(value, str) or not (option.name == "dask_address" or is_url(value)):
            continue
        if not any(value.rstrip("/") == address or value.startswith(f"{address}/") for address in allowed):
            raise RunError(
                f"{option.name} {shown(value)!r}: this server does not allow this address; "
                f"to allow it, start the server with mocrop serve --allow {shown(value)}"
            )
