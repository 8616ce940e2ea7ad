"""docker/compose.yaml as a value, its variables filled in as Docker does, for tests that have no Docker."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import yaml

from tests.places import ROOT

DOCKER = ROOT / "docker"
FILE = DOCKER / "compose.yaml"
_VARIABLE = re.compile(r"\$(?:\$|\{(\w+)(?::-([^}]*))?\})")


def read_compose(variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The compose file, with ``${NAME:-default}`` taken from ``variables`` (default: none set) and ``$$`` as ``$``."""
    given = variables or {}

    def fill(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        value = given.get(found[1]) or found[2]
        if value is None:
            raise ValueError(f"{FILE.name}: nothing sets {found[1]}, and it has no default")
        return value

    def filled(value: Any) -> Any:
        if isinstance(value, str):
            return _VARIABLE.sub(fill, value)
        if isinstance(value, list):
            return [filled(item) for item in value]
        return {key: filled(item) for key, item in value.items()} if isinstance(value, dict) else value

    loaded: dict[str, Any] = filled(yaml.safe_load(FILE.read_text()))
    return loaded


def without_containers(words: list[str], places: Mapping[str, str]) -> list[str]:
    """A command of the file with its hosts, ports and paths replaced by those of ``places``, the longest first."""
    inside = re.compile("|".join(re.escape(place) for place in sorted(places, key=len, reverse=True)))
    return [inside.sub(lambda found: places[found[0]], word) for word in words]


def environment_of(service: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with a service's settings, without what would lead Prefect elsewhere."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    settings = service.get("environment", {})
    return inherited | {name: without_containers([value], places)[0] for name, value in settings.items()}
