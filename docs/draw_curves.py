"""Draws the success of every task over a run's frames: `python docs/draw_curves.py RUN docs/mt10.png`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from envs import make_suite
from mtrl.run_directory import RunDirectory

COLUMNS = 5


def draw(run: str, picture: str) -> None:
    """Writes `picture`: success rate of the latest training episodes, one panel for each task, and their mean score."""
    directory = RunDirectory.open(Path(run))
    rows, names = directory.read_metrics(), make_suite(directory.config.suite.name).names
    lines = -(-len(names) // COLUMNS)
    figure, panels = plt.subplots(lines, COLUMNS, figsize=(2.4 * COLUMNS, 2.0 * lines), sharex=True, sharey=True, squeeze=False)
    for panel, name in zip(panels.flat, names, strict=False):
        known = [row for row in rows if f"tasks/{name}/success_rate" in row]
        frames = [row["summary/frames"] / 1e6 for row in known]
        panel.plot(frames, [row[f"tasks/{name}/success_rate"] for row in known], color="#1f5fa8", linewidth=1.4)
        panel.set_title(name, fontsize=9)
        panel.set_ylim(-0.03, 1.03)
        panel.grid(alpha=0.3)
    for panel in list(panels.flat)[len(names) :]:
        panel.axis("off")
    for panel in panels[-1]:
        panel.set_xlabel("million frames, all tasks", fontsize=8)
    figure.suptitle(f"{directory.config.name}, seed {directory.config.seed}: success of the latest training episodes", fontsize=10)
    figure.tight_layout()
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    draw(*sys.argv[1:])
