"""What PopArt is for: `python docs/experiments/probe_popart.py [FRAMES] [SEEDS] [TASK,TASK] [shared|separate]`.

Two tasks, each once with its rewards as they are and once a thousand times as large, in one policy; with PopArt and without. By default
actor and critic share their trunk. Prints the scores of each run's last episodes.
"""

from __future__ import annotations

import functools
import sys
from itertools import zip_longest
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import gymnasium
import minigrid  # noqa: F401, registers its environments

from mtrl.config import load_config, override
from mtrl.training.trainer import build_trainer

TASKS = ("DoorKey-5x5", "LavaGapS5") if len(sys.argv) < 4 else tuple(sys.argv[3].split(","))
TRUNKS = sys.argv[4] if len(sys.argv) > 4 else "shared"
SCALES = (1, 1000)


class Scaled(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Rewards times `scale`; an episode that is rewarded has succeeded."""

    def __init__(self, env: gymnasium.Env[Any, Any], scale: float):
        super().__init__(env)
        self.scale = scale

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step of the task itself."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, self.scale * float(reward), terminated, truncated, {**info, "success": float(reward) > 0}


def _make(task: str, scale: float, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    return Scaled(gymnasium.make(f"MiniGrid-{task}-v0", render_mode=render_mode), scale)


for task in TASKS:
    for scale in SCALES:
        gymnasium.register(f"{task}-x{scale}-v0", functools.partial(_make, task, scale))


def scores(popart: bool, frames: int, seed: int) -> dict[str, float]:
    """Trains all four in one process; the mean success of each one's last hundred episodes."""
    changes = {
        "suite.name": "gym/" + ",".join(f"{task}-x{scale}-v0" for task in TASKS for scale in SCALES),
        "env_runners.num_env_runners": 0,
        "env_runners.slots": 64,
        "model.trunks": TRUNKS,
        "model.popart": popart,
        "learner.popart_rate": 0.05,
        "learner.advantage_floor": 0.0,  # it is a size of rewards
        "total_frames": frames,
        "seed": seed,
    }
    trainer = build_trainer(override(load_config("configs/minigrid_mt3.yaml"), changes))
    try:
        while trainer.frames < frames:
            trainer.step()
        return {name: float(score) for name, score in zip(trainer.suite.names, trainer.statistics.scores, strict=True)}
    finally:
        trainer.close()


if __name__ == "__main__":
    frames, seeds = (int(given) if given else default for given, default in zip_longest(sys.argv[1:3], (200_000, 3)))
    for seed in range(seeds):
        for popart in (True, False):
            print(f"seed {seed}, {'PopArt' if popart else 'without'}:", scores(popart, frames, seed), flush=True)
