"""The status block of a running training."""

from __future__ import annotations

import math
from typing import NamedTuple

import rich.box
import rich.console
from rich.console import ConsoleOptions, Group, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mtrl.cli.formatting import amount, duration, number, shorten
from mtrl.cli.run_view import RunView, TaskFigures

GAP = 3  # cells between two columns of tasks
NARROWEST = 24  # cells of a task: a short name, a short bar, the score


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
