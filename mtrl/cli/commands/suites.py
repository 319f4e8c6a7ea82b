"""`suites`: what there is to train on."""

from __future__ import annotations

from mtrl.cli.arguments import parse
from mtrl.cli.shared import NoArguments, check_packages


def suites(arguments: list[str], program: str) -> int:
    """List the suites, their tasks and what steps them."""
    parse(NoArguments(), arguments, program, "List the suites, their tasks, what steps them, and their spaces.")
    check_packages()
    from mtrl.cli.tables import print_suites

    print_suites()
    return 0
