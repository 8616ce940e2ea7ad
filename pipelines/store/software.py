"""Software versions that made a store: each record has those of its stage, the root's attributes all that occur.

Equal inputs give equal bytes only with equal versions. Unlike a change of the ffmpeg build, an upgrade during the
work on a store is not refused, so that a store that took days is not lost to a patch release. It is reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version

from data_specs.schema import STAGES

_WRITING = ("mocrop", "numcodecs", "numpy", "zarr")
_USED = {
    "transcode": ("mocrop", "av"),
    "motion": (*_WRITING, "av"),
    "boxes": _WRITING,
    "clips": (*_WRITING, "av", "pillow"),
}
"""The packages that may affect the output of each stage; the encoder's build is part of its fingerprint."""

Versions = dict[str, dict[str, dict[str, int]]]
"""Number of records by stage, package and version."""


@cache
def versions_here(stage: str | None = None) -> Mapping[str, str]:
    """The installed versions of the packages used by a stage, by default by any stage."""
    names = _USED[stage] if stage else {name for names in _USED.values() for name in names}
    return {name: version(name) for name in sorted(names)}


def versions_of(made: Iterable[tuple[str, Mapping[str, str], int]]) -> Versions:
    """The versions that made a store's records, from stages, versions by package, and numbers of records."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for stage, software, records in made:
        for name, number in software.items():
            counts.setdefault((stage, name), Counter())[number] += records
    versions: Versions = {}
    for stage, name in sorted(counts, key=lambda key: (STAGES.index(key[0]), key[1])):
        versions.setdefault(stage, {})[name] = dict(sorted(counts[stage, name].items()))
    return versions


def as_attribute(initial: Mapping[str, str], versions: Versions) -> dict[str, str]:
    """The root's attribute ``software``: the versions of each package that occur, separated by commas.

    A package that no record names keeps its ``initial`` version, with which the store was created.
    """
    by_name: dict[str, set[str]] = {}
    for packages in versions.values():
        for name, counts in packages.items():
            by_name.setdefault(name, set()).update(counts)
    return {**initial, **{name: ", ".join(sorted(numbers)) for name, numbers in by_name.items()}}


def mixed(versions: Versions) -> list[str]:
    """One line for each stage and package with records of several versions."""
    return [
        f"{stage}: made by several versions of {name}: "
        + ", ".join(f"{number} ({count} record{'s' * (count > 1)})" for number, count in counts.items())
        for stage, packages in versions.items()
        for name, counts in packages.items()
        if len(counts) > 1
    ]


def news(software: Mapping[str, str]) -> str:
    """The installed versions that are not in a store's root attribute ``software``, in one line; "" if none."""
    new = [
        f"{name} {number} (before: {software[name]})"
        for name, number in versions_here().items()
        if name in software and number not in software[name].split(", ")
    ]
    effect = "new results may differ in some bits; mocrop status lists mixed versions"
    return f"the store was made with other versions than those installed: {', '.join(new)}; {effect}" if new else ""
