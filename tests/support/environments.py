"""Environments that must not matter: proxies that record who comes, and modules that record who imports them."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

LIBRARIES = {
    *("PIL", "av", "click", "cloudpickle", "dask", "data_specs", "distributed", "httpx", "mocrop_core", "msgpack"),
    *("numcodecs", "numpy", "obstore", "pipelines", "prefect", "psutil", "pydantic", "rich", "sitecustomize"),
    *("sqlalchemy", "tornado", "torch", "training", "typer", "usercustomize", "uvicorn", "yaml", "zarr"),
}


@contextlib.contextmanager
def recording_proxy() -> Iterator[tuple[str, list[bytes]]]:
    """The address of a proxy on loopback that answers nothing, and what it was asked so far."""
    asked: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                with listener.accept()[0] as connection:
                    asked.append(connection.recv(1000))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", asked
        listener.shutdown(socket.SHUT_RDWR)


def proxied(address: str) -> dict[str, str]:
    """All variables that name a proxy, as a company's, a desktop's and a person's own settings write them."""
    return {
        "HTTP_PROXY": f"http://{address}",
        "https_proxy": f"http://{address}",
        "ALL_PROXY": f"socks5://{address}",
        "all_proxy": f"socks://{address}/",
        "no_proxy": "fe80::/10,example.org",
    }


def write_hostile_modules(folder: Path) -> Path:
    """Fill a folder with modules that are named like the standard library's and others; where they note their runs."""
    record = folder / "executed"
    code = f"""import posix
file = posix.open({str(record)!r}, posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND)
posix.write(file, (__name__ + "\\n").encode())
raise SystemExit("this is not the module that you are looking for")
"""
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.stdlib_module_names | LIBRARIES:
        (folder / f"{name}.py").write_text(code)
    return record
