"""The methods that choose a box, by name."""

from __future__ import annotations

import dataclasses
from typing import Any

from mocrop_core.actor import ACTOR, ActorMethod
from mocrop_core.method import PRESETS, Method

AnyMethod = Method | ActorMethod
METHODS: dict[str, AnyMethod] = {"actor": ACTOR, **PRESETS}
DEFAULT = "actor"


def list_methods() -> list[str]:
    """Return the names of the methods that choose a box from motion, for `find_box` and ``mocrop crop``.

    >>> mocrop.list_methods()
    ['actor', 'paper-v1', 'paper-v2', 'reference']
    """
    return list(METHODS)


def create_method(name: str, **overrides: Any) -> AnyMethod:
    """Return the method with the given name, with some of its parameters replaced.

    name: one of `list_methods`. overrides: fields of the method and their values; every method has `crop_ratio` (area
    of the box as a share of the frame's). Raises ValueError for an unknown name or field, or a value outside its range.

    >>> method = mocrop.create_method("paper-v2", grid=(12, 16), crop_ratio=0.5)
    >>> method.grid, method.crop_ratio
    ((12, 16), 0.5)
    >>> mocrop.create_method("actor", aspect="square").crop_ratio
    0.5
    """
    if name not in METHODS:
        raise ValueError(f"method {name!r}: give one of {', '.join(METHODS)}")
    known = [field.name for field in dataclasses.fields(METHODS[name])]
    if unknown := sorted(set(overrides) - set(known)):
        raise ValueError(f"method {name!r} has no {', '.join(unknown)}; it has {', '.join(known)}")
    return dataclasses.replace(METHODS[name], **overrides)
