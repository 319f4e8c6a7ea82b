"""What `check` found out about a suite, on the terminal."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import rich.console
from rich.table import Table
from rich.text import Text

from envs.inspection import Inspection
from mtrl.checking.suite import SuiteCheck
from mtrl.cli.findings import findings_table
from mtrl.cli.suite_tables import describe
from mtrl.config import ExperimentConfig
from mtrl.config.advice import follow, write_config


def print_check(check: SuiteCheck, config: ExperimentConfig, path: Path | None) -> None:
    """Prints the report, and writes the experiment with its advice.

    Args:
        check: the report.
        config: the experiment that was checked.
        path: where the experiment with the advice goes; nothing is written where the tasks cannot be trained on.

    Raises:
        UserError: the file cannot be written.
    """
    console = rich.console.Console()
    _print_spaces(console, check)
    if any(task.steps for task in check.tasks):
        console.print(_figures(check.tasks))
    console.print()
    console.print(findings_table(check.findings))
    console.print()
    if check.problems:
        console.print(Text(f"{check.name} cannot be trained on: {check.problems} problem{'s' if check.problems > 1 else ''} above."))
    else:
        console.print(Text(f"{check.name} can be trained on."))
    for each in check.advice:
        console.print(Text(f"  {each.option}: {each.reason}"), soft_wrap=True)
    if check.problems:
        if path is not None:
            console.print(Text(f"{path} is not written"))
        return
    if path is None:
        console.print(Text("check --write FILE writes the experiment with these values."))
        return
    write_config(follow(config, check.advice), path)
    console.print(Text(f"to train it: python launch.py train {path}"), soft_wrap=True)


def _print_spaces(console: rich.console.Console, check: SuiteCheck) -> None:
    """What each environment observes and does, and what of the policy reads and does it."""
    names: dict[tuple[str, str], list[str]] = {}
    for task in check.tasks:
        names.setdefault((task.observation_space, task.action_space), []).append(task.task)
    for (observations, actions), tasks in names.items():
        console.print(Text.assemble((", ".join(tasks), "bold"), f": observes {observations}; acts in {actions}"), soft_wrap=True)
    for reading in check.readings:
        seen = ", ".join(f"{name} {describe(space)} by {encoder}" for name, space, encoder in reading.arrays)
        acts = f"acts by {reading.parameters} parameters of {reading.distribution}"
        console.print(Text.assemble((", ".join(reading.tasks), "bold"), f": the policy reads {seen}; {acts}"), soft_wrap=True)
    if check.network is not None:
        network = check.network
        made = f"{network.encoder} with {network.features} features, {network.head} with {network.parameters} outputs for each task"
        console.print(Text(f"policy: {made}\n"), soft_wrap=True)


def _figures(tasks: list[Inspection]) -> Table:
    """A random policy in numbers."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("random policy", no_wrap=True)
    for title in ("episodes", "return", "length", "terminated", "success", "reward", "paid steps", "steps/s", "memory"):
        table.add_column(title, justify="right", no_wrap=True)
    for task in tasks:
        played, rewards = task.episodes, task.rewards
        returns = np.array([episode.episode_return for episode in played])
        table.add_row(
            task.task,
            str(len(played)) + (" + a part" if task.unfinished_steps else ""),
            f"{returns.mean():.4g} ± {returns.std():.2g}" if played else "–",
            f"{task.mean_length:.0f}" if played else "–",
            f"{np.mean([episode.terminated for episode in played]):.0%}" if played else "–",
            f"{np.mean([episode.success for episode in played]):.0%}" if played else "–",
            f"{rewards.least:.3g} to {rewards.most:.3g}" if rewards else "–",
            f"{rewards.share_nonzero:.1%}" if rewards else "–",
            f"{task.steps_per_second:,.0f}" if task.steps else "–",
            "–" if math.isnan(task.bytes_per_environment) else f"{task.bytes_per_environment / 2**20:.1f} MiB",
        )
    return table
