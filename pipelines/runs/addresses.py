"""Which addresses a served run may open: those that the server's setting names, whatever its caller asks for."""

from __future__ import annotations

import os
from dataclasses import fields

from data_specs.locations import is_url, shown
from pipelines.errors import RunError
from pipelines.runs.options import Options

ALLOWED = "MOCROP_ALLOWED_ADDRESSES"  # names them, separated by spaces; `mocrop serve --allow` sets it


def check_addresses(options: Options) -> None:
    """``RunError`` if a run would open an address that is neither allowed nor below an allowed one.

    Any Dask scheduler counts as an address, and so does whatever has ``://`` in it; local paths do not.
    """
    allowed = [address.rstrip("/") for address in os.environ.get(ALLOWED, "").split()]
    for option in fields(Options):
        value = getattr(options, option.name)
        if not isinstance(value, str) or not (option.name == "dask_address" or is_url(value)):
            continue
        if not any(value.rstrip("/") == address or value.startswith(f"{address}/") for address in allowed):
            raise RunError(
                f"{option.name} {shown(value)!r}: this server opens no such address; "
                f"it would if it were started with mocrop serve --allow {shown(value)}"
            )
