"""MiniGrid's tasks for programs of other trainers. Imports nothing of this project: it runs in the environments of those trainers."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

STEPS_OF_A_LINE = 64
LARGEST_NUMBER = 10.0  # of MiniGrid's observations


class FlatView(gymnasium.ObservationWrapper):
    """The view as a vector of floats in 0 … 1, and behind it the task as a one-hot vector."""

    def __init__(self, env: gymnasium.Env, task: int, num_tasks: int):
        super().__init__(env)
        self._task = np.eye(num_tasks, dtype=np.float32)[task]
        size = int(np.prod(env.observation_space["image"].shape))  # type: ignore[index]
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (size + num_tasks,), np.float32)

    def observation(self, observation: Any) -> np.ndarray:
        """The vector."""
        return np.concatenate([observation["image"].reshape(-1).astype(np.float32) / LARGEST_NUMBER, self._task])


class Counted(gymnasium.Wrapper):
    """Writes lines `[time, task, steps, return]` to a file that all environments share: after some steps, with null for the return, and at
    the end of each episode. `time` is that of the machine's monotonic clock.
    """

    def __init__(self, env: gymnasium.Env, task: int, path: str):
        super().__init__(env)
        self._task, self._path = task, path
        self._file: int | None = None
        self._steps, self._return = 0, 0.0

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """As the environment's."""
        self._return = 0.0
        return self.env.reset(**options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment's."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        self._return += float(reward)
        if terminated or truncated:
            self._write(self._return)
        elif self._steps == STEPS_OF_A_LINE:
            self._write(None)
        return observation, reward, terminated, truncated, info

    def _write(self, episode_return: float | None) -> None:
        if self._file is None:  # here, since trainers copy environments to other processes before their first step
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(self._file, (json.dumps([time.monotonic(), self._task, self._steps, episode_return]) + "\n").encode())
        self._steps = 0


def make_task(plan: str, number: int) -> gymnasium.Env:
    """The environment with that number; consecutive numbers have the tasks in turn.

    Args:
        plan: a JSON file with `env_ids`, those of the tasks, and `log`, the file of lines.
        number: of the environment, from 0.
    """
    import minigrid  # noqa: F401  (registers its environments)

    content = json.loads(Path(plan).read_text())
    env_ids = content["env_ids"]
    task = number % len(env_ids)
    env = gymnasium.make(env_ids[task], disable_env_checker=True)
    return Counted(FlatView(env, task, len(env_ids)), task, content["log"])
