"""The contract of consoles, where a run reports its progress, and what happens when a run's terminal or pipe goes away."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from envs import TaskSuite
from mtrl.config import ExperimentConfig


class Console(Protocol):
    """Shows the progress of a run to a person."""

    def start(self, config: ExperimentConfig, suite: TaskSuite, directory: Path) -> None:
        """The run begins."""

    def update(self, metrics: dict[str, float]) -> None:
        """New figures."""

    def message(self, text: str) -> None:
        """One sentence."""

    def close(self) -> None:
        """The run has ended."""


class SilentConsole:
    """Shows nothing; a run's messages are in its `messages.log` all the same."""

    def start(self, config: ExperimentConfig, suite: TaskSuite, directory: Path) -> None:
        """See `Console`."""

    def update(self, metrics: dict[str, float]) -> None:
        """See `Console`."""

    def message(self, text: str) -> None:
        """See `Console`."""

    def close(self) -> None:
        """See `Console`."""


class GuardedConsole:
    """A console that falls silent when its terminal or pipe has gone, so that the run can go on or be saved.

    Args:
        console: the console.
        reader_gone: called once when a pipe's reader has gone (`... | head`).
        log: gets each message, too.
    """

    def __init__(self, console: Console, reader_gone: Callable[[], None], log: Callable[[str], None] = lambda text: None):
        self._console, self._reader_gone, self._log = console, reader_gone, log
        self._silent = False

    def start(self, config: ExperimentConfig, suite: TaskSuite, directory: Path) -> None:
        """See `Console`."""
        self._say(lambda: self._console.start(config, suite, directory))

    def update(self, metrics: dict[str, float]) -> None:
        """See `Console`."""
        self._say(lambda: self._console.update(metrics))

    def message(self, text: str) -> None:
        """See `Console`."""
        self._log(text)
        self._say(lambda: self._console.message(text))

    def close(self) -> None:
        """See `Console`."""
        self._say(self._console.close)

    def _say(self, say: Callable[[], None]) -> None:
        if self._silent:
            return
        try:
            say()
        except (OSError, SystemExit) as error:  # rich ends the program when a pipe is broken
            self._silent = True
            with contextlib.suppress(OSError, ValueError):  # what is still buffered goes nowhere
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if isinstance(error, BrokenPipeError | SystemExit):
                self._reader_gone()
