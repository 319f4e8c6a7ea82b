"""`evaluate`: a run's scores by its suite's protocol."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from mtrl.cli.arguments import parse
from mtrl.cli.shared import check_choice, check_packages, parse_whole_number
from mtrl.errors import UserError
from mtrl.machine import whole_cores

if TYPE_CHECKING:
    from mtrl.evaluation.results import EvaluationResults
    from mtrl.storage.run_directory import RunDirectory


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of `evaluate`."""

    run: Annotated[str | None, Positional, arg(metavar="RUN", help_behavior_hint="")] = None
    """The directory of a run."""
    checkpoint: Annotated[str, arg(metavar="latest|best|FRAMES")] = "latest"
    """Which of the run's policies."""
    episodes: Annotated[str | None, arg(metavar="N", help_behavior_hint="(default: the suite's protocol)")] = None
    """Episodes of each task."""
    backend: Annotated[str | None, arg(metavar="envpool|gymnasium", help_behavior_hint="(default: the suite's protocol)")] = None
    """The library that steps the environments."""
    actions: Annotated[str | None, arg(metavar="sampled|greedy", help_behavior_hint="(default: the suite's protocol)")] = None
    """Drawn from the policy, or always the most likely one."""
    tasks: Annotated[str, arg(metavar="A,B,C|SUITE", help_behavior_hint="(default: all)")] = ""
    """Which of the run's tasks, or a suite; a policy with task vectors plays tasks that it was not trained on."""
    seed: Annotated[str, arg(metavar="N")] = "0"
    """Seed of environments and actions; they never repeat those of the training."""
    workers: Annotated[str | None, arg(metavar="N", help_behavior_hint="(default: one for each core)")] = None
    """Processes that play; 1 plays in this one."""
    ray: Annotated[FlagCreatePairsOff[bool], arg(help_behavior_hint="")] = False
    """Play on Ray's cluster (RAY_ADDRESS), which has to see the run's directory, instead of this machine's processes."""
    video: Annotated[FlagCreatePairsOff[bool], arg(help_behavior_hint="")] = False
    """Film an episode of each task as well."""


def evaluate(arguments: list[str], program: str) -> int:
    """Score a run's policy by the suite's protocol."""
    options = parse(EvaluateOptions(), arguments, program, "Score a run's policy by the suite's protocol.")
    if options.actions == "likely":
        print("note: --actions likely is now called greedy", file=sys.stderr)
        options = dataclasses.replace(options, actions="greedy")
    if options.run is None:
        raise UserError(f"evaluate needs the directory of a run: {program} RUN")
    if options.episodes is not None:
        parse_whole_number("--episodes", options.episodes, 1)
    if options.backend is not None:
        check_choice("--backend", options.backend, ("envpool", "gymnasium"))
    if options.actions is not None:
        check_choice("--actions", options.actions, ("sampled", "greedy"))
    seed, workers = parse_whole_number("--seed", options.seed, 0), parse_whole_number("--workers", options.workers or str(whole_cores()), 1)
    check_packages()
    from mtrl.evaluation.video import choose_renderer

    choose_renderer()  # before the environments are imported
    from mtrl.cli.progress import counting
    from mtrl.cli.tables import print_results
    from mtrl.evaluation.jobs import in_processes
    from mtrl.evaluation.runner import evaluate_run
    from mtrl.storage.run_directory import RunDirectory

    directory = RunDirectory.open(Path(options.run))
    tasks = [name for name in map(str.strip, options.tasks.split(",")) if name] if "/" not in options.tasks else []
    players = in_processes(workers)
    if options.ray:
        from mtrl.distributed.evaluation import play_on_ray

        players = play_on_ray
    with counting("episodes") as progress, _interruptible(f"{program} {' '.join(arguments)}"):
        results = evaluate_run(
            directory,
            checkpoint=options.checkpoint,
            tasks=tuple(_whole_names(tasks, directory.config.suite.name)) if tasks else (),
            suite=options.tasks.strip() if "/" in options.tasks else "",
            episodes=int(options.episodes) if options.episodes else None,
            backend=options.backend,
            actions=options.actions,
            seed=seed,
            players=players,
            progress=progress,
        )
    print_results(results, directory.path)
    if options.video:
        _record(directory, results)
    return 0


def _whole_names(tasks: Sequence[str], suite: str) -> list[str]:
    """The tasks' names where some are given as the status block of a training shows them, without the words that all names share."""
    from envs import make_suite
    from mtrl.cli.formatting import short_names

    names = make_suite(suite).names
    whole = dict(zip(short_names(names), names, strict=True))
    return [task if task in names else whole.get(task, task) for task in tasks]


def _record(directory: RunDirectory, results: EvaluationResults) -> None:
    from mtrl.evaluation.video import record_policy

    folder = directory.layout.videos(results.step)
    files = record_policy(
        directory.policies / str(results.step),
        folder,
        tasks=tuple(results.tasks),
        suite_name=results.played_suite,
        seed=results.seed,
        sampled=results.sampled_actions,
        report=lambda problem: print(f"warning: {problem}", file=sys.stderr),
    )
    if files:
        print(f"videos: {folder} ({len(files)} of {len(results.tasks)} tasks)")


@contextmanager
def _interruptible(command: str) -> Iterator[None]:
    """Says after a signal that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"interrupted; what was played is kept, and the same command goes on from there: {command}", file=sys.stderr)
        raise
