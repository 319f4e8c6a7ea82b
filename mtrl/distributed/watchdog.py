"""Ends a runner that hangs, and keeps what it was doing for the one that takes its place."""

from __future__ import annotations

import faulthandler
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Hang(NamedTuple):
    """The stacks of an earlier process of this runner that hung."""

    task: int | None  # that was being stepped
    stacks: str


class Watchdog:
    """Armed during an unroll. When the time is over, Python's own watchdog thread, which needs no lock of the interpreter's, writes all
    stacks to a file and ends the process; Ray starts another one, which finds the file.
    """

    def __init__(self, name: str, seconds: float):
        folder = _folder(name)
        folder.mkdir(mode=0o700, exist_ok=True)
        self._stacks = folder / "stacks.txt"
        self._seconds = seconds
        marker = folder / "task"
        fresh = not marker.exists()
        self.marker = np.memmap(marker, np.int64, "w+" if fresh else "r+", shape=(1,))
        if fresh:
            self.marker[0] = -1
        self._left = int(self.marker[0])
        # A process that ends in good order leaves nothing behind; one that is ended for hanging does not come here.
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    def hang(self) -> Hang | None:
        """The stacks of the process before this one, if it was ended for hanging; reported once."""
        try:
            stacks = self._stacks.read_text(errors="replace")
        except OSError:
            return None
        self._stacks.unlink()
        self.marker[0] = -1
        if not stacks:
            return None
        task, self._left = self._left, -1
        return Hang(task if task >= 0 else None, stacks)

    def died(self) -> int | None:
        """The task that was being stepped when the process before this one ended, by os._exit, a crash or a kill; reported once."""
        task, self._left = self._left, -1
        self.marker[0] = -1
        return task if task >= 0 else None

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Ends this process if the block takes longer than it may."""
        with self._stacks.open("w") as file:
            faulthandler.dump_traceback_later(self._seconds, exit=True, file=file)
            try:
                yield
            finally:
                faulthandler.cancel_dump_traceback_later()
        self._stacks.unlink(missing_ok=True)


def forget(run: str, runners: int) -> None:
    """Removes what the watchdogs of a run's runners have left on this machine, where Ray ended them before they could."""
    for runner in range(1, runners + 1):
        shutil.rmtree(_folder(f"{run}-{runner}"), ignore_errors=True)


def _folder(name: str) -> Path:
    return Path(tempfile.gettempdir()) / re.sub(r"[^a-z0-9-]", "", name)
