"""JSON from untrusted files, bounded in size and depth, with one-line errors."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def parse_json(text: bytes | str, most: int) -> Any:
    """The value in a JSON text of at most ``most`` bytes or characters.

    Raises a one-line ``ValueError`` for a longer text, and for one that is not JSON in UTF-8, is nested too deeply, or
    contains NaN, Infinity or a number of thousands of digits.
    """
    if len(text) > most:
        raise ValueError(f"{len(text)} bytes of JSON, more than {most}")
    try:
        if isinstance(text, bytes):
            text = text.decode(json.detect_encoding(text), "surrogatepass")
        elif text.startswith("\ufeff"):
            raise ValueError("a byte order mark in the middle; save it as UTF-8 without one")
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refuse)  # json.loads would make one for each text
