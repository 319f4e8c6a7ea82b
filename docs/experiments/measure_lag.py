"""Learning with old weights: `python docs/experiments/measure_lag.py CONFIG FRAMES [SEEDS [LAGS [OPTION=VALUE…]]]`.

For each lag in `LAGS` (such as 0,1,3,10) and each seed, trains in one process for FRAMES frames, with environments that act with the
weights of so many updates ago, whatever the speed of the machine. All lags of a seed run one after the other, so that what drifts falls on
all of them. Prints the mean score over the last tenth of each training, and for each lag the mean over seeds and its ratio to the first.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from envs import TaskSuite, make_suite
from envs.vector import Arrays
from mtrl.config import ExperimentConfig, load_config, override, read_scalar
from mtrl.curriculum.levels import LevelPlan
from mtrl.rollouts.source import InProcessSource
from mtrl.training.trainer import Trainer

CONFIGS = Path(__file__).parents[2] / "configs"


class LaggingSource(InProcessSource):
    """Acts with the weights of `lag` updates ago."""

    def __init__(self, config: ExperimentConfig, suite: TaskSuite, lag: int):
        super().__init__(config, suite)
        self._published: deque[tuple[int, Arrays]] = deque(maxlen=lag + 1)

    def publish(self, version: int, weights: Arrays, shares: np.ndarray, levels: Sequence[LevelPlan] | None = None) -> None:
        """Keeps the weights until they are old enough."""
        if not self._published or self._published[-1][0] != version:
            self._published.append((version, weights))
        super().publish(*self._published[0], shares, levels)


def score_after(config: ExperimentConfig, lag: int) -> float:
    """The mean of the tasks' scores over the last tenth of the training."""
    suite = make_suite(config.suite.name)
    trainer = Trainer(config, suite, LaggingSource(config, suite, lag))
    scores = []
    while trainer.frames < config.total_frames:
        trainer.step()
        if trainer.frames >= 0.9 * config.total_frames and trainer.mean_score is not None:
            scores.append(trainer.mean_score)
    trainer.close()
    return float(np.mean(scores))


def main(name: str, frames: str, seeds: str = "5", lags: str = "0,1,3,10", *options: str) -> None:
    """Prints the scores."""
    changes = {"env_runners.num_env_runners": 0, "total_frames": int(float(frames))}
    changes |= {option.partition("=")[0]: read_scalar(option.partition("=")[2]) for option in options}
    base = override(load_config(CONFIGS / f"{name}.yaml"), changes)
    found: dict[int, list[float]] = {int(lag): [] for lag in lags.split(",")}
    for seed in range(int(seeds)):
        for lag, scores in found.items():
            scores.append(score_after(override(base, {"seed": seed}), lag))
            print(f"{name} seed {seed} lag {lag}: score {scores[-1]:.3f}", flush=True)
    first = np.mean(next(iter(found.values())))
    for lag, scores in found.items():
        mean = np.mean(scores)
        print(f"lag {lag}: mean {mean:.3f} ({min(scores):.3f} to {max(scores):.3f}), {mean / first:.2f} of the first")


if __name__ == "__main__":
    main(*sys.argv[1:])
