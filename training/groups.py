"""Groups of clips (one recording, one person), which are never on both sides of a fold."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path

from data_specs.text import printable
from training.clips import UCF_GROUP
from training.options import Refused

MOST_BYTES = 1 << 28  # maximum size of a table of groups


def groups_by_pattern(ids: Sequence[str], pattern: str) -> list[str]:
    """The group of each clip, found in its id by a regular expression.

    The group consists of the matches of all parentheses in the pattern, or is the whole match if it has none.
    `Refused` for an invalid pattern, or an id without a match.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise Refused(f"--group-by {pattern!r}: not a regular expression ({error})") from None
    found = [compiled.search(id) for id in ids]
    if missing := [id for id, match in zip(ids, found, strict=True) if match is None]:
        raise Refused(f"--group-by {pattern!r}: not found in the ids of {len(missing)} clips ({missing[0]!r} first)")
    return ["/".join(part or "" for part in match.groups() or (match[0],)) for match in found if match is not None]


def groups_of_file(ids: Sequence[str], path: str) -> list[str]:
    """The group of each clip, from a CSV file with the columns ``path`` and ``group``, such as a clip table.

    A clip's id is its path without the suffix, or the value of the column ``id``. Rows of other clips are ignored.
    `Refused` for a file in which a column, a clip or a clip's group is missing, or a clip has two groups.
    """
    where = f"--groups {path!r}"
    try:
        if Path(path).stat().st_size > MOST_BYTES:
            raise Refused(f"{where}: more than {MOST_BYTES} bytes; give a CSV file with the columns path and group")
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            rows = list(reader)
    except OSError as error:
        raise Refused(f"{where}: {error.strerror}; give a CSV file with the columns path and group") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise Refused(f"{where}: not a CSV file in UTF-8 ({error})") from None
    if not {"path", "group"} <= set(columns):
        raise Refused(f"{where}: its columns are {', '.join(columns[:9]) or 'none'}; it needs path and group")
    groups: dict[str, str] = {}
    for row in rows:
        id = row.get("id") or printable(os.path.splitext(row["path"] or "")[0])
        if groups.setdefault(id, row["group"] or "") != (row["group"] or ""):
            raise Refused(f"{where}: two groups of {id!r}: {groups[id]!r} and {row['group']!r}")
    if missing := [id for id in ids if not groups.get(id)]:
        raise Refused(f"{where}: no group of {len(missing)} clips of the store ({missing[0]!r} first)")
    return [groups[id] for id in ids]


def groups_of_ucf(ids: Sequence[str]) -> list[str] | None:
    """The groups in clip names of the form of UCF-101 (``v_Class_gNN_cNN``); None unless all names have this form."""
    found = [UCF_GROUP.match(id) for id in ids]
    return [match[1] for match in found if match] if all(found) else None


def groups_of_store(ids: Sequence[str], groups: Sequence[str]) -> tuple[list[str], str] | None:
    """The groups that a store has, from the column ``group`` of its clip table, and what they are; None for none.

    A clip without one is a group of its own.
    """
    alone = sum(not group for group in groups)
    if alone == len(groups):
        return None
    about = (
        f"groups of the store; clips without one are groups of their own: {alone}" if alone else "groups of the store"
    )
    return [f"group {group}" if group else f"clip {id}" for id, group in zip(ids, groups, strict=True)], about
