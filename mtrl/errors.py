"""The one exception that the command line shows without a traceback."""

from __future__ import annotations


class UserError(ValueError):
    """What the user asked for cannot be done as written; the message says why and what would do, and stands without a traceback."""
