"""The exception that the command line shows without a traceback, and the hint in its messages about names that are not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """The request cannot be done as written. The message says why and names an alternative; it is shown without a traceback."""


class TrialsInterruptedError(Exception):
    """A signal ended training runs beside each other, which go on when they are started again."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The hint `did you mean NAME?` with the known name nearest to the word; empty if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else ""
