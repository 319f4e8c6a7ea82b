"""`compare-alone`: which tasks lose by being learned together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from mtrl.cli.arguments import parse_with_experiment
from mtrl.cli.shared import DEFAULT_CONFIG, check_packages, find_config, interrupted, parse_whole_number
from mtrl.config import load_config
from mtrl.errors import TrialsInterruptedError


@dataclass(frozen=True)
class CompareAloneOptions:
    """Options of `compare-alone`."""

    config: Annotated[str | None, Positional, arg(metavar="[CONFIG]", help_behavior_hint=f"(default: {DEFAULT_CONFIG})")] = None
    """The experiment: a YAML file, or the name of one in configs/."""
    seeds: Annotated[str, arg(metavar="N")] = "3"
    """Runs of all tasks together, and of each task alone."""
    full_batches: bool = False
    """Give a task alone all slots of the experiment instead of its part, and so fewer and larger updates."""
    run_dir: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: runs/NAME-alone)")] = None
    """The folder of the runs; the same command goes on with what is there."""


def compare_alone(arguments: list[str], program: str) -> int:
    """Compare tasks learned together with each task learned alone."""
    options, config = parse_with_experiment(
        CompareAloneOptions(),
        arguments,
        program,
        "Train all tasks of an experiment together and each task alone with its equal part of the frames, and show which tasks lose by it, "
        "and when. The same command goes on after an interruption.",
        lambda options: load_config(find_config(options.config or DEFAULT_CONFIG)),
    )
    seeds = parse_whole_number("--seeds", options.seeds, 1)
    check_packages()
    from mtrl.benchmark.alone import compare_alone as compare_all
    from mtrl.cli.tables import print_alone
    from mtrl.dashboard.alone import PAGE

    folder = options.run_dir or Path("runs") / f"{config.name}-alone"
    try:
        found = compare_all(config, seeds, folder, full_batches=options.full_batches)
    except TrialsInterruptedError as error:
        return interrupted(error, program, arguments)
    print_alone(found)
    print(f"page: {folder / PAGE}")
    return 0
