"""`explain`: why tasks got their shares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from mtrl.cli.arguments import parse
from mtrl.cli.shared import check_packages, parse_whole_number
from mtrl.errors import UserError


@dataclass(frozen=True)
class ExplainOptions:
    """Options of `explain`."""

    run: Annotated[Path | None, Positional, arg(metavar="RUN", help_behavior_hint="")] = None
    """The directory of a run."""
    task: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: all, at one moment)")] = None
    """The one task to follow over the run."""
    at: Annotated[str | None, arg(metavar="FRAMES", help_behavior_hint="(default: the newest decision)")] = None
    """Up to which frame."""


def explain(arguments: list[str], program: str) -> int:
    """Show why each task got its share of frames."""
    options = parse(ExplainOptions(), arguments, program, "Make a run's decisions about shares again, and show what they came from.")
    if options.run is None:
        raise UserError(f"explain needs the directory of a run: {program} RUN")
    frames = None if options.at is None else parse_whole_number("--at", options.at.replace("_", ""), 0)
    check_packages()
    from envs import make_suite
    from mtrl.cli.tables import print_explanation
    from mtrl.storage.run_directory import RunDirectory
    from mtrl.training.explain import explain_run

    directory = RunDirectory.open(options.run)
    if options.task is not None:
        make_suite(directory.config.suite.name).index(options.task)  # says so if there is none of that name
    replayed = explain_run(directory, frames=frames, spread=options.task is not None)
    print_explanation(replayed, options.task)
    return 0 if replayed.differing is None else 1
