"""Errors shown to the user as one line each."""

from __future__ import annotations


class RunError(Exception):
    """A run cannot start or continue; the message is one line for the user."""


class RunStopped(Exception):
    """A problem that no clip caused, such as a full disk, ended the run; the message is one line for the user."""


class ClipError(Exception):
    """A clip must be quarantined; the message is the reason, one line."""
