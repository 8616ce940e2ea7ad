"""What the containers' health checks run: exit status 0 and a line if all is well, 1 and the reason if not.

health.py URL          the address answers with a success
health.py deployment   the Prefect server at PREFECT_API_URL answers, and somebody serves the deployment
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request

DEPLOYMENT = "preprocess-ucf101/local"
DEFAULT_API = "http://127.0.0.1:4200/api"
SECONDS = 8.0


def fetched(url: str) -> bytes:
    """What ``url`` answers; OSError if that is no success."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=SECONDS) as response:
        body: bytes = response.read()
    return body


def state(what: str) -> str:
    """The deployment's state by the server, which is READY while somebody polls for its runs; or an answer's text."""
    if what != "deployment":
        return fetched(what).decode(errors="replace").strip() or "ok"
    api = os.environ.get("PREFECT_API_URL", DEFAULT_API).rstrip("/")
    found = json.loads(fetched(f"{api}/deployments/name/{DEPLOYMENT}"))["status"]
    if found != "READY":
        raise OSError(f"{DEPLOYMENT} is {found}: nobody serves it")
    return f"{DEPLOYMENT} is {found}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        print(state(sys.argv[1])[:200])
    except (OSError, ValueError, KeyError) as error:
        print(f"{sys.argv[1]}: {error}")
        sys.exit(1)
