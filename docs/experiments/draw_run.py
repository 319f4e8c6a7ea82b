"""Draws a run's last status block: `python docs/experiments/draw_run.py RUN docs/training.svg`."""

import io
import sys
from pathlib import Path

import rich.console

from envs import make_suite
from mtrl.cli.run_view import RunView
from mtrl.cli.status import Status
from mtrl.storage.run_directory import RunDirectory


def draw(run: str, picture: str) -> None:
    """Writes `picture`, an SVG of the terminal as it was when the run last reported."""
    directory = RunDirectory.open(Path(run))
    view = RunView(directory.config, make_suite(directory.config.suite.name), Path("runs") / directory.path.name)
    rows = directory.read_metrics()
    view.update(rows[-1])
    view._started -= rows[-1]["time"] - rows[0]["time"]
    console = rich.console.Console(record=True, width=92, height=24, file=io.StringIO())
    console.print(Status(view))
    console.save_svg(picture, title=f"python launch.py train {directory.config.name}")


if __name__ == "__main__":
    draw(*sys.argv[1:])
