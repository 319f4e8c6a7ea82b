"""`dashboard`: pages about a folder of runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from mtrl.cli.arguments import parse
from mtrl.errors import UserError


@dataclass(frozen=True)
class DashboardOptions:
    """Options of `dashboard`."""

    runs_dir: Annotated[Path | None, Positional, arg(metavar="[RUNS_DIR]", help_behavior_hint="(default: runs)")] = None
    """The folder that holds the runs."""
    port: Annotated[str, arg(metavar="N")] = "8050"
    """The port to listen on."""
    host: Annotated[str, arg(metavar="ADDRESS")] = "127.0.0.1"
    """The address to listen on; any address except this machine's own needs a token."""
    token: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="(default: made up when --host is not this machine alone)")] = None
    """The token that visitors must give."""


def dashboard(arguments: list[str], program: str) -> int:
    """Serve pages about a folder of runs, live while they train."""
    options = parse(DashboardOptions(), arguments, program, "Serve pages about a folder of runs, live while they train. Only reads.")
    root = options.runs_dir or Path("runs")
    if not root.is_dir():
        raise UserError(f"there is no folder {root}; name the one that holds the runs: {program} RUNS_DIR")
    if not (options.port.isdecimal() and 0 < int(options.port) < 65536):
        raise UserError(f"--port: must be a number from 1 to 65535, got {options.port!r}")
    from mtrl.dashboard.serve import serve

    serve(root, options.host, int(options.port), options.token)
    return 0
