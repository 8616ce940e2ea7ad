"""JSON from files that may come from strangers: bounded in size and depth, and an error in one line."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def parse_json(text: bytes | str, most: int) -> Any:
    """The value in a JSON text of at most ``most`` bytes or characters.

    ``ValueError`` in one line for a longer text, one that is not JSON in UTF-8, is nested too deeply, or has a number
    that JSON does not have (NaN, Infinity) or of thousands of digits.
    """
    if len(text) > most:
        raise ValueError(f"{len(text)} bytes of JSON, more than {most}")
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")
