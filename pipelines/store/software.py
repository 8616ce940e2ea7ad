"""The versions that made a store: each record names those of its own stage, the root's attributes all that occur.

The same inputs give the same bytes with the same versions only. An upgrade in mid-store is not refused, as another
ffmpeg build is: every clip is still whole, and a store that took days is not lost to a patch release. It is shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version

from data_specs.schema import STAGES
from data_specs.stored import Record

_WRITING = ("mocrop", "numcodecs", "numpy", "zarr")
_USED = {
    "transcode": ("mocrop", "av"),
    "motion": (*_WRITING, "av"),
    "boxes": _WRITING,
    "clips": (*_WRITING, "av", "pillow"),
}
"""The packages whose versions may show in what a stage makes; the encoder's build is in its fingerprint."""

Versions = dict[str, dict[str, dict[str, int]]]
"""By stage and package: each version, and how many records it made."""


@cache
def versions_here(stage: str | None = None) -> Mapping[str, str]:
    """The installed versions of the packages that a stage uses, or that any stage does."""
    names = _USED[stage] if stage else {name for names in _USED.values() for name in names}
    return {name: version(name) for name in sorted(names)}


def versions_of(records: Iterable[Record]) -> Versions:
    """The versions that made a store's records."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for record in records:
        for name, one in record.software.items():
            counts.setdefault((record.stage, name), Counter())[one] += 1
    found: Versions = {}
    for stage, name in sorted(counts, key=lambda key: (STAGES.index(key[0]), key[1])):
        found.setdefault(stage, {})[name] = dict(sorted(counts[stage, name].items()))
    return found


def as_attribute(begun_with: Mapping[str, str], versions: Versions) -> dict[str, str]:
    """The root's attribute ``software``: a package's version, or all that occur, with commas between them.

    A package that no record names keeps the version that the store was begun with.
    """
    by_name: dict[str, set[str]] = {}
    for packages in versions.values():
        for name, counts in packages.items():
            by_name.setdefault(name, set()).update(counts)
    return {**begun_with, **{name: ", ".join(sorted(found)) for name, found in by_name.items()}}


def mixed(versions: Versions) -> list[str]:
    """One line for each stage and package of which several versions made records."""
    return [
        f"{stage}: made by several versions of {name}: "
        + ", ".join(f"{one} ({count} records)" if count > 1 else f"{one} (1 record)" for one, count in counts.items())
        for stage, packages in versions.items()
        for name, counts in packages.items()
        if len(counts) > 1
    ]


def news(software: Mapping[str, str]) -> str:
    """Which of the installed versions have no part in a store with this root attribute, in one line; "" if none."""
    new = [
        f"{name} {one} (before: {software[name]})"
        for name, one in versions_here().items()
        if name in software and one not in software[name].split(", ")
    ]
    what = "what is made now may differ in some bits from what they would make; mocrop status shows a mixture"
    return f"installed are other versions than made the store: {', '.join(new)}; {what}" if new else ""
