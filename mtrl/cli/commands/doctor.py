"""`doctor`: whether a run could start here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from mtrl.cli.arguments import parse_with_experiment
from mtrl.cli.shared import DEFAULT_CONFIG, find_config
from mtrl.config import load_config


@dataclass(frozen=True)
class DoctorOptions:
    """Options of `doctor`."""

    config: Annotated[str | None, Positional, arg(metavar="[CONFIG]", help_behavior_hint=f"(default: {DEFAULT_CONFIG})")] = None
    """The experiment that must be able to start."""
    cluster: Annotated[FlagCreatePairsOff[bool], arg(help_behavior_hint="")] = False
    """Look at the Ray cluster that RAY_ADDRESS names instead of this machine: what it has, and whether its nodes agree."""
    run_dir: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """The directory that the run is to have: whether it is free, can be written to and, with --cluster, is the same on all nodes."""

    write: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Write the experiment with values for this machine (runners, device, precision) as a YAML file for `train`."""


def doctor(arguments: list[str], program: str) -> int:
    """Check this machine, or a cluster: packages, cores, memory, GPU, and one step of every backend."""
    options, config = parse_with_experiment(
        DoctorOptions(),
        arguments,
        program,
        "Check this machine or a cluster, and say what will not work. Exit code 1 if the run cannot start.",
        lambda options: load_config(find_config(options.config or DEFAULT_CONFIG)),
    )
    from mtrl.cli.doctor import examine, examine_cluster

    return examine_cluster(config, options.run_dir) if options.cluster else examine(config, options.run_dir, options.write)
