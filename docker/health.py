"""What the containers' health checks run: exit status 0 and a line if all is well, 1 and the reason if not.

health.py URL          the address answers with a success
health.py deployment   the Prefect server at PREFECT_API_URL answers, and somebody serves the deployment
"""

from __future__ import annotations

import base64
import json
import os
import sys
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

DEPLOYMENT = "preprocess-ucf101/local"
DEFAULT_API = "http://127.0.0.1:4200/api"
SECONDS = 8.0


def fetched(url: str, password: str = "") -> bytes:
    """What ``url`` answers; OSError if that is no success."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    known = {"Authorization": f"Basic {base64.b64encode(password.encode()).decode()}"} if password else {}
    with opener.open(urllib.request.Request(url, headers=known), timeout=SECONDS) as response:
        body: bytes = response.read()
    return body


def password_of(api: str) -> str:
    """The password of the Prefect server: a secret of the container, or what `mocrop serve` has left in it."""
    home = os.environ.get("PREFECT_HOME", "")
    file = os.environ.get("MOCROP_PREFECT_SECRET") or f"{home}/mocrop-{urlsplit(api).port}.secret"
    return Path(file).read_text(encoding="utf-8").strip() if Path(file).exists() else ""


def state(what: str) -> str:
    """The deployment's state by the server, which is READY while somebody polls for its runs; or an answer's text."""
    if what != "deployment":
        return fetched(what).decode(errors="replace").strip() or "ok"
    api = os.environ.get("PREFECT_API_URL", DEFAULT_API).rstrip("/")
    found = json.loads(fetched(f"{api}/deployments/name/{DEPLOYMENT}", password_of(api)))["status"]
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
