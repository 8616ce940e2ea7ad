"""Text for people: file names and stored text made safe for terminals, spreadsheets and JSON; numbers with nouns."""

from __future__ import annotations

import json
import re
from typing import Any

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
_FORMULA = re.compile(r"\s*[=+\-@]")
_NUMBER = re.compile(r"[+-]?[0-9]*\.?[0-9]*")


def printable(text: str) -> str:
    """The text as one line that is safe in any store and terminal.

    Control characters, line breaks, characters that change the writing direction, and bytes of a file name that are
    not UTF-8 are written as ``\\xNN`` or ``\\uNNNN``.
    """
    return _UNPRINTABLE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name, as decoded by os.fsdecode
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def csv_cell(value: Any) -> Any:
    """The value for a CSV cell: text is made printable, with an apostrophe before what a spreadsheet would evaluate."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def counted(number: int, noun: str, plural: str = "") -> str:
    """The number with its noun, in the singular for 1."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def json_text(value: Any) -> str:
    """Indented JSON: letters of any script unescaped, unprintable characters escaped."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)
