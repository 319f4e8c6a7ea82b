"""`bench`: measurements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from mtrl.cli.arguments import parse_with_experiment
from mtrl.cli.shared import DEFAULT_CONFIG, check_choice, check_packages, find_config, interrupted, parse_fraction, parse_whole_number
from mtrl.config import ExperimentConfig, load_config
from mtrl.errors import TrialsInterruptedError

MINUTES = {"throughput": 3, "learner": 1, "gpu": 4, "gate": 5}  # of measurements whose length no option changes
GATE_CONFIG = "minigrid_mt7_fast"
GPU_CONFIGS = ("minigrid_mt7_fast", "metaworld_mt10")


@dataclass(frozen=True)
class BenchOptions:
    """Options of `bench`."""

    what: Annotated[str, Positional, arg(metavar="NAME", help_behavior_hint="")] = ""
    """The measurement, one of the list above."""
    config: Annotated[str | None, Positional, arg(metavar="[CONFIG]", help_behavior_hint=f"(default: {DEFAULT_CONFIG})")] = None
    """The experiment: a YAML file, or the name of one in configs/. For `gate`: the commit to compare this tree with, by default HEAD."""
    schedulers: Annotated[str, arg(metavar="A,B,C")] = "uniform,t3s,learning_progress"
    """For `curriculum`: the schedulers to compare; the first one is the baseline. Options follow a name: `camrl:switch=false`,
    `fixed:weights={a: 2}`."""
    halving: bool = False
    """For `curriculum`: after 2, 4, … seeds go on with the better half of the schedulers, and the baseline."""
    episodes: Annotated[str | None, arg(metavar="N", help_behavior_hint="(default: the suite's protocol)")] = None
    """For `curriculum`: episodes of each task in the evaluation of each run."""
    against: Annotated[str, arg(metavar="A,B,C")] = "rllib"
    """For `peers`: the other trainers, of rllib, sample_factory and pufferlib. The last two are installed in virtual environments of their
    own, in the user's cache, and train on suites of MiniGrid alone."""
    run_dir: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: runs/NAME-schedulers, -transfer)")] = None
    """For `curriculum` and `transfer`: the folder of the runs; the same command goes on with what is there."""
    seeds: Annotated[str, arg(metavar="N")] = "3"
    """For `curriculum` and `transfer`: runs of each."""
    score: Annotated[str, arg(metavar="X")] = "0.8"
    """For `curriculum`: count the frames until the mean score of training over tasks is X."""
    minutes: Annotated[str, arg(metavar="N")] = "60"
    """For `soak` and `chaos`: length of each run."""
    runners: Annotated[str, arg(metavar="A,B,C")] = "1,2,4,8"
    """For `scaling`: the numbers of runners."""
    sleep: Annotated[str, arg(metavar="SECONDS")] = "0.001"
    """For `scaling`: the time that every environment waits in a step, so that one machine can stand for many."""


def bench(arguments: list[str], program: str) -> int:
    """Measure: speed, schedulers, endurance, growth."""
    width = max(map(len, BENCHMARKS))
    listed = "\n".join(f"  {name:{width}}  {(function.__doc__ or '').rstrip('.')}" for name, function in BENCHMARKS.items())
    options, config = parse_with_experiment(
        BenchOptions(),
        arguments,
        program,
        f"Measure one thing and print it:\n\n{listed}",
        lambda options: load_config(find_config(GATE_CONFIG if options.what == "gate" else options.config or DEFAULT_CONFIG)),
    )
    check_choice("bench", options.what, tuple(BENCHMARKS))
    check_packages()
    print(f"{options.what}: {duration_of(options, config)}", flush=True)
    try:
        passed = BENCHMARKS[options.what](config, options)
    except TrialsInterruptedError as error:
        return interrupted(error, program, arguments)
    return 1 if passed is False else 0


def duration_of(options: BenchOptions, config: ExperimentConfig) -> str:
    """How long a measurement takes, as far as that is known before.

    Raises:
        UserError: an option that it depends on is no number.
    """
    if options.what in ("soak", "chaos"):
        minutes = parse_whole_number("--minutes", options.minutes, 1)
        return f"about {minutes + 1 if options.what == 'soak' else 2 * minutes + 2} minutes"
    if options.what == "peers":
        return f"about {2 + 3 * len(_peers_of(options))} minutes"
    if options.what == "scaling":
        return f"about {len(options.runners.split(',')) + 3} minutes"
    if options.what in ("curriculum", "transfer"):
        from mtrl.benchmark.curriculum import split_schedulers

        seeds = parse_whole_number("--seeds", options.seeds, 1)
        each = f"{len(split_schedulers(options.schedulers))} x {seeds}" if options.what == "curriculum" else f"{seeds} for each context:"
        return f"{each} training runs of at most {config.total_frames:,} frames"
    return f"about {MINUTES[options.what]} minute{'s' * (MINUTES[options.what] > 1)}"


def _peers_of(options: BenchOptions) -> list[str]:
    """The trainers to compare with.

    Raises:
        UserError: one is not known.
    """
    from mtrl.benchmark.peers import TRAINERS

    names = [name.strip() for name in options.against.split(",") if name.strip()]
    for name in names or [""]:
        check_choice("--against", name, TRAINERS)
    return names


def _throughput(config: ExperimentConfig, options: BenchOptions) -> None:
    """Frames per second of the whole system and of its parts; about 3 minutes."""
    from mtrl.benchmark.speed import throughput

    throughput(config)


def _peers(config: ExperimentConfig, options: BenchOptions) -> None:
    """Frames per second of this system and of other trainers in turns; about 2 minutes for this system and 3 for each of them."""
    from mtrl.benchmark.peers import compare_with_peers

    compare_with_peers(config, _peers_of(options))


def _learner(config: ExperimentConfig, options: BenchOptions) -> None:
    """Time of the learner for a frame, under every balancing and combiner; about 1 minute."""
    from mtrl.benchmark.speed import learner

    learner(config)


def _gpu(config: ExperimentConfig, options: BenchOptions) -> None:
    """What a GPU does for training, on MT7 and MT10 or CONFIG; about 4 minutes."""
    from mtrl.benchmark.gpu import gpu

    gpu([find_config(name) for name in ([options.config] if options.config else GPU_CONFIGS)])


def _gate(config: ExperimentConfig, options: BenchOptions) -> bool:
    """Whether this tree is more than 3 % slower than a commit: exit code 1; about 5 minutes."""
    from mtrl.benchmark.gate import gate

    return gate(config, options.config or "HEAD")


def _curriculum(config: ExperimentConfig, options: BenchOptions) -> None:
    """Scores, worst task and frames under each scheduler; schedulers x seeds training runs, kept in runs/."""
    from mtrl.benchmark.curriculum import compare, split_schedulers

    seeds, score = parse_whole_number("--seeds", options.seeds, 1), parse_fraction("--score", options.score)
    episodes = None if options.episodes is None else parse_whole_number("--episodes", options.episodes, 1)
    folder = options.run_dir or Path("runs") / f"{config.name}-schedulers"
    compare(config, split_schedulers(options.schedulers), seeds, folder, score=score, halving=options.halving, episodes=episodes)


def _transfer(config: ExperimentConfig, options: BenchOptions) -> None:
    """Worth of each way to choose the contexts to train on; contexts x seeds training runs, kept in runs/."""
    from mtrl.benchmark.transfer import compare

    compare(config, parse_whole_number("--seeds", options.seeds, 1), options.run_dir or Path("runs") / f"{config.name}-transfer")


def _soak(config: ExperimentConfig, options: BenchOptions) -> None:
    """Growth of memory, open files and threads in a long run; --minutes."""
    from mtrl.benchmark.soak import soak

    soak(config, parse_whole_number("--minutes", options.minutes, 1))


def _chaos(config: ExperimentConfig, options: BenchOptions) -> None:
    """Speed and score lost by killed runners, failing environments and a lost node; twice --minutes."""
    from mtrl.benchmark.chaos import chaos

    chaos(config, parse_whole_number("--minutes", options.minutes, 1))


def _scaling(config: ExperimentConfig, options: BenchOptions) -> None:
    """Frames per second gained by another runner or learner; about a minute for each number of --runners."""
    from mtrl.benchmark.scaling import scaling

    runners = [parse_whole_number("--runners", count, 1) for count in options.runners.split(",")]
    scaling(config, runners, parse_fraction("--sleep", options.sleep))


BENCHMARKS: dict[str, Callable[[ExperimentConfig, BenchOptions], bool | None]] = {
    "throughput": _throughput,
    "peers": _peers,
    "learner": _learner,
    "gpu": _gpu,
    "gate": _gate,
    "curriculum": _curriculum,
    "transfer": _transfer,
    "soak": _soak,
    "chaos": _chaos,
    "scaling": _scaling,
}
