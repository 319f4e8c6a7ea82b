"""`train`: begin a run or go on with one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from mtrl.cli.arguments import parse_with_experiment
from mtrl.cli.shared import DEFAULT_CONFIG, check_packages, find_config
from mtrl.config import ExperimentConfig, load_config
from mtrl.errors import UserError
from mtrl.runs import announcement, begin, go_on, named_after_suite, prepare_ray
from mtrl.storage.layout import RunLayout

if TYPE_CHECKING:
    from mtrl.training.console import Console


@dataclass(frozen=True)
class TrainOptions:
    """Options of `train`."""

    config: Annotated[str | None, Positional, arg(metavar="[CONFIG]", help_behavior_hint=f"(default: {DEFAULT_CONFIG})")] = None
    """The experiment: a YAML file, or the name of one in configs/."""
    run_dir: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: runs/NAME-TIME)")] = None
    """The directory of the run."""
    resume: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Go on with this run from its newest checkpoint. Its own experiment is used; options below still change it."""
    auto_resume: Annotated[FlagCreatePairsOff[bool], arg(help_behavior_hint="")] = False
    """Go on with the run in --run-dir if there is one, else begin it: for jobs that a scheduler starts again."""
    allow_task_change: Annotated[FlagCreatePairsOff[bool], arg(help_behavior_hint="")] = False
    """Let --resume go on with another --suite.name: what is known of a task goes to the task of that name, new tasks begin anew."""
    init_experts: Annotated[Path | None, arg(metavar="RUN", help_behavior_hint="")] = None
    """Begin with the experts of that run's newest policy; --model.freeze-experts keeps them as they are."""
    plain: Annotated[FlagCreatePairsOff[bool], arg(help_behavior_hint="")] = False
    """Print a line for each report in a terminal, too, instead of a status block."""
    profile: Annotated[FlagCreatePairsOff[bool], arg(help_behavior_hint="")] = False
    """Begin with a few updates under torch's profiler: a table of where a frame's time goes, and a trace in the run's folder."""


def train(arguments: list[str], program: str) -> int:
    """Train one policy on all tasks of a suite."""
    description = "\n".join(
        [
            "Train one policy on all tasks of a suite. Every value of the experiment can be given as an option.",
            "",
            "Examples:",
            f"  {program} toy",
            f"  {program} minigrid_mt7 --total-frames 2e6 --num-env-runners 4 --learner.actor.learning-rate 3e-4",
            f"  {program} --resume runs/toy-20260101-120000 --total-frames 40_000",
            f"  {program} --help curriculum (the options with this word in their name or description)",
        ]
    )
    options, config = parse_with_experiment(TrainOptions(), arguments, program, description, _starting_experiment)
    check_packages()
    config = _named(config, options)
    from mtrl.storage.trackers import check_trackers

    check_trackers(config)
    print(announcement(config), flush=True)
    prepare_ray(config)
    if _takes_default(options) and not config.suite.name.startswith("minigrid/"):
        advice = f"{program.removesuffix(' train')} check {config.suite.name}"
        print(f"settings of {DEFAULT_CONFIG}, which are made for grid worlds; for others: {advice}", flush=True)
    from mtrl.cli.console import make_console  # with PyTorch, which takes seconds

    console = make_console(program.removesuffix(" train"), plain=options.plain)
    directory = _existing_run(options)
    if directory is None and (directory := _fetched_run(options, config, console)) is not None:
        # Its own experiment, which former resumptions may have changed, with the changes of this line.
        options, config = parse_with_experiment(TrainOptions(), arguments, program, description, _starting_experiment)
    if directory is None:
        return begin(config, options.run_dir, console, experts=options.init_experts, profiled=options.profile).code
    if options.profile:
        raise UserError("--profile is for the beginning of a run; leave it out to go on with one")
    return go_on(directory, config, console, repeated=options.auto_resume, allow_task_change=options.allow_task_change)


def _named(config: ExperimentConfig, options: TrainOptions) -> ExperimentConfig:
    """The experiment; of other tasks than those of the default configuration it does not keep that one's name."""
    return named_after_suite(config, load_config(find_config(DEFAULT_CONFIG))) if _takes_default(options) else config


def _takes_default(options: TrainOptions) -> bool:
    """Whether the line names neither an experiment nor a run."""
    return options.config is None and _existing_run(options) is None


def _starting_experiment(options: TrainOptions) -> ExperimentConfig:
    """The experiment that the options change: the run's own if it is resumed, else CONFIG."""
    if options.resume is not None and (options.config is not None or options.run_dir is not None):
        given = f"CONFIG ({options.config})" if options.config is not None else f"--run-dir {options.run_dir}"
        raise UserError(f"--resume {options.resume} goes on with that run's own experiment in its own directory; leave out {given}")
    if options.auto_resume and options.run_dir is None and options.resume is None:
        raise UserError("--auto-resume needs --run-dir, so that the same command finds its run again")
    directory = _existing_run(options)
    if directory is None:
        return load_config(find_config(options.config or DEFAULT_CONFIG))
    from mtrl.storage.run_directory import read_config

    return read_config(directory)


def _existing_run(options: TrainOptions) -> Path | None:
    """The directory of the run to go on with, if one is to be gone on with."""
    if options.resume is not None:
        from mtrl.storage.run_directory import RunDirectory

        return RunDirectory.open(options.resume).path
    if options.auto_resume and options.run_dir is not None and RunLayout(options.run_dir).config.is_file():
        return options.run_dir
    return None


def _fetched_run(options: TrainOptions, config: ExperimentConfig, console: Console) -> Path | None:
    """The directory of the run to go on with, if it is not here but where its checkpoints were copied to."""
    if not options.auto_resume or options.run_dir is None or config.checkpoints.copy_to is None:
        return None
    from mtrl.storage.mirror import fetch

    return options.run_dir if fetch(config.checkpoints.copy_to, options.run_dir, console.message) else None
