"""The command line: `dispatch` finds the command, `commands` has one file for each."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code, see `mtrl.cli.dispatch.main`."""
    from mtrl.cli import dispatch  # not at the top: `doctor` imports this package in processes that need one check alone

    return dispatch.main(arguments)


def entry_point() -> None:
    """The command of the installed package."""
    from mtrl.cli import dispatch

    dispatch.entry_point()
