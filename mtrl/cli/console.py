"""The display of a running training: one status block on a terminal, one line for each report elsewhere."""

from __future__ import annotations

import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import rich.box
import rich.console
from rich.console import ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress import Progress
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from envs import TaskSuite
from mtrl.config import ExperimentConfig
from mtrl.storage.checkpoint import named_step
from mtrl.storage.layout import RunLayout

Metrics = dict[str, float]


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


def yield_to_debuggers(stop: Callable[[], None]) -> Callable[[], None]:
    """Calls `stop` before `breakpoint()` or `pdb.set_trace()` opens a debugger, which then stands where it was called.

    Returns:
        a function that restores both.
    """
    import pdb  # a tenth of a second, which commands without a status block need not wait for

    hook, set_trace = sys.breakpointhook, pdb.set_trace

    def restore() -> None:
        sys.breakpointhook, pdb.set_trace = hook, set_trace

    def open_pdb(*arguments: Any, header: str | None = None, **more: Any) -> None:
        stop()
        debugger = pdb.Pdb()
        if header is not None:
            debugger.message(header)
        debugger.set_trace(sys._getframe().f_back)

    def open_any(*arguments: Any, **more: Any) -> Any:
        stop()
        if os.environ.get("PYTHONBREAKPOINT", "pdb.set_trace") in ("", "pdb.set_trace"):
            return pdb.Pdb().set_trace(sys._getframe().f_back)
        return hook(*arguments, **more)

    sys.breakpointhook, pdb.set_trace = open_any, open_pdb
    return restore


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


class TaskFigures(NamedTuple):
    """One task's row. NaN stands for what is not known yet."""

    name: str
    score: float
    episodes: float
    share: float
    returns: float = math.nan
    """Mean return, where it says more than the score: in suites without a published score."""

    @property
    def text(self) -> str:
        """The task with its score, and its return where that says more."""
        returns = "" if math.isnan(self.returns) else f" return {self.returns:.4g}"
        return f"{self.name} {number(self.score, '.2f')}{returns}"


class RunView:
    """The run's identity, its latest figures and what they say about time."""

    def __init__(self, config: ExperimentConfig, suite: TaskSuite, directory: Path):
        self.config = config
        self.suite = suite
        self.directory = directory
        self._names = short_names(suite.names)
        self._metrics: Metrics = {}
        self._started = self._updated = time.monotonic()

    def update(self, metrics: Metrics) -> None:
        """Takes new figures by the names of `Trainer.metrics`; those that are missing stay what they were, or unknown."""
        self._metrics |= metrics
        self._updated = time.monotonic()

    @property
    def tasks(self) -> list[TaskFigures]:
        """The tasks' rows in the suite's order."""
        return [
            TaskFigures(
                short,
                self._get(f"tasks/{task.name}/score"),
                self._get(f"tasks/{task.name}/episodes"),
                self._get(f"tasks/{task.name}/share_trained"),
                self._get(f"tasks/{task.name}/return") if self.suite.protocol is None else math.nan,
            )
            for short, task in zip(self._names, self.suite.tasks, strict=True)
        ]

    @property
    def frames(self) -> float:
        """Frames trained on so far."""
        return self._metrics.get("summary/frames", 0.0)

    @property
    def speed(self) -> float:
        """Frames per second of the last interval."""
        return self._get("summary/frames_per_second")

    @property
    def score(self) -> float:
        """Mean score over the tasks."""
        return self._get("summary/score_mean")

    @property
    def policy_lag(self) -> float:
        """Updates that the acting weights are behind, on average."""
        return self._get("summary/policy_lag")

    @property
    def elapsed(self) -> float:
        """Seconds since the start of this process's part of the run."""
        return time.monotonic() - self._started

    @property
    def left(self) -> float:
        """Seconds to go at the speed of the last interval."""
        if not self.speed > 0:
            return math.nan
        return max((self.config.total_frames - self.frames) / self.speed - (time.monotonic() - self._updated), 0.0)

    @property
    def fraction(self) -> float:
        """Part of the frames that is done, 0 to 1."""
        return min(self.frames / self.config.total_frames, 1.0)

    @property
    def left_out(self) -> list[str]:
        """Tasks whose environments keep failing, which are not trained for now."""
        return [short for short, name in zip(self._names, self.suite.names, strict=True) if self._get(f"tasks/{name}/quarantined") == 1]

    def _get(self, name: str) -> float:
        return self._metrics.get(name, math.nan)

    def line(self) -> str:
        """The figures in one line; of many tasks only the weakest."""
        tasks = self.tasks
        if len(tasks) > 10:
            tasks = sorted(tasks, key=lambda task: math.inf if math.isnan(task.score) else task.score)[:5]
        scores = ", ".join(task.text for task in tasks)
        return (
            f"{self.frames:,.0f} of {self.config.total_frames:,} frames ({self.fraction:.1%}), {number(self.speed, ',.0f')} frames/s, "
            f"{duration(self.left)} left, score {number(self.score, '.3f')} "
            f"({'lowest: ' if len(tasks) < self.suite.num_tasks else ''}{scores}), policy lag {number(self.policy_lag, '.1f')}"
            + (f", left out: {', '.join(self.left_out)}" if self.left_out else "")
        )

    def farewell(self, program: str) -> str:
        """The run's directory, and the next command that a user needs."""
        directory = shlex.quote(str(self.directory))
        lines = [f"run directory: {directory}"]
        saved = named_step(RunLayout(self.directory).checkpoints, "latest")
        if saved is not None:
            lines.append(f"saved at:      {saved:,} frames")
        if self.left_out:
            lines.append(f"left out:      {', '.join(self.left_out)} (their environments kept failing)")
        if (RunLayout(self.directory).checkpoints / "latest").exists():
            if self.frames < self.config.total_frames:
                lines.append(f"to go on:      {program} train --resume {directory}")
            lines.append(f"to evaluate:   {program} evaluate {directory}")
        return "\n".join(lines)


class Status:
    """The status block. It fits the terminal: the more tasks, the more columns and the fewer details."""

    def __init__(self, run: RunView):
        self._run = run

    def __rich_console__(self, console: rich.console.Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        header = [*self._header(width), Text("")]
        # A last free line keeps the block from scrolling the terminal.
        yield Group(*header, *task_rows(self._run.tasks, width, console.size.height - len(header) - 1))

    def _header(self, width: int) -> list[RenderableType]:
        run = self._run
        title = Table.grid(expand=True, padding=(0, 1))
        title.add_column(no_wrap=True)
        title.add_column(justify="right", no_wrap=True, overflow="ellipsis", style="dim")
        title.add_row(Text.assemble((run.config.name, "bold"), (f"  {run.suite.name}", "dim")), str(run.directory))

        progress = Table.grid(padding=(0, 2))
        before = f"{amount(run.frames)} / {amount(float(run.config.total_frames))} frames"
        after = [f"{run.fraction:.0%}", f"{number(run.speed, ',.0f')} frames/s", f"{duration(run.left)} left"]
        figures = [before, *(after if width >= 72 else after[::2])]
        for _ in range(len(figures) + 1):
            progress.add_column(no_wrap=True)
        room = max(width - sum(len(figure) + 2 for figure in figures), 4)
        progress.add_row(before, bar(run.fraction, room, "cyan"), *figures[1:])

        waiting = sum(not task.episodes > 0 for task in run.tasks)
        summary = Text.assemble(
            "mean score ",
            (number(run.score, ".3f"), "bold"),
            f" ({waiting} task{'s' if waiting > 1 else ''} without an episode)" if waiting else "",
            f"   policy lag {number(run.policy_lag, '.1f')} updates   running for {duration(run.elapsed)}",
        )
        summary.truncate(width, overflow="ellipsis")
        if not run.left_out:
            return [title, progress, summary]
        left_out = Text(f"left out, since their environments keep failing: {', '.join(run.left_out)}", style="red")
        left_out.truncate(width, overflow="ellipsis")
        return [title, progress, summary, left_out]


GAP = 3  # cells between two columns of tasks
NARROWEST = 24  # cells of a task: a short name, a short bar, the score


def task_rows(tasks: list[TaskFigures], width: int, height: int) -> list[RenderableType]:
    """The tasks in as few columns as fit `height` lines of `width` cells; those that never fit are counted in the last line."""
    most_columns = max((width + GAP) // (NARROWEST + GAP), 1)
    height = max(height, 3)
    columns = next((columns for columns in range(1, most_columns) if math.ceil(len(tasks) / columns) + 1 <= height), most_columns)
    cell = (width - GAP * (columns - 1)) // columns
    room = columns * (height - 2) if math.ceil(len(tasks) / columns) + 1 > height else len(tasks)
    shown, hidden = tasks[:room], len(tasks) - room

    layout = Layout.of(shown, cell)
    rows = math.ceil(len(shown) / columns)
    table = Table.grid(padding=(0, GAP))
    table.add_row(*(layout.table(shown[start : start + rows]) for start in range(0, len(shown), rows)))
    return [table, *([Text(f"and {hidden} more tasks, which this window is too small for", style="dim")] if hidden > 0 else [])]


class Layout(NamedTuple):
    """The widths of the parts of a task's cell. Details that do not fit have width 0 and are left out."""

    name: int
    bar: int
    episodes: int
    share: int
    returns: int = 0

    @staticmethod
    def of(tasks: list[TaskFigures], cell: int) -> Layout:
        """Divides `cell`: score and share first, then the name, and the bar takes what is left."""
        score, share, episodes = 5, 5 if cell >= 38 else 0, 8 if cell >= 52 else 0
        free = cell - (score + 1) - (share + 1 if share else 0) - (episodes + 1 if episodes else 0) - 1
        returns = 8 if cell >= 46 and any(not math.isnan(task.returns) for task in tasks) else 0
        free -= returns + 1 if returns else 0
        longest = max((len(task.name) for task in tasks), default=4)
        name = min(max(longest, 4), max(free - 12, free * 2 // 3))
        return Layout(name, min(free - name, 40), episodes, share, returns)

    def table(self, tasks: list[TaskFigures]) -> Table:
        """The tasks below each other, with headings."""
        table = Table.grid(padding=(0, 1))
        table.add_column(width=self.name, no_wrap=True)
        table.add_column(width=self.bar)
        table.add_column(width=5, justify="right", no_wrap=True)
        titles = ["task", "", "score"]
        for title, width in (("return", self.returns), ("episodes", self.episodes), ("share", self.share)):
            if width:
                table.add_column(width=width, justify="right", no_wrap=True, style="dim")
                titles.append(title)
        table.add_row(*(Text(title, style="dim") for title in titles))
        for task in tasks:
            table.add_row(*self._row(task))
        return table

    def _row(self, task: TaskFigures) -> list[RenderableType]:
        score = 0.0 if math.isnan(task.score) else task.score
        cells: list[RenderableType] = [shorten(task.name, self.name), bar(score, self.bar, "green"), number(task.score, ".2f")]
        if self.returns:
            cells.append(number(task.returns, ".4g"))
        if self.episodes:
            cells.append(amount(task.episodes))
        if self.share:
            cells.append(number(task.share, ".0%" if not task.share < 0.1 else ".1%"))
        return cells


def bar(fraction: float, width: int, style: str) -> ProgressBar:
    """A bar that is full at 1. Its colours are among the sixteen that every terminal has."""
    completed = min(max(fraction, 0.0), 1.0)
    return ProgressBar(1.0, completed, width=width, style="bright_black", complete_style=style, finished_style=style)


def short_names(names: tuple[str, ...]) -> list[str]:
    """The names without the words that all of them begin and end with, such as `MiniGrid-` and `-v3`."""
    words = [name.split("-") for name in names]
    most = min(map(len, words)) - 1 if len(names) > 1 else 0  # each name keeps a word of its own
    last = _common_words([parts[::-1] for parts in words], most)
    first = _common_words(words, most - last)
    return ["-".join(parts[first : len(parts) - last]) for parts in words]


def _common_words(names: list[list[str]], most: int) -> int:
    """The number of words that all names begin with, at most `most`."""
    return next((count for count in range(most) if len({parts[count] for parts in names}) > 1), most)


def shorten(name: str, width: int) -> str:
    """`name` in at most `width` cells; both ends stay, since the names of a suite differ at either."""
    if len(name) <= width:
        return name
    return name[: width // 2] + "…" + name[len(name) - (width - width // 2 - 1) :]


def number(value: float, form: str) -> str:
    """`value` formatted, or a dash where it is unknown."""
    return "–" if math.isnan(value) else format(value, form)


def amount(value: float) -> str:
    """A count in at most seven cells: 950, 12.3 k, 1.23 M."""
    if math.isnan(value):
        return "–"
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= scale:
            scaled = value / min(scale, 1e3 if unit == "k" else scale)
            return f"{scaled:.2f} {unit}" if scaled < 10 else f"{scaled:.1f} {unit}" if scaled < 100 else f"{scaled:.0f} {unit}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """Seconds as 0:05, 6:32, 1:02:03 or 3 d 04:05."""
    if math.isnan(seconds):
        return "–"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Shows how many of how many are over while something is awaited; nothing where there is no terminal."""
    terminal = rich.console.Console(stderr=True)
    with Progress(*Progress.get_default_columns(), console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
