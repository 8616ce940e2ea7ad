"""Internal errors, caused by neither a clip nor the user: one line to show, and a log file with the traceback."""

from __future__ import annotations

import os
import platform
import tempfile
import time
import traceback
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO

from data_specs.locations import without_passwords

LOGS = "logs"  # subfolder of the work folder
_PACKAGES = ("mocrop", "numpy", "av", "zarr", "numcodecs", "pillow", "dask", "prefect")
_LINES, _LINE_BYTES = 200, 2000  # how much of a child's standard error is kept


@dataclass(frozen=True, slots=True)
class InternalError:
    """An unexpected exception of our own code as text, so that it can be sent between processes.

    ``what`` is its type, message and source line; ``clip`` is the id of the clip being processed ("" if none).
    """

    what: str
    clip: str
    traceback: str


def internal_error(error: BaseException) -> InternalError:
    """Convert an exception to text; the clip is the one that `mark_clip` recorded on it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    message = " ".join(str(error).split())[:300]
    what = f"{type(error).__name__}{': ' if message else ''}{message}{place}"
    return InternalError(what, getattr(error, _CLIP, ""), "".join(traceback.format_exception(error)))


_CLIP = "mocrop_clip"


def mark_clip(error: BaseException, clip_id: str) -> None:
    """Record on an exception which clip was being processed when it was raised."""
    setattr(error, _CLIP, clip_id)


def record(error: InternalError, folder: Path | None, where: str = "") -> str:
    """Write the traceback to a new log file in ``folder`` and return one line that names it.

    ``where`` is the stage and shard, if any. If ``folder`` is None or not writable, the log goes to the system's
    temporary folder; if that fails too, the line contains the traceback.
    """
    at = ", ".join(part for part in (f"clip {error.clip}" if error.clip else "", where) if part)
    log = write_log(folder, "internal-error", f"{error.what}\n{at}\n\n{error.traceback}")
    return (
        f"internal error{f' at {at}' if at else ''}: {error.what}; this is a bug in mocrop, not in a clip: please "
        f"report it with {log or ' '.join(error.traceback.split())}; completed work is kept"
    )


def write_log(folder: Path | None, name: str, text: str) -> str:
    """Write a text and the software versions to a new log file; return its path, "" if none can be written."""
    prefix = time.strftime(f"{name}-%Y%m%d-%H%M%S-")
    for place in (folder, Path(tempfile.gettempdir())):
        with suppress(OSError):  # try the next folder; the caller shows the text if none is writable
            if place is not None:
                place.mkdir(parents=True, exist_ok=True)
                handle, path = tempfile.mkstemp(".log", prefix, place)
                with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                    file.write(f"{without_passwords(text.rstrip())}\n\n{_software()}\n")
                return path
    return ""


def _software() -> str:
    versions = [f"python {platform.python_version()}, {platform.platform()}"]
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions.append(f"{name} {version(name)}")
    return ", ".join(versions)


class Tail:
    """The last lines of a stream, in bounded memory: at most 200 lines of 2,000 bytes."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque(maxlen=_LINES)

    def read(self, stream: IO[bytes]) -> None:
        """Read a stream to its end."""
        self._lines.extend(iter(lambda: stream.readline(_LINE_BYTES), b""))

    @property
    def text(self) -> str:
        """The kept lines, without trailing blank ones."""
        return b"".join(self._lines).decode(errors="backslashreplace").rstrip()

    @property
    def last_line(self) -> str:
        """The last line that is not blank, at most 300 characters."""
        return (self.text.splitlines() or [""])[-1].strip()[:300]
