"""The password of a Prefect server of ours, and how processes of the same user come by it without being told.

`mocrop serve` writes it into Prefect's home, for its user alone, and holds a lock on the file as long as it lives.
Prefect's commands read it there by our hook (`deployment_alias`), which the settings have to enable.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

LOGIN_PATH = "/login-link"
SECRET_FILE = "MOCROP_PREFECT_SECRET"  # names a file with the password, in place of the one in Prefect's home

_PROFILES = """# Made by `mocrop serve`, so that Prefect's commands find the password of its server.
active = "ephemeral"

[profiles.ephemeral]
PREFECT_SERVER_ALLOW_EPHEMERAL_MODE = "true"
PREFECT_PLUGINS_ENABLED = "true"
PREFECT_PLUGINS_ALLOW = "mocrop"
"""


def new_secret() -> str:
    """A user and a random password, as Prefect's basic authentication takes them."""
    return f"mocrop:{secrets.token_urlsafe(32)}"


def secret_path(home: Path, port: int) -> Path:
    """Where the password of the server at a port is kept."""
    return home / f"mocrop-{port}.secret"


@contextmanager
def keep_secret(path: Path, secret: str) -> Iterator[None]:
    """Keep a password in a new file that nobody else can read, until the block ends."""
    path.unlink(missing_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.write(file, secret.encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def read_secret(path: Path) -> str | None:
    """The password that a living process of this user keeps in a file; None if there is none."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        about = os.fstat(file)
        if about.st_uid != os.geteuid() or stat.S_IMODE(about.st_mode) != 0o600:
            return None
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None  # its maker is dead: what listens there now is another server
        return os.read(file, 1000).decode()
    finally:
        os.close(file)


def enable_hook(home: Path) -> None:
    """Let Prefect's commands call our hook where the user has no profiles of their own."""
    with suppress(FileExistsError), (home / "profiles.toml").open("x", encoding="utf-8") as file:
        file.write(_PROFILES)


def login_link(page: str, secret: str) -> str:
    """The address that opens a server's page and keeps its password in the browser; no one is sent what follows #."""
    return f"{page}{LOGIN_PATH}#{quote(secret)}"


def seen_by_the_user_alone(output: int = 1) -> bool:
    """Whether what is written to a file descriptor goes to a terminal, a pipe or a file that nobody else can read."""
    mode = os.fstat(output).st_mode
    return stat.S_ISFIFO(mode) or os.isatty(output) or (stat.S_ISREG(mode) and not stat.S_IMODE(mode) & 0o077)
