"""Three tasks of one's own: a point on a line that has to come to its goal."""

import gymnasium
import numpy as np


class Reach(gymnasium.Env):
    """A point on a line."""

    observation_space = gymnasium.spaces.Box(-2, 2, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, step, render_mode=None):
        self.step_size, self.render_mode = step, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.goal = 0.0, self.np_random.uniform(-1, 1)
        return self.observation(), {}

    def step(self, action):
        self.place = float(np.clip(self.place + self.step_size * (action - 1), -2, 2))
        distance = abs(self.place - self.goal)
        return self.observation(), -distance, distance < 0.1, False, {"success": distance < 0.1}

    def render(self):  # for `evaluate --video`
        picture = np.full((64, 256, 3), 255, np.uint8)
        for place, colour in ((self.goal, (0, 158, 115)), (self.place, (0, 114, 178))):
            column = int(64 * (place + 2))
            picture[:, max(0, column - 2) : column + 3] = colour
        return picture

    def observation(self):
        return np.array([self.place, self.goal], np.float32)


for name, step in (("Slow", 0.1), ("Fast", 0.2), ("Mirrored", -0.1)):
    gymnasium.register(f"{name}-v0", Reach, max_episode_steps=40, kwargs={"step": step})
