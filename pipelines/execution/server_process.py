"""Process of a Prefect server that mocrop starts: Prefect's app behind a check of the ``Host`` header.

``python -m pipelines.execution.server_process HOST PORT [NAME ...]`` listens on HOST and answers requests addressed
to loopback or to a NAME. This refuses web pages whose host name resolves to this machine (DNS rebinding). With
``--child``, the process ends with its parent, when its standard input closes; with ``--throw-away``, it also removes
its start folder.
"""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pipelines.execution.server_secret import LOGIN_PATH, SECRET_FILE

END_SECONDS = 10.0
LOGIN_PAGE = """<!DOCTYPE html><meta charset="utf-8"><title>Prefect</title><script>
const key = btoa(decodeURIComponent(location.hash.slice(1)));
history.replaceState(null, "", location.pathname);
fetch("/api/admin/version", {headers: {Authorization: "Basic " + key}}).then((answer) => {
  if (answer.ok) localStorage.setItem("prefect-password", key);
}).finally(() => location.replace("/"));
</script>
"""
_LOGIN_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; connect-src 'self'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


def application(names: list[str]) -> Any:
    """Prefect's app for requests to loopback or one of the hosts, with a login page that stores a link's password."""
    from prefect.server.api.server import create_app
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse

    prefect = create_app(final=True)
    login = HTMLResponse(LOGIN_PAGE, headers=_LOGIN_HEADERS)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        answers = login if scope["type"] == "http" and scope["path"] == LOGIN_PATH else prefect
        await answers(scope, receive, send)

    return TrustedHostMiddleware(app, allowed_hosts=["127.0.0.1", "localhost", *names], www_redirect=False)


def run(host: str, port: int, names: list[str]) -> None:
    """Serve until SIGTERM; ``SystemExit`` with one line if the address cannot be bound."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        sys.exit(f"{host}:{port}: {error.strerror}")

    import uvicorn
    from prefect.settings import get_current_settings

    settings = get_current_settings().server
    config = uvicorn.Config(
        application(names),
        timeout_keep_alive=settings.api.keepalive_timeout,
        log_level=settings.logging_level.lower(),
        server_header=False,
    )
    server = uvicorn.Server(config)
    server.run(sockets=[listener])
    if not server.started:
        sys.exit(3)


def _end_with_parent() -> None:
    """Wait until the parent has ended (standard input closes), then end this process."""
    while os.read(0, 1024):  # not sys.stdin: this thread would still hold its lock at interpreter exit
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_SECONDS)
    _remove_folder()
    os._exit(1)


def _remove_folder() -> None:
    if "--throw-away" in sys.argv:
        shutil.rmtree(_FOLDER, ignore_errors=True)


if __name__ == "__main__":
    _FOLDER = Path.cwd()
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    if "--child" in sys.argv:
        atexit.register(_remove_folder)
        threading.Thread(target=_end_with_parent, daemon=True).start()
    if file := os.environ.get(SECRET_FILE):
        os.environ["PREFECT_SERVER_API_AUTH_STRING"] = Path(file).read_text(encoding="utf-8").strip()
    gc.set_threshold(100_000, 20, 20)  # during imports, collections take a quarter of the time and free nothing
    run(words[0], int(words[1]), words[2:])
