"""Checks of a store's attributes: one-line ``ValueError`` or ``TypeError`` for invalid ones."""

from __future__ import annotations

from typing import Any

from data_specs import schema
from data_specs.text import printable


def is_id(id: str) -> bool:
    """Whether an id can become a path below a folder, and is printable."""
    return len(id) <= schema.MAX_ID and printable(id) == id and not {"", ".", ".."} & set(id.split("/"))


def as_text(value: object) -> str:
    """The value, which must be a string."""
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:60]!r} is not text")
    return value


def as_revision(value: object) -> int:
    """The value, which must be an integer of at least 1."""
    if type(value) is not int or not 0 < value < 1 << 31:
        raise ValueError(f"revision is {str(value)[:60]}")
    return value


def as_class_names(value: object) -> list[str]:
    """The value, which must be a list of names."""
    if not isinstance(value, list) or not 0 < len(value) <= schema.MAX_CLASSES:
        raise ValueError(f"class_names is {str(value)[:60]}, expected a list of 1 to {schema.MAX_CLASSES} names")
    if wrong := [name for name in value if not isinstance(name, str) or not 0 < len(name) <= schema.MAX_ID]:
        raise ValueError(f"a class name is {str(wrong[0])[:60]!r}")
    return value


def check_params(params: dict[str, Any], expected: dict[str, Any]) -> None:
    """``ValueError`` unless the parameters of a view have the types of the recipe's."""
    needed = {"kind", "grid", "crop_ratio", "tolerance"} & expected.keys()
    for name, value in expected.items():
        given = params.get(name)
        alike = type(given) is type(value) or {type(given), type(value)} == {int, float}
        if isinstance(value, list):
            alike = isinstance(given, list) and list(map(type, given)) == list(map(type, value))
        if not alike and (name in params or name in needed):
            raise ValueError(f"its {name} is {str(given)[:60]}")
    grid, ratio, tolerance = params.get("grid", [1, 1]), params.get("crop_ratio", 1), params.get("tolerance", 0)
    if not (all(1 <= side <= 240 for side in grid) and 0 < ratio <= 1 and 0 <= tolerance <= 1):
        raise ValueError(f"its grid is {str(grid)[:60]}, crop_ratio {ratio:g}, tolerance {tolerance:g}")
