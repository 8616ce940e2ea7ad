"""Password of a Prefect server that mocrop starts, and how other processes of the same user read it.

`mocrop serve` writes it to a file in Prefect's home that only its user can read, and locks the file while it runs.
Prefect's commands read it through our hook (`deployment_alias`), which the settings must enable.
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
SECRET_FILE = "MOCROP_PREFECT_SECRET"  # environment variable: path of a password file, instead of Prefect's home

_PROFILES = """# Made by `mocrop serve`, so that Prefect's commands find the password of its server.
active = "ephemeral"

[profiles.ephemeral]
PREFECT_SERVER_ALLOW_EPHEMERAL_MODE = "true"
PREFECT_PLUGINS_ENABLED = "true"
PREFECT_PLUGINS_ALLOW = "mocrop"
"""


def new_secret() -> str:
    """A new "user:password" with a random password, for Prefect's basic authentication."""
    return f"mocrop:{secrets.token_urlsafe(32)}"


def secret_path(home: Path, port: int) -> Path:
    """Path of the password file of the server at a port."""
    return home / f"mocrop-{port}.secret"


@contextmanager
def keep_secret(path: Path, secret: str) -> Iterator[None]:
    """Keep a password in a new file that only this user can read, until the block ends."""
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
    """The password in a file that a running process of this user keeps; None if there is no such file."""
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
            return None  # not locked, so its server is dead: another server may listen at the port now
        return os.read(file, 1000).decode()
    finally:
        os.close(file)


def enable_hook(home: Path) -> None:
    """Enable our hook in Prefect's commands, unless the user has a profiles file."""
    with suppress(FileExistsError), (home / "profiles.toml").open("x", encoding="utf-8") as file:
        file.write(_PROFILES)


def login_link(page: str, secret: str) -> str:
    """Address that opens a server's page and stores its password in the browser; the part after # is never sent."""
    return f"{page}{LOGIN_PATH}#{quote(secret)}"


def seen_by_the_user_alone(output: int = 1) -> bool:
    """Return whether a file descriptor is a terminal, a pipe or a file that only this user can read."""
    mode = os.fstat(output).st_mode
    return stat.S_ISFIFO(mode) or os.isatty(output) or (stat.S_ISREG(mode) and not stat.S_IMODE(mode) & 0o077)
