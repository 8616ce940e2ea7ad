"""Names of clips and classes: as printable text, and found again however a list or a file system spells them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from unicodedata import normalize

from data_specs.text import printable as printable


class DatasetError(ValueError):
    """A data set that cannot be read as it stands: one line that says what is wrong and what would be right."""


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

    def alike(self, name: str) -> tuple[str, ...]:
        """The names that differ from ``name`` only in their Unicode form or case, in order, with itself if known."""
        return tuple(self._spellings[-1].get(_SPELLINGS[-1](name), ()))


def _composed(name: str) -> str:
    return normalize("NFC", name)


def _caseless(name: str) -> str:
    return normalize("NFD", normalize("NFD", name).casefold())


_SPELLINGS: tuple[Callable[[str], str], ...] = (str, _composed, _caseless)
