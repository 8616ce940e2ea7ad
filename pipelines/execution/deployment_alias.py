"""What Prefect's commands need for a server of `mocrop serve`: its password, no proxy, and a deployment's short name.

Prefect calls the hook of every ``prefect.plugins`` entry point while it is imported, before its command line reads
``sys.argv``, where the settings have ``plugins.enabled``: those of prefect.toml in this repository and of the
profile that `mocrop serve` makes. ``prefect deployment run preprocess-ucf101`` then does without the ``/local`` that
Prefect wants in a name. The hook touches nothing of Prefect but environment variables, and those only where its
settings name a server on this machine.
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
WITHOUT_VALUE = {"--watch", "--no-watch"}  # the options of `deployment run` that take no value


def setup_environment(*, ctx: HookContext) -> None:
    """Prefect's hook: complete the bare name in this process's command line, and let it into our own server."""
    sys.argv[:] = completed(sys.argv)
    if ctx.api_url:
        from prefect.settings import get_current_settings

        set_environment(access(ctx.api_url, get_current_settings().home))


def access(api_url: str, home: Path) -> dict[str, str | None]:
    """The environment variables with which this user's clients get into the server at an address."""
    variables: dict[str, str | None] = {}
    if server_address.on_loopback(api_url):
        variables |= proxies.around_loopback()
    if secret := prefect_server.secret_of(api_url, home):
        variables["PREFECT_API_AUTH_STRING"] = secret
    return variables


def completed(argv: list[str]) -> list[str]:
    """``argv`` with the bare flow name of ``deployment run`` completed; the same words if there is none.

    Only the word in the place of the name is changed, never the value of an option or another command's word.
    """
    words = list(argv)
    for at in range(1, len(words) - 1):
        if words[at : at + 2] == ["deployment", "run"]:
            for place in range(at + 2, len(words)):
                before = words[place - 1]
                takes_a_value = before.startswith("-") and "=" not in before and before not in WITHOUT_VALUE
                an_option_s_value = takes_a_value and place > at + 2
                if words[place] == FLOW and not an_option_s_value:
                    words[place] = DEPLOYMENT
                    return words
            break
    return words


with contextlib.suppress(ImportError):  # a Prefect without this hook: the name stays as it was typed
    from prefect.plugins import register_hook

    register_hook(setup_environment)
