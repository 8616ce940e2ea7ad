"""Where the project and the tests' own files lie."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The project's folder."""
SUPPORT = Path(__file__).parent / "support"
GOLDEN = SUPPORT / "golden"
SABOTAGE = SUPPORT / "sabotage"
DATA = Path(os.environ.get("MOCROP_TEST_DATA") or ROOT.parent / "shared" / "data")
"""Real clips, which are not part of the project."""
