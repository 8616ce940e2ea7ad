"""On PYTHONPATH, this makes the reading of videos end, block or fail where the environment names a clip.

``MOCROP_SABOTAGE`` holds lines of three words: a function of ``pipelines.media.decoder``, ``dies``, ``dies-once``,
``hangs`` or ``raises``, and a part of the file's name.
"""

import ctypes
import os
import signal
from pathlib import Path
from typing import Any


def sabotage(function: str, how: str, name: str) -> None:
    from pipelines.media import decoder

    real = getattr(decoder, function)

    def sabotaged(path: Any, *arguments: Any, **options: Any) -> Any:
        if name in str(path):
            done = Path(f"{path}.died")
            if how == "raises":
                with done.open("a") as tries:
                    tries.write("x")
                raise KeyError("a name that our code has wrong")
            if how == "hangs":
                ctypes.PyDLL(None).sleep(600)  # in C, and without letting another thread of Python run
            elif how == "dies" or not done.exists():
                done.touch()
                os.kill(os.getpid(), signal.SIGSEGV)
        return real(path, *arguments, **options)

    setattr(decoder, function, sabotaged)


for line in os.environ.get("MOCROP_SABOTAGE", "").splitlines():
    sabotage(*line.split())
