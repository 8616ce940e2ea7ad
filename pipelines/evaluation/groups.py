"""Which clips belong together: those of one recording are not independent of each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from data_specs.stored import StoreError

UCF101 = r"(?:^|/)(v_\w+_g\d+)_c\d+$"
"""UCF-101's names: clips of one class and one g are of one recording."""


@dataclass(frozen=True, slots=True)
class Groups:
    """A group's name for each clip, and how they came about in a sentence; ``alone`` counts clips that matched none."""

    names: list[str]
    about: str
    alone: int


def groups_of(ids: Sequence[str], pattern: str | None) -> Groups:
    """The groups of clips: what ``pattern`` finds in their ids, or what is in its parentheses.

    Without a pattern it is `UCF101` if that matches any clip, else each clip is a group of its own. A clip that the
    pattern does not match is a group of its own. ``StoreError`` for a pattern that is none, or that matches no clip.
    """
    try:
        wanted = re.compile(UCF101 if pattern is None else pattern)
    except re.error as error:
        raise StoreError(f"--group-by {pattern!r}: not a regular expression: {error}") from None
    matches = [wanted.search(id) for id in ids]
    if ids and not any(matches):
        if pattern is not None:
            raise StoreError(
                f"--group-by {pattern!r} matches none of the {len(ids)} annotated clips, such as {ids[0]!r}"
            )
        return Groups(list(ids), "each clip is a group of its own", len(ids))
    names = [_name(match) if match else f"clip {id}" for id, match in zip(ids, matches, strict=True)]
    alone = sum(match is None for match in matches)
    about = "by UCF-101's names, v_CLASS_gNN" if pattern is None else f"by {pattern!r} in the clips' ids"
    return Groups(
        names, f"{about}; clips that do not match are groups of their own: {alone}" if alone else about, alone
    )


def _name(match: re.Match[str]) -> str:
    return "\0".join(part or "" for part in match.groups()) if match.re.groups else match[0]
