"""Lets ``prefect deployment run preprocess-ucf101`` do without the ``/local`` that Prefect wants in a name.

Prefect calls the hook of every ``prefect.plugins`` entry point while it is imported, before its command line
reads ``sys.argv``, where the settings have ``plugins.enabled``; prefect.toml has, inside this repository. The
hook completes one word of the command and touches nothing of Prefect: where Prefect changes, the bare name is
refused as it is without the hook, and nothing else happens.
"""

from __future__ import annotations

import contextlib
import sys

FLOW = "preprocess-ucf101"
DEPLOYMENT = f"{FLOW}/local"
WITHOUT_VALUE = {"--watch", "--no-watch"}  # the options of `deployment run` that take no value


def setup_environment(*, ctx: object) -> None:
    """Prefect's hook: complete the bare name in the command line of this process, if it has one."""
    sys.argv[:] = completed(sys.argv)


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
