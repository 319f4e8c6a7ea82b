"""The environment of `gridmaze/…`: MiniGrid with a layout of blocks. Needs the minigrid package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.core.world_object import Goal, Wall
from minigrid.minigrid_env import MiniGridEnv


class GridMazeEnv(MiniGridEnv):
    """A walk to the goal. The agent turns left, turns right or walks; it sees 7 x 7 cells before it, also behind blocks.

    Args:
        size: cells on a side, without the wall around them (S).
        layout_of: draws the layout of an episode that no level was chosen for.
        max_steps: the longest episode.
        render_mode: Gymnasium's.
    """

    def __init__(self, size: int, layout_of: Callable[[np.random.Generator], np.ndarray], max_steps: int, render_mode: str | None = None):
        self._layout_of = layout_of
        self._layout: Any = ()
        super().__init__(
            mission_space=MissionSpace(lambda: "get to the green goal square"),
            grid_size=size + 2,
            max_steps=max_steps,
            see_through_walls=True,
            render_mode=render_mode,
        )
        self.action_space: gymnasium.Space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins in the layout of the level in the options, or in a random one. The agent looks in a random direction."""
        level = (options or {}).get("level")
        self._layout = level.parameters if level is not None else ()
        return super().reset(seed=seed, options=options)

    def _gen_grid(self, width: int, height: int) -> None:
        layout = self._layout if len(self._layout) else self._layout_of(self.np_random)
        self.grid = Grid(width, height)
        self.grid.wall_rect(0, 0, width, height)
        goal, agent, *blocks = ((1 + (int(cell) - 1) % (width - 2), 1 + (int(cell) - 1) // (width - 2)) for cell in layout if cell > 0)
        for block in blocks:
            self.grid.set(*block, Wall())
        self.put_obj(Goal(), *goal)
        self.agent_pos, self.agent_dir = agent, int(self.np_random.integers(4))
        self.mission = "get to the green goal square"
