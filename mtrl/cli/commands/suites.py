"""`suites`: what there is to train on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, arg

from mtrl.cli.arguments import parse
from mtrl.cli.shared import check_packages


@dataclass(frozen=True)
class SuitesOptions:
    """Options of `suites`."""

    count: Annotated[FlagCreatePairsOff[bool], arg(help_behavior_hint="")] = False
    """Count the tasks of each family instead, also those that are in no named suite."""


def suites(arguments: list[str], program: str) -> int:
    """List the suites, their tasks and what steps them."""
    options = parse(SuitesOptions(), arguments, program, "List the suites, their tasks, what steps them, and their spaces.")
    check_packages()
    from mtrl.cli.suite_tables import print_counts, print_suites

    print_counts() if options.count else print_suites()
    return 0
