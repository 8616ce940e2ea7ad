"""Names of clips and classes: as printable text, and found again however a list or a file system spells them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from unicodedata import normalize

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class DatasetError(ValueError):
    """A data set that cannot be read as it stands: one line that says what is wrong and what would be right."""


def printable(name: str) -> str:
    """The name as one line that any store and terminal takes.

    Bytes that are not UTF-8, control characters, line ends and marks that turn the direction of writing are written
    as ``\\xNN`` or ``\\uNNNN``.
    """
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return _CONTROL.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class NameIndex:
    """Names that can be looked up in another spelling: exactly, else in another Unicode form, else in another case.

    macOS writes accents as characters of their own (NFD) where lists mostly have one character (NFC), and UCF-101 has
    ``HandstandPushups/v_HandStandPushups_*``.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._spellings: list[dict[str, list[str]]] = [{} for _ in _SPELLINGS]
        for name in names:
            for known, spelling in zip(self._spellings, _SPELLINGS, strict=True):
                known.setdefault(spelling(name), []).append(name)

    def find(self, name: str) -> tuple[str, ...]:
        """The names that ``name`` may stand for by the strictest comparison that finds one; more than one if unclear.

        Empty if there is none.
        """
        for known, spelling in zip(self._spellings, _SPELLINGS, strict=True):
            if found := known.get(spelling(name)):
                return tuple(found)
        return ()


def _composed(name: str) -> str:
    return normalize("NFC", name)


def _caseless(name: str) -> str:
    return normalize("NFD", normalize("NFD", name).casefold())


_SPELLINGS: tuple[Callable[[str], str], ...] = (str, _composed, _caseless)
