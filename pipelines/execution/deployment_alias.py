"""Plugin hook for Prefect's commands: the password of a `mocrop serve` server, no proxy, a deployment's short name.

If the setting ``plugins.enabled`` is true, as in this repository's prefect.toml and in the profile that `mocrop serve`
creates, Prefect calls the hook of every ``prefect.plugins`` entry point on import, before its command line reads
``sys.argv``. ``prefect deployment run preprocess-ucf101`` then works without the suffix ``/local`` that Prefect
requires. The hook changes only ``sys.argv`` and, if Prefect's settings name a server on this machine, environment
variables.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.execution import prefect_server, proxies, server_address
from pipelines.execution.process_setup import set_environment

if TYPE_CHECKING:
    from prefect.plugins import HookContext

FLOW = "preprocess-ucf101"
DEPLOYMENT = f"{FLOW}/local"
WITHOUT_VALUE = {"--watch", "--no-watch"}  # options of `deployment run` that take no value


def setup_environment(*, ctx: HookContext) -> None:
    """Prefect's hook: complete the short deployment name in ``sys.argv`` and set the variables to reach our server."""
    sys.argv[:] = completed(sys.argv)
    if ctx.api_url:
        from prefect.settings import get_current_settings

        set_environment(access(ctx.api_url, get_current_settings().home))


def access(api_url: str, home: Path) -> dict[str, str | None]:
    """Environment variables that give this user's clients access to the server at an address."""
    variables: dict[str, str | None] = {}
    if server_address.on_loopback(api_url):
        variables |= proxies.around_loopback()
    if secret := prefect_server.secret_of(api_url, home):
        variables["PREFECT_API_AUTH_STRING"] = secret
    return variables


def completed(argv: list[str]) -> list[str]:
    """Return ``argv`` with the bare flow name after ``deployment run`` completed, if there is one.

    Only the name argument is changed, never the value of an option or an argument of another command.
    """
    words = list(argv)
    for at in range(1, len(words) - 1):
        if words[at : at + 2] == ["deployment", "run"]:
            for place in range(at + 2, len(words)):
                before = words[place - 1]
                takes_a_value = before.startswith("-") and "=" not in before and before not in WITHOUT_VALUE
                is_value = takes_a_value and place > at + 2
                if words[place] == FLOW and not is_value:
                    words[place] = DEPLOYMENT
                    return words
            break
    return words


with contextlib.suppress(ImportError):  # this Prefect has no such hook: the full name is required
    from prefect.plugins import register_hook

    register_hook(setup_environment)
