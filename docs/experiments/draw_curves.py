"""Draws the score of every task over the frames of a run, or of several seeds.

`python docs/experiments/draw_curves.py RUN [RUN ...] docs/mt10.png`.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from envs import make_suite
from mtrl.storage.run_directory import RunDirectory

LONGEST_LINE = 5  # panels in a row


def draw(runs: list[str], picture: str) -> None:
    """Writes `picture`: scores of the latest training episodes, a line for each run, a panel for each task and one for their mean."""
    directories = [RunDirectory.open(Path(run)) for run in runs]
    config = directories[0].config
    metrics = {name: f"tasks/{name}/score" for name in make_suite(config.suite.name).names} | {"mean of all tasks": "summary/score_mean"}
    columns = min(LONGEST_LINE, -(-len(metrics) // (-(-len(metrics) // LONGEST_LINE))))
    lines = -(-len(metrics) // columns)
    figure, panels = plt.subplots(lines, columns, figsize=(2.6 * columns, 2.1 * lines + 0.3), sharex=True, sharey=True, squeeze=False)
    for panel, (title, metric) in zip(panels.flat, metrics.items(), strict=False):
        for directory in directories:
            rows = [row for row in directory.read_metrics() if metric in row]
            panel.plot([row["summary/frames"] / 1e6 for row in rows], [row[metric] for row in rows], linewidth=1.2, alpha=0.8)
        panel.set_title(title, fontsize=9)
        panel.set_ylim(-0.03, 1.03)
        panel.grid(alpha=0.3)
    for panel in list(panels.flat)[len(metrics) :]:
        panel.axis("off")
    for panel in panels[-1]:
        panel.set_xlabel("million frames, all tasks", fontsize=8)
    seeds = ", ".join(str(directory.config.seed) for directory in directories)
    figure.suptitle(f"{config.name}, seed {seeds}: score of the latest training episodes", fontsize=10)
    figure.tight_layout()
    figure.savefig(picture, dpi=100)


if __name__ == "__main__":
    *given, out = sys.argv[1:]
    draw(given, out)
