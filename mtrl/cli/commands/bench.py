"""`bench`: measurements."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from mtrl.cli.arguments import parse_with_experiment
from mtrl.cli.shared import DEFAULT_CONFIG, check_choice, check_packages, find_config, parse_fraction, parse_whole_number
from mtrl.config import load_config

BENCHMARKS = ("throughput", "peers", "learner", "curriculum", "transfer", "soak", "chaos", "scaling")


@dataclass(frozen=True)
class BenchOptions:
    """What `bench` reads."""

    what: Annotated[str, Positional, arg(metavar="|".join(BENCHMARKS), help_behavior_hint="")] = ""
    """Frames per second of training, of other libraries on the same tasks, or of the learner alone; which scheduler learns fastest; which
    contexts to train on; whether a long run holds ever more; what runners that are killed and environments that fail cost; what another
    runner or learner brings."""
    config: Annotated[str | None, Positional, arg(metavar="[CONFIG]", help_behavior_hint=f"(default: {DEFAULT_CONFIG})")] = None
    """The experiment: a YAML file, or the name of one in configs/."""
    schedulers: Annotated[str, arg(metavar="A,B,C")] = "uniform,t3s,learning_progress"
    """Of `curriculum`: whom to compare; the first is what the others are measured against."""
    seeds: Annotated[str, arg(metavar="N")] = "3"
    """Of `curriculum` and `transfer`: runs of each."""
    score: Annotated[str, arg(metavar="X")] = "0.8"
    """Of `curriculum`: the mean score whose frames are counted."""
    minutes: Annotated[str, arg(metavar="N")] = "60"
    """Of `soak` and `chaos`: how long."""
    runners: Annotated[str, arg(metavar="A,B,C")] = "1,2,4,8"
    """Of `scaling`: how many."""
    sleep: Annotated[str, arg(metavar="SECONDS")] = "0.001"
    """Of `scaling`: for which every environment waits in a step, so that one machine can stand for many."""


def bench(arguments: list[str], program: str) -> int:
    """Measure: speed, schedulers, endurance, growth."""
    options, config = parse_with_experiment(
        BenchOptions(), arguments, program, "Measure speed.", lambda options: load_config(find_config(options.config or DEFAULT_CONFIG))
    )
    check_choice("bench", options.what, BENCHMARKS)
    check_packages()
    if options.what == "curriculum":
        from mtrl.benchmark.curriculum import compare

        compare(
            config, options.schedulers.split(","), parse_whole_number("--seeds", options.seeds, 1), parse_fraction("--score", options.score)
        )
        return 0
    if options.what == "transfer":
        from mtrl.benchmark.transfer import compare as compare_sources

        compare_sources(config, parse_whole_number("--seeds", options.seeds, 1), Path("runs") / f"{config.name}-transfer")
        return 0
    if options.what == "soak":
        from mtrl.benchmark.soak import soak

        soak(config, parse_whole_number("--minutes", options.minutes, 1))
        return 0
    if options.what == "chaos":
        from mtrl.benchmark.chaos import chaos

        chaos(config, parse_whole_number("--minutes", options.minutes, 1))
        return 0
    if options.what == "scaling":
        from mtrl.benchmark.scaling import scaling

        scaling(
            config,
            [parse_whole_number("--runners", count, 1) for count in options.runners.split(",")],
            parse_fraction("--sleep", options.sleep),
        )
        return 0
    from mtrl.benchmark import speed

    {"throughput": speed.throughput, "peers": speed.peers, "learner": speed.learner}[options.what](config)
    return 0
