"""The reference of the library: each public name of ``mocrop`` with its signature and its docstring."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import mocrop

_EXAMPLE = re.compile(r"(?:^(?:>>>|\.\.\.).*\n(?:.+\n)*)+", re.MULTILINE)


def library_reference() -> str:
    """The sections of docs/reference/python.md, in the order of what a reader meets first."""
    first = ("read_motion_vectors", "MotionVectors", "find_box", "crop", "crop_video", "list_methods", "create_method",
             "open_store", "Store", "CropDataset")  # fmt: skip
    rest = [name for name in mocrop.__all__ if name not in first and not name.startswith("SOURCE_")]
    sections = [section(f"mocrop.{name}", getattr(mocrop, name)) for name in (*first, *rest)]
    sections.append(section("mocrop.transforms.MotionCrop", mocrop.transforms.MotionCrop))
    sources = ", ".join(f"`mocrop.{name}` {getattr(mocrop, name)}" for name in mocrop.__all__ if "SOURCE_" in name)
    return "\n".join([*sections, f"### How a box came about\n\nWhat `source` may be: {sources}.\n"])


def section(name: str, value: Any) -> str:
    """A name, how it is called, what its docstring says, and its public methods."""
    parts = [f"### `{name}`\n\n{_described(value)}"]
    if inspect.isclass(value) and not issubclass(value, Exception):
        parts += [f"#### `{name}.{method}`\n\n{_described(found)}" for method, found in _members(value)]
    return "\n".join(parts)


def _members(value: type) -> Iterator[tuple[str, Any]]:
    """The methods and properties that a class itself defines and documents."""
    for name, member in vars(value).items():
        found = member.fget if isinstance(member, property) else member
        if not name.startswith("_") and inspect.isfunction(found) and found.__doc__:
            yield name, member


def _described(value: Any) -> str:
    call = ""
    if not isinstance(value, property):
        call = f"```text\n{_signature(value)}\n```\n\n"
    text = inspect.cleandoc(value.__doc__ or "").rstrip() + "\n"
    return call + _EXAMPLE.sub(lambda example: f"```text\n{example[0]}```\n", text)


def _signature(value: Any) -> str:
    """How a function or a class is called, on lines that a page can show."""
    if inspect.isclass(value) and issubclass(value, Exception):
        return f"class {value.__name__}({value.__bases__[0].__name__})"
    signature = inspect.signature(value)
    words: list[str] = []
    for name, each in signature.parameters.items():
        if each.kind is each.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        if name != "self":
            default = "" if each.default is each.empty else f" = {each.default!r}"
            words.append(f"{name}: {each.annotation}{default}")
    returns = signature.return_annotation
    end = "" if returns in (inspect.Signature.empty, "None", None) else f" -> {returns}"
    line = f"{value.__name__}({', '.join(words)}){end}"
    return line if len(line) <= 100 else f"{value.__name__}(\n    " + ",\n    ".join(words) + f",\n){end}"
