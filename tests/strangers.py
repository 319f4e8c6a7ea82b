"""Three small tasks that have no space in common, as a module that `gym/strangers:Picks-v0,…` imports."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Text


class Stranger(gymnasium.Env[Any, Any]):
    """Pays for one right answer to what is shown, four times in an episode."""

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at = self.right = 0
        return self.show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        paid = self.reward(action)
        self.at += 1
        self.right += paid > 0.5
        ended = self.at == 4
        return self.show(), paid, ended, False, {"success": ended and self.right == 4}

    def show(self) -> Any:
        raise NotImplementedError

    def reward(self, action: Any) -> float:
        raise NotImplementedError


class Steers(Stranger):
    """An RGB image whose left or right half is bright: the first of two numbers has to have its sign."""

    observation_space = Box(0, 255, (40, 48, 3), np.uint8)
    action_space = Box(np.array([-2, 0], np.float32), np.array([2, np.inf], np.float32))

    def show(self) -> np.ndarray:
        self.side = int(self.np_random.integers(2))
        image = self.np_random.integers(0, 50, self.observation_space.shape).astype(np.uint8)
        image[:, 24 * self.side : 24 * (self.side + 1)] += 200
        return image

    def reward(self, action: np.ndarray) -> float:
        return float((action[0] > 0) == (self.side == 1))


class Dials(Stranger):
    """An image and a vector that name one of two choices each."""

    observation_space = Dict({"camera": Box(0, 1, (1, 12, 9), np.float64), "state": Box(-1, 1, (2,))})
    action_space = MultiDiscrete([2, 3], start=[5, -1])

    def show(self) -> dict[str, np.ndarray]:
        self.wanted = np.array([self.np_random.integers(2) + 5, self.np_random.integers(3) - 1])
        return {"camera": np.full((1, 12, 9), self.wanted[0] - 5.0), "state": np.array([self.wanted[1], 0], np.float32)}

    def reward(self, action: np.ndarray) -> float:
        return float((action == self.wanted).mean())


class Obeys(Stranger):
    """A mission says which button to press."""

    observation_space = Text(12, charset="abcdefghijklmnopqrstuvwxyz ")
    action_space = Discrete(3, start=1)

    def show(self) -> str:
        self.wanted = int(self.np_random.integers(3)) + 1
        return ("press one", "press two", "press three")[self.wanted - 1]

    def reward(self, action: int) -> float:
        return float(action == self.wanted)


for _task in (Steers, Dials, Obeys):
    gymnasium.register(f"{_task.__name__}-v0", _task)
