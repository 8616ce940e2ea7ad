"""The cause of a failure of ffmpeg, in one line, from its log."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pipelines.media.containers import FORMATS, MAX_PIXELS
from pipelines.media.subprocess_runner import Log

_CAUSES = {
    r"Cannot allocate memory": "it needs more memory than ffmpeg may have",
    r"matches no streams": "there is no video stream in it",
    r"not on whitelist": f"its container format is not one of {FORMATS}",
    r"non positive size for width '(\d+)' or height '(\d+)'": (
        r"a side of 1 px cannot be encoded: cut to even sides, a frame is \1x\2 px"
    ),
    r"Picture size (\d+x\d+) (exceeds|is invalid)": (rf"a frame of \1 px exceeds the limit of {MAX_PIXELS} px"),
    r"Cannot determine format of input|received no packets|Output file is empty": "no frame could be decoded",
}
_CONSEQUENCE = re.compile(
    r"Task finished|Terminating thread|before EOF|Error (opening|parsing options for) (in|out)put"
    r"|Nothing was written|Failed to set value|Conversion failed|Error (re)?initializing|Error submitting"
    r"|^the input: "
)


def cause(log: Log, names: Mapping[str, str] | None = None) -> str:
    """One line on why ffmpeg failed: a known cause, else the last error that is not just a consequence.

    ``names`` maps file names to the terms to replace them with.
    """
    if log.signal and not (log.status > 0 and log.errors):
        return f"ffmpeg was ended by {log.signal} each time"
    lines = []
    for line in log.errors:
        for path, name in (names or {}).items():
            line = line.replace(path, name).replace(path.removeprefix("file:"), name)
        line = re.sub(r"\[[^\]]* @ 0x[0-9a-f]+\] |\[(error|fatal)\] ", "", line)
        lines.append(line.encode(errors="replace").decode())
    if known := known_cause(lines):
        return known
    if causes := [line for line in lines if not _CONSEQUENCE.search(line)]:
        return causes[-1][:300]
    if any("Invalid data found" in line for line in lines):
        return "it is not a video, or too damaged to be opened (Invalid data found when processing input)"
    return lines[-1][:300] if lines else f"it ended with status {log.status}"


def known_cause(lines: Iterable[str]) -> str:
    """The first of `_CAUSES` that matches an error line; "" if none does."""
    for pattern, cause in _CAUSES.items():
        for line in lines:
            if match := re.search(pattern, line):
                return match.expand(cause)
    return ""
