"""`report`: one page about runs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from mtrl.cli.arguments import parse
from mtrl.errors import UserError


@dataclass(frozen=True)
class ReportOptions:
    """Options of `report`."""

    runs: Annotated[tuple[Path, ...], Positional, arg(metavar="RUN...", help_behavior_hint="")] = ()
    """The directories of the runs to put side by side; a folder of runs, such as a sweep's, stands for all of them."""
    output: Annotated[Path, arg(aliases=("-o",), metavar="FILE")] = Path("report.html")
    """The HTML file to write."""
    bands: Literal["range", "interval"] = "range"
    """Bands of curves over several runs: from the lowest to the highest run, or the 95 percent interval of the mean."""


def report(arguments: list[str], program: str) -> int:
    """Write one HTML page about runs: scores, curves, shares, differences."""
    options = parse(ReportOptions(), arguments, program, "Write one self-contained HTML page about one run or several.")
    if not options.runs:
        raise UserError(f"report needs the directory of a run: {program} RUN...")
    from mtrl.dashboard.report import write_report

    for run in write_report(options.runs, options.output, options.bands):
        for problem in run.problems:
            print(f"warning: {run.path}: {problem}", file=sys.stderr)
    print(f"wrote {options.output}")
    return 0
