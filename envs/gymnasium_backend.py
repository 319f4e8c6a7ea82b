"""Any Gymnasium environment behind the vector protocol, one after the other in this process: the reference for other backends."""

from __future__ import annotations

import gymnasium
import numpy as np

from envs.task import SeedSequences, TaskSuite
from envs.vector import Arrays


class GymnasiumBackend:
    """Steps environments in a plain loop."""

    def __init__(self, suite: TaskSuite, seeds: SeedSequences):
        self._suite = suite
        self._seeds = seeds
        self._envs: list[list[_Env]] = [[] for _ in suite.tasks]

    def grow(self, task: int, count: int) -> Arrays:
        """Adds environments of a task and gives their first observations."""
        envs = self._envs[task]
        first = []
        for place in range(len(envs), len(envs) + count):
            env = _Env(self._suite.tasks[task].make_env())
            seed, number = self._seeds.of(self._suite.tasks[task].name, place), self._seeds.first_number + place
            observation, _ = env.env.reset(seed=seed, options={"number": number})
            envs.append(env)
            first.append(observation)
        return self._stack(first)

    def step(self, counts: np.ndarray, actions: np.ndarray) -> tuple[Arrays, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Steps the first `counts[task]` environments of each task, or resets those whose episode has ended."""
        active = [env for envs, count in zip(self._envs, counts.tolist(), strict=True) for env in envs[:count]]
        results = [env.step(action) for env, action in zip(active, actions, strict=True)]
        observations, rewards, terminated, truncated, success = zip(*results, strict=True)
        return (
            self._stack(observations),
            np.array(rewards, np.float32),
            np.array(terminated, bool),
            np.array(truncated, bool),
            np.array(success, bool),
        )

    def close(self) -> None:
        """Closes every environment."""
        for envs in self._envs:
            for env in envs:
                env.env.close()

    def _stack(self, observations: list[object] | tuple[object, ...]) -> Arrays:
        rows = [self._suite.adapt(observation) for observation in observations]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


class _Env:
    """One environment that resets itself in the step after an episode's end."""

    def __init__(self, env: gymnasium.Env):
        self.env = env
        self._ended = False

    def step(self, action: np.ndarray) -> tuple[object, float, bool, bool, bool]:
        """Observation, reward, terminated, truncated, success."""
        if self._ended:
            observation, _ = self.env.reset()  # without a seed: the environment goes on with its stream
            self._ended = False
            return observation, 0.0, False, False, False
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._ended = terminated or truncated
        return observation, float(reward), bool(terminated), bool(truncated), bool(info.get("success", False))
