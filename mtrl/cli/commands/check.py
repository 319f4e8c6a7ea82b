"""`check`: whether tasks can be trained on, before a long run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from mtrl.cli.arguments import parse_with_experiment
from mtrl.cli.shared import DEFAULT_CONFIG, check_packages, find_experiment, parse_whole_number
from mtrl.errors import UserError


@dataclass(frozen=True)
class CheckOptions:
    """Options of `check`."""

    suite: Annotated[str | None, Positional, arg(metavar="SUITE", help_behavior_hint="")] = None
    """A suite, such as gym/my_tasks:A-v0,B-v0, or an experiment: a YAML file, or the name of one in configs/."""
    seconds: Annotated[str, arg(metavar="N")] = "20"
    """About how long one task may take."""
    episodes: Annotated[str, arg(metavar="N")] = "20"
    """The most episodes of a random policy in one task."""
    write: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Write the experiment with the advised values as a YAML file for `train`."""


def check(arguments: list[str], program: str) -> int:
    """Check tasks before a long run: faults of environments, seeds, speed, memory; and which settings fit."""
    options, config = parse_with_experiment(
        CheckOptions(),
        arguments,
        program,
        "Play a random policy in every task, and say what is wrong and which settings fit. Exit code 1 if the tasks cannot be trained on.",
        lambda options: find_experiment(options.suite or DEFAULT_CONFIG),
    )
    if options.suite is None:
        raise UserError(f"check needs a suite: {program} gym/CartPole-v1")
    seconds, episodes = parse_whole_number("--seconds", options.seconds, 1), parse_whole_number("--episodes", options.episodes, 1)
    check_packages()
    from mtrl.checking.suite import check_suite
    from mtrl.cli.check import print_check
    from mtrl.cli.progress import counting

    with counting("tasks") as progress:
        found = check_suite(config, seconds=seconds, episodes=episodes, progress=progress)
    print_check(found, config, options.write)
    return 1 if found.problems else 0
