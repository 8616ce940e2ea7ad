"""Names of clips and classes: looking them up in any spelling of a list or file system."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from unicodedata import normalize

from data_specs.text import printable as printable


class DatasetError(ValueError):
    """The data set cannot be read; the message is one line with the fault and the remedy."""


class NameIndex:
    """An index of names, looked up exactly, else in another Unicode form, else in another case.

    macOS writes accents as separate characters (NFD) while lists mostly have precomposed ones (NFC), and UCF-101 has
    ``HandstandPushups/v_HandStandPushups_*``.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._spellings: list[dict[str, list[str]]] = [{} for _ in _SPELLINGS]
        for name in names:
            for known, spelling in zip(self._spellings, _SPELLINGS, strict=True):
                known.setdefault(spelling(name), []).append(name)

    def find(self, name: str) -> tuple[str, ...]:
        """The names that match by the strictest comparison that matches any; several if ambiguous, empty if none."""
        for known, spelling in zip(self._spellings, _SPELLINGS, strict=True):
            if found := known.get(spelling(name)):
                return tuple(found)
        return ()

    def alike(self, name: str) -> tuple[str, ...]:
        """The names that differ from ``name`` at most in Unicode form or case, in order."""
        return tuple(self._spellings[-1].get(_SPELLINGS[-1](name), ()))


def _composed(name: str) -> str:
    return normalize("NFC", name)


def _caseless(name: str) -> str:
    return normalize("NFD", normalize("NFD", name).casefold())


_SPELLINGS: tuple[Callable[[str], str], ...] = (str, _composed, _caseless)
