"""One of EnvPool's environments as a Gymnasium environment: for videos, and for evaluations that Gymnasium steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from envs.backends.envpool import make_pool, succeeded
from envs.envpool_package import module_of
from envs.errors import SuiteError
from envs.pools.catalogue import spec_of

MUJOCO = "envpool.mujoco."


class PoolEnv(gymnasium.Env[Any, Any]):
    """A pool of one environment.

    Its actions are those of the task's suite; its observations are EnvPool's, which the suite's `adapt` reads. EnvPool seeds an environment
    when it is made, so that `reset(seed=…)` makes it anew.

    Raises:
        SuiteError: EnvPool is not installed, or cannot make or draw the environment.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(self, envpool_id: str, options: Mapping[str, Any], render_mode: str | None = None):
        if render_mode is not None and str(module_of(envpool_id)).startswith(MUJOCO):
            raise SuiteError(f"{envpool_id} cannot be drawn: without a context of OpenGL, EnvPool's MuJoCo ends the process")
        self._id = envpool_id
        self._view = spec_of(envpool_id, options).view
        self._options = dict(options) | ({} if render_mode is None else {"render_mode": render_mode})
        self._pool: Any = None
        self.render_mode = render_mode
        self.observation_space = self._view.observation_space
        self.action_space = self._view.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode; with a seed, or for the first time, in a new environment. Where EnvPool counts levels, as in Procgen, the
        `level` in the options is the one that is played.
        """
        if seed is not None or self._pool is None:
            self.close()
            drawn = int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1)
            level = (options or {}).get("level")
            one = {"num_levels": 1, "start_level": level.number} if level is not None and "start_level" in self._options else {}
            self._pool = make_pool(self._id, [drawn if seed is None else seed], num_threads=1, **self._options | one)
        observation, _ = self._pool.reset()
        return _first(observation), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """A step; `info` has `success`."""
        actions = np.asarray(action)[None]
        if self._view.to_pool is not None:
            actions = self._view.to_pool(actions)
        elif actions.dtype.kind in "iu":
            actions = actions.astype(np.int32)
        observation, rewards, terminated, truncated, info = self._pool.step(actions)
        success = bool(succeeded(info, 1)[0])
        return _first(observation), float(rewards[0]), bool(terminated[0]), bool(truncated[0]), {"success": success}

    def render(self) -> Any:
        """The picture of the current state, [height, width, 3] uint8."""
        return np.asarray(self._pool.render())[0]

    def close(self) -> None:
        """Ends the environment."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None


def _first(observation: Any) -> Any:
    return {name: _first(part) for name, part in observation.items()} if isinstance(observation, dict) else np.asarray(observation)[0]
