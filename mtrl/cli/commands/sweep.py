"""`sweep`: one experiment under several seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from mtrl.cli.arguments import parse_with_experiment
from mtrl.cli.shared import DEFAULT_CONFIG, check_packages, find_config, interrupted, parse_whole_number
from mtrl.config import load_config
from mtrl.errors import TrialsInterruptedError
from mtrl.machine import whole_cores


@dataclass(frozen=True)
class SweepOptions:
    """Options of `sweep`."""

    config: Annotated[str | None, Positional, arg(metavar="[CONFIG]", help_behavior_hint=f"(default: {DEFAULT_CONFIG})")] = None
    """The experiment: a YAML file, or the name of one in configs/."""
    seeds: Annotated[str, arg(metavar="N")] = "5"
    """Number of seeds: 0 to N - 1."""
    run_dir: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: runs/NAME-sweep)")] = None
    """The folder of the runs, one subfolder for each; runs that exist are continued."""
    episodes: Annotated[str | None, arg(metavar="N", help_behavior_hint="(default: the suite's protocol)")] = None
    """Episodes of each task in the evaluation of each run."""


def sweep(arguments: list[str], program: str) -> int:
    """Train one experiment under several seeds and score them together."""
    options, config = parse_with_experiment(
        SweepOptions(),
        arguments,
        program,
        "Train one experiment under several seeds, evaluate every run and print one table. The same command goes on after an interruption.",
        lambda options: load_config(find_config(options.config or DEFAULT_CONFIG)),
    )
    seeds = range(parse_whole_number("--seeds", options.seeds, 1))
    episodes = None if options.episodes is None else parse_whole_number("--episodes", options.episodes, 1)
    check_packages()
    print(f"{config.name}: starting {len(seeds)} seeds on Ray", flush=True)
    from mtrl.cli.progress import counting
    from mtrl.cli.tables import print_sweep
    from mtrl.distributed.sweep import sweep as train_all
    from mtrl.evaluation.jobs import in_processes
    from mtrl.evaluation.runner import evaluate_run
    from mtrl.storage.run_directory import RunDirectory

    try:
        paths = train_all(config, seeds, options.run_dir or Path("runs") / f"{config.name}-sweep")
    except TrialsInterruptedError as error:
        return interrupted(error, program, arguments)
    results = []
    for path in paths:
        with counting(f"evaluating {path.name}: episodes") as progress:
            players = in_processes(whole_cores())
            results.append(evaluate_run(RunDirectory.open(path), episodes=episodes, players=players, progress=progress))
    print_sweep([path.name for path in paths], results)
    return 0
