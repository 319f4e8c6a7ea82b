"""Signals that end a process: which of them are one request, and which are a second one."""

from __future__ import annotations

import time

REPEAT_SECONDS = 1.0

received: list[int] = []
"""Signals that are to end this process. What they raise may be lost in a library that is just being called; this is not."""


class Repeats:
    """Tells a signal that is sent twice from a person who insists.

    `timeout` and Slurm send a signal to a process and then to its group, so that the process gets it twice within milliseconds. That is one
    request: the process saves and ends in order. A second one after `REPEAT_SECONDS` is of somebody who does not want to wait.
    """

    def __init__(self) -> None:
        self._first: float | None = None

    def repeated(self) -> bool:
        """To be called for each signal: whether it belongs to the first one."""
        now = time.monotonic()
        if self._first is None:
            self._first = now
            return False
        return now - self._first < REPEAT_SECONDS
