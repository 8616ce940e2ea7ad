"""The errors that a user sees, each in one line."""

from __future__ import annotations


class RunError(Exception):
    """A run that cannot begin or cannot go on: one line for the user."""


class RunStopped(Exception):
    """What no clip is to blame for, such as a full disk, ended the run: one line for the user."""


class ClipError(Exception):
    """Why a clip is quarantined: one line."""
