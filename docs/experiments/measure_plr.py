"""Whether replaying levels helps on levels that were not trained on: `python docs/experiments/measure_plr.py FRAMES FOLDER SEED [SEED …]`.

For every seed, trains on MiniGrid's MultiRoom with one to six rooms (`multiroom.py`) by minigrid_mt3's settings (`--experiment` takes those
of another one), on 4,000 levels for FRAMES, once with each sampler of `--samplers` (uniform,plr unless given), and evaluates the last
policy on levels from 4,000 on. Prints each run's scores, and for each sampler the mean difference to the first one, paired by seed, with a
interval by Student. Runs that are in FOLDER already are only evaluated, and evaluations that are there are read. `--suite`, `--levels` and
`--episodes` change what is trained and how it is evaluated; options of `launch.py train` follow after `--`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mtrl.evaluation.intervals import Estimate
from mtrl.evaluation.runner import evaluate_run
from mtrl.evaluation.statistics import mean_interval
from mtrl.storage.run_directory import RunDirectory

SUITE = "gym/docs.experiments.multiroom:MultiRoom-N1to6-v0?low=0&high=1"
SLOTS = 32  # for all tasks


def train(path: Path, experiment: str, suite: str, sampler: str, levels: int, frames: int, seed: int, more: list[str]) -> None:
    """Trains into `path`, or goes on with what is there."""
    settings = {
        "suite.name": suite,
        "curriculum.levels.sampler": sampler,
        "curriculum.levels.training-levels": levels,
        "env-runners.slots": SLOTS,
        "env-runners.num-env-runners": 0,
        "suite.env-workers": 0,
        "total-frames": frames,
        "seed": seed,
    }
    options = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "launch.py", "train", experiment, *options, *more, "--auto-resume", "--run-dir", str(path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def scores(path: Path, episodes: int) -> tuple[float, float]:
    """The mean scores on training levels, of the last training episodes, and on held-out levels."""
    directory = RunDirectory.open(path)
    trained = [row["summary/score_mean"] for row in directory.read_metrics() if "summary/score_mean" in row]
    return trained[-1] if trained else float("nan"), evaluate_run(directory, episodes=episodes).score_mean.value


def main() -> None:
    """Trains, evaluates and compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frames", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--samplers", default="uniform,plr")
    parser.add_argument("--experiment", default="minigrid_mt3")
    parser.add_argument("--suite", default=SUITE)
    parser.add_argument("--levels", type=int, default=4000)
    parser.add_argument("--episodes", type=int, default=200)
    given = sys.argv[1:]
    more = given[given.index("--") + 1 :] if "--" in given else []
    options = parser.parse_args(given[: len(given) - len(more) - ("--" in given)])
    samplers = options.samplers.split(",")
    held_out = np.empty((len(samplers), len(options.seeds)))
    for column, seed in enumerate(options.seeds):
        for row, sampler in enumerate(samplers):
            path = options.folder / f"{sampler}-{seed}"
            train(path, options.experiment, options.suite, sampler, options.levels, options.frames, seed, more)
            trained, held_out[row, column] = scores(path, options.episodes)
            print(f"{sampler}, seed {seed}: {trained:.3f} on training levels, {held_out[row, column]:.3f} on others", flush=True)
    for sampler, own in zip(samplers, held_out, strict=True):
        print(f"{sampler}: {own.mean():.3f} on levels that were not trained on, less {samplers[0]}'s {_text(own - held_out[0])}")


def _text(differences: np.ndarray) -> str:
    """A mean difference with Student's interval over seeds."""
    found: Estimate = mean_interval(differences)
    return found.text(3)


if __name__ == "__main__":
    main()
