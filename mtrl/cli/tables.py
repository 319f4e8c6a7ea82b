"""Tables on the terminal: the results of an evaluation, a sweep, a search or a comparison, and a curriculum's decisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rich.console
import rich.measure
from rich.table import Table
from rich.text import Text

from mtrl.curriculum.decisions import figures_of_tasks
from mtrl.evaluation.jobs import EPISODE_STEPS
from mtrl.evaluation.protocols import GENERIC
from mtrl.evaluation.results import EvaluationResults
from mtrl.evaluation.statistics import aggregate, interquartile_mean, mean, mean_interval
from mtrl.storage.search_record import TrialRecord
from mtrl.training.explain import Explanation

if TYPE_CHECKING:  # imports Ray
    from mtrl.benchmark.alone import TaskComparison

WIDEST = 1000  # characters of a line of a table


def wide_console(table: Table) -> rich.console.Console:
    """A console that is wide enough for a table: on a narrow terminal its lines go on below, and no figure is cut."""
    terminal = rich.console.Console()
    terminal.width = max(terminal.width, rich.measure.Measurement.get(terminal, terminal.options.update(max_width=WIDEST), table).maximum)
    return terminal


def print_results(results: EvaluationResults, directory: Path) -> None:
    """An evaluation's figures with their 95 % intervals, and where the file is."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("task", no_wrap=True)
    with_return = results.protocol == GENERIC.name  # nobody has published what a good return is
    for title in ("score", "success", *(["return"] if with_return else []), "episodes", "length"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, row in results.tasks.items():
        returns = [f"{row.return_mean:.4g}"] if with_return else []
        named = f"{name} (unseen)" if row.unseen else name
        table.add_row(
            named,
            row.score.text(),
            row.success_rate.text(),
            *returns,
            str(row.n),
            f"{row.length_mean:.0f}",
        )
    terminal = wide_console(table)
    terminal.print(table)
    for name, row in results.tasks.items():
        if row.endless:
            cut = f"{row.endless} of {row.n} episodes of {name} had not ended after {EPISODE_STEPS:,} steps"
            terminal.print(Text(f"\n{cut}; they count as far as they came"), soft_wrap=True)
    protocol = results.protocol + "".join(f", but {name} {value}" for name, value in results.changed.items())
    mean = results.score_mean.text()
    if results.unseen_score_mean is not None:
        trained = "" if all(row.unseen for row in results.tasks.values()) else f", {mean} on those that it was trained on"
        mean = f"{results.unseen_score_mean.text()} on tasks that the policy was not trained on{trained},"
    terminal.print(Text(f"\nmean score {mean} after {results.step:,} frames, protocol {protocol}"))
    where = f"results: {directory / results.file}" if results.file else f"the results are not saved: {directory} cannot be written to"
    terminal.print(Text(where), soft_wrap=True)


def print_sweep(names: list[str], results: list[EvaluationResults]) -> None:
    """Evaluations of one experiment under several seeds: each task's mean over seeds, and all of them together, with 95 % intervals."""
    tasks = list(results[0].tasks)
    scores = np.array([[result.tasks[task].score.value for task in tasks] for result in results])  # [runs, tasks]
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("score", no_wrap=True)
    for name in ("mean over seeds", *names):
        table.add_column(name, justify="right", no_wrap=True)
    rng = np.random.default_rng(0)
    for task, own in zip(tasks, scores.T, strict=True):
        table.add_row(task, mean_interval(own).text(), *_numbers(own))
    for title, statistic in (("mean", mean), ("IQM", interquartile_mean)):
        table.add_row(title, aggregate(scores, statistic, rng).text(), *_numbers(statistic(scores)))
    terminal = wide_console(table)
    terminal.print(table)
    changed = "".join(f", but {name} {value}" for name, value in results[0].changed.items())
    frames = ", ".join(f"{result.step:,}" for result in results)
    terminal.print(Text(f"\nprotocol {results[0].protocol}{changed}; intervals from a bootstrap over {len(names)} seeds; frames {frames}"))


def print_search(trials: Sequence[TrialRecord], most: int) -> None:
    """The best trials of a search with their settings, and how all of them ended."""
    fields = list(trials[0].values) if trials else []
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("trial", no_wrap=True)
    for title in ("score", "frames", "seconds", *(field.rpartition(".")[2] for field in fields)):
        table.add_column(title, justify="right")
    for trial in [trial for trial in trials if trial.best is not None][:most]:
        frames, seconds, _ = trial.curve[-1]
        values = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in trial.values.values()]
        table.add_row(trial.name, f"{trial.best:.3f}", f"{frames:,.0f}", f"{seconds:.0f}", *values)
    terminal = wide_console(table)
    terminal.print(table)
    states = Counter(trial.state for trial in trials)
    spent = [sum(trial.curve[-1][unit] for trial in trials if trial.curve) for unit in (0, 1)]
    ended = ", ".join(f"{count} {state}" for state, count in states.items())
    terminal.print(Text(f"\n{len(trials)} trials: {ended}; {spent[0]:,.0f} frames and {spent[1]:,.0f} s in all"))


def _numbers(values: np.ndarray) -> list[str]:
    return [f"{value:.2f}" for value in values]


def print_explanation(replayed: Explanation, task: str | None) -> None:
    """Why tasks got their shares: all tasks in one decision, or one task over the run."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("frames" if task else "task", no_wrap=True)
    for title in ("episodes", *figures_of_tasks(replayed.shown[-1])):
        table.add_column(title, justify="right", no_wrap=True)
    rows = [(step, index) for step in replayed.shown for index, name in enumerate(replayed.names) if task in (None, name)]
    for step, index in rows:
        first = f"{step.decision.frames:,}" if task else replayed.names[index]
        boost = " boosted" if step.forgotten[index] else ""
        numbers = ["–" if np.isnan(values[index]) else f"{values[index]:.3f}" for values in figures_of_tasks(step).values()]
        table.add_row(first, f"{int(step.decision.evidence.episodes[index]):,}", *numbers[:-1], numbers[-1] + boost)
    terminal = wide_console(table)
    terminal.print(table)
    if replayed.shown[-1].levels:
        levels = _levels_table(replayed, task)
        wide_console(levels).print(levels)
    last = replayed.shown[-1].decision
    terminal.print(
        Text(
            f"\nafter {last.frames:,} frames, update {last.version}; each task keeps a share of "
            f"{replayed.floor / len(replayed.names):.3f} at least"
        )
    )
    if not replayed.from_start:
        since = "observations and weights are only those since then, and nothing can be checked"
        terminal.print(Text(f"the log begins at a change of tasks or curriculum: {since}"))
    elif replayed.differing is None:
        terminal.print(Text(f"{replayed.decisions:,} decisions made again, all as they were logged"))
    else:
        where = replayed.differing.decision
        terminal.print(
            Text(
                f"decision at {where.frames:,} frames comes out otherwise than it was logged: "
                "by another version of the scheduler, or with other options"
            )
        )


def _levels_table(replayed: Explanation, task: str | None) -> Table:
    """What the newest decision shown knew of each task's levels, and the most probable levels with their scores."""
    table = Table(box=None, padding=(0, 2, 0, 0), title="\nlevels", title_justify="left", title_style="")
    table.add_column("task", no_wrap=True)
    for title in ("episodes", "rated", "replayed", "effective"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("most probable: level, probability, score", no_wrap=True)
    for name, summary in zip(replayed.names, replayed.shown[-1].levels, strict=True):
        if task in (None, name):
            scores = ["–" if np.isnan(score) else f"{score:.3g}" for score in summary.scores]
            top = list(zip(summary.numbers, summary.probabilities, scores, strict=True))[:3]
            shown = "; ".join(f"{number}, {probability:.3f}, {score}" for number, probability, score in top)
            figures = (f"{summary.episodes:,}", f"{summary.rated:,}", f"{summary.replayed:.3f}", f"{summary.effective:.1f}")
            table.add_row(name, *figures, shown)
    return table


def print_alone(tasks: Sequence[TaskComparison]) -> None:
    """Tasks learned together and alone, the one that loses most first."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("task", no_wrap=True)
    for title in ("together", "alone", "difference", "behind since", "opposed gradients", "entropy together", "alone (nats)"):
        table.add_column(title, justify="right", no_wrap=True)
    for task in tasks:
        since = "–" if task.behind_since is None else f"{task.behind_since:,.0f} frames"
        rest = ["–" if np.isnan(value) else f"{value:.2f}" for value in (task.conflict, task.entropy_together, task.entropy_alone)]
        table.add_row(task.name, *(figure.text(3) for figure in (task.together, task.alone, task.difference)), since, *rest)
    wide_console(table).print(table)
