"""The display of a running training: one status block on a terminal, one line for each report elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import rich.console
from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from envs import TaskSuite
from mtrl.cli.debuggers import yield_to_debuggers
from mtrl.cli.run_view import Metrics, RunView
from mtrl.cli.status import Status
from mtrl.config import ExperimentConfig


def make_console(program: str, *, plain: bool = False) -> TerminalConsole | PlainConsole:
    """The status block where standard output is a terminal, plain lines where it is a file or a pipe.

    Args:
        program: what the user types to call this program, for the commands that are suggested at the end.
        plain: plain lines in a terminal, too.
    """
    terminal = rich.console.Console()
    plain = plain or not terminal.is_terminal or terminal.is_dumb_terminal
    return PlainConsole(program) if plain else TerminalConsole(terminal, program)


class TerminalConsole:
    """Keeps one status block at the bottom of the terminal; messages scroll by above it.

    A debugger gets the terminal for itself: from the first breakpoint on there is no block, and reports are plain lines.
    """

    def __init__(self, terminal: rich.console.Console, program: str):
        self._terminal = terminal
        self._program = program
        self._run: RunView | None = None
        self._live: Live | None = None
        self._hooks: Callable[[], None] = lambda: None  # takes back what makes debuggers stop the block

    def start(self, config: ExperimentConfig, suite: TaskSuite, directory: Path) -> None:
        """Shows the block."""
        self._run = RunView(config, suite, directory)
        # Redrawn between reports as well: the clock that runs on says that the program has not stopped.
        self._live = Live(console=self._terminal, refresh_per_second=1, get_renderable=self._status, vertical_overflow="crop")
        self._live.start()
        self._hooks = yield_to_debuggers(self._stop_block)

    def update(self, metrics: Metrics) -> None:
        """Shows new figures."""
        if self._run is not None:
            self._run.update(metrics)
            if self._live is not None:
                self._live.refresh()
            else:
                self.message(self._run.line())

    def message(self, text: str) -> None:
        """Prints a line above the block."""
        self._terminal.print(Text(text), soft_wrap=True)

    def close(self) -> None:
        """Leaves the last figures on the screen and says what to type next. A second call does nothing."""
        self._stop_block()
        if self._run is not None:
            self._terminal.print(Text(self._run.farewell(self._program)), soft_wrap=True)
            self._run = None

    def _stop_block(self) -> None:
        """Leaves the last figures on the screen, and the terminal to others."""
        self._hooks()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _status(self) -> RenderableType:
        return Status(self._run) if self._run is not None else ""


class PlainConsole:
    """One line per report, for log files and pipes."""

    def __init__(self, program: str):
        self._program = program
        self._run: RunView | None = None

    def start(self, config: ExperimentConfig, suite: TaskSuite, directory: Path) -> None:
        """Says what is trained, and where its files go."""
        self._run = RunView(config, suite, directory)
        tasks = f"{suite.num_tasks} task{'s' if suite.num_tasks != 1 else ''} of {suite.name}"
        self.message(f"{config.name}: {tasks}, {config.total_frames:,} frames, into {directory}")

    def update(self, metrics: Metrics) -> None:
        """Prints the figures in one line."""
        if self._run is not None:
            self._run.update(metrics)
            self.message(self._run.line())

    def message(self, text: str) -> None:
        """Prints a line."""
        print(text, flush=True)

    def close(self) -> None:
        """Says what to type next. A second call does nothing."""
        if self._run is not None:
            self.message(self._run.farewell(self._program))
            self._run = None
