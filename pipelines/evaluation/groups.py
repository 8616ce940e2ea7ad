"""Groups of clips: those of one recording are not independent of each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from data_specs.stored import StoreError

UCF101 = r"(?:^|/)(v_\w+_g\d+)_c\d+$"
"""Names of UCF-101: clips with the same class and g come from one recording."""


@dataclass(frozen=True, slots=True)
class Groups:
    """The name of each clip's group, and a phrase on how they were made; ``alone`` counts clips without a match."""

    names: list[str]
    about: str
    alone: int


def groups_of(ids: Sequence[str], pattern: str | None, stored: Sequence[str] = ()) -> Groups:
    """The groups of clips: the match of ``pattern`` in their ids, or the contents of its parentheses.

    By default the groups are the ``stored`` ones, from the clip table, if any clip has one; else the matches of
    `UCF101` if it matches any clip; else each clip is a group of its own. A clip without a match or a stored group is
    always a group of its own. ``StoreError`` for an invalid pattern, or one that matches no clip.
    """
    if pattern is None and any(stored):
        names = [f"group {group}" if group else f"clip {id}" for id, group in zip(ids, stored, strict=True)]
        return _with_lonely(names, "by the groups of the clip table", sum(not group for group in stored))
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
    return _with_lonely(names, about, alone)


def _with_lonely(names: list[str], about: str, alone: int) -> Groups:
    return Groups(names, f"{about}; clips without one are groups of their own: {alone}" if alone else about, alone)


def _name(match: re.Match[str]) -> str:
    return "\0".join(part or "" for part in match.groups()) if match.re.groups else match[0]
