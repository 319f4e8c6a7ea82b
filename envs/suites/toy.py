"""Tiny deterministic tasks in NumPy with known optimal values: for tests, a first run, and a debugger."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium
import numpy as np

from envs.errors import UnknownTaskError, did_you_mean
from envs.task import EvaluationProtocol, Task, TaskSuite

SIZE = 8
OBSERVATION_SPACE = gymnasium.spaces.Dict({"vector": gymnasium.spaces.Box(0.0, 1.0, (SIZE,), np.float32)})
ACTION_SPACE: gymnasium.Space = gymnasium.spaces.Discrete(3)
PROTOCOL = EvaluationProtocol("toy-v1", episodes=5, actions="sampled")


class Corridor(gymnasium.Env[dict[str, np.ndarray], int]):
    """Six cells in a row. Action 2 goes right, 0 left, 1 waits; the sixth cell ends the episode with reward 1, 30 steps cut it off.

    The best return is 1 after 5 steps, and the value of the first cell is γ⁴.
    """

    observation_space = OBSERVATION_SPACE
    action_space = ACTION_SPACE
    length, max_steps = 6, 30

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Starts in the first cell."""
        super().reset(seed=seed)
        self._cell = self._steps = 0
        return _one_hot(self._cell), {}

    def step(self, action: int) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Moves by one cell; the wall on the left stops the agent."""
        self._cell = max(0, self._cell + int(action) - 1)
        self._steps += 1
        arrived = self._cell == self.length - 1
        return _one_hot(self._cell), float(arrived), arrived, not arrived and self._steps >= self.max_steps, {"success": arrived}


class Constant(gymnasium.Env[dict[str, np.ndarray], int]):
    """Every action pays 1. Episodes are truncated after 10 steps and never terminate: the value of the only state is 1 / (1 - γ)."""

    observation_space = OBSERVATION_SPACE
    action_space = ACTION_SPACE
    max_steps = 10

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The only state."""
        super().reset(seed=seed)
        self._steps = 0
        return _one_hot(6), {}

    def step(self, action: int) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Nothing changes."""
        self._steps += 1
        truncated = self._steps >= self.max_steps
        return _one_hot(6), 1.0, False, truncated, {"success": truncated}


class Cue(gymnasium.Env[dict[str, np.ndarray], int]):
    """The observation shows which of the three actions pays 0.25; the cue goes 0, 2, 1, 0 and the fourth step ends the episode.

    The best return is 1, and the first state's value 0.25 (1 + γ + γ² + γ³).
    """

    observation_space = OBSERVATION_SPACE
    action_space = ACTION_SPACE
    cues = (0, 2, 1, 0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Shows the first cue."""
        super().reset(seed=seed)
        self._steps = self._hits = 0
        return _one_hot(self.cues[0]), {}

    def step(self, action: int) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Pays for the action of the cue that was shown, and shows the next cue."""
        hit = int(action) == self.cues[self._steps]
        self._hits += hit
        self._steps += 1
        over = self._steps == len(self.cues)
        shown = _one_hot(self.cues[self._steps] if not over else SIZE - 1)
        return shown, 0.25 * hit, over, False, {"success": over and self._hits == len(self.cues)}


class Ladder(gymnasium.Env[dict[str, np.ndarray], int]):
    """A sequence of answers to be given in order: the first wrong answer ends the episode, and only the last right one pays 1.

    Rung k asks for the first 4 k answers of a sequence that all rungs share. Random answers solve rung k with probability 81^-k; a policy
    that has mastered rung k - 1 and guesses the rest solves it with 1/81. So a policy that the tasks share can learn the rungs one by one.
    """

    answers_per_rung = 4
    answers = (0, 2, 1, 1, 0, 2, 2, 0, 1, 2, 0, 1, 2, 2, 1, 0, 0, 1, 2, 1)
    observation_space = gymnasium.spaces.Dict({"vector": gymnasium.spaces.Box(0.0, 1.0, (len(answers) + 1,), np.float32)})
    action_space = ACTION_SPACE

    def __init__(self, rung: int):
        self._goal = self.answers_per_rung * rung

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Asks for the first answer."""
        super().reset(seed=seed)
        self._given = 0
        return self._question(), {}

    def step(self, action: int) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Takes an answer."""
        right = int(action) == self.answers[self._given]
        self._given += 1
        arrived = right and self._given == self._goal
        return self._question(), float(arrived), arrived or not right, False, {"success": arrived}

    def _question(self) -> dict[str, np.ndarray]:
        return {"vector": np.eye(len(self.answers) + 1, dtype=np.float32)[self._given]}


class Pair(gymnasium.Env[dict[str, np.ndarray], int]):
    """Two steps, each with one right answer that pays 0.5: the first is that of a colour, the second that of a shape.

    The observation is the number of the step, so that only the task itself says what is right. A policy that knows each word's answer from
    some pairs solves pairs that it has never seen; random answers have a return of 1/3.
    """

    colours, shapes = ("red", "green", "blue"), ("ball", "box", "key")
    observation_space = OBSERVATION_SPACE
    action_space = ACTION_SPACE

    def __init__(self, colour: str, shape: str):
        self._answers = (self.colours.index(colour), self.shapes.index(shape))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Asks for the colour's answer."""
        super().reset(seed=seed)
        self._steps = self._hits = 0
        return _one_hot(0), {}

    def step(self, action: int) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Takes an answer."""
        right = int(action) == self._answers[self._steps]
        self._steps += 1
        self._hits += right
        over = self._steps == len(self._answers)
        return _one_hot(self._steps), 0.5 * right, over, False, {"success": over and self._hits == len(self._answers)}


LADDER = tuple(
    Task(
        f"rung-{rung}",
        functools.partial(Ladder, rung),
        description=f"give the first {Ladder.answers_per_rung * rung} answers of the sequence in order",
    )
    for rung in range(1, len(Ladder.answers) // Ladder.answers_per_rung + 1)
)

TASKS = {
    "corridor": Task("corridor", Corridor, description="walk to the right end of the corridor"),
    "constant": Task("constant", Constant, high=float(Constant.max_steps), description="stay until the time is over"),
    "cue": Task("cue", Cue, description="give the answer that the cue shows"),
}
THREE = tuple(TASKS)
TASKS |= {
    f"{colour}-{shape}": Task(f"{colour}-{shape}", functools.partial(Pair, colour, shape), description=f"bring the {colour} {shape}")
    for colour in Pair.colours
    for shape in Pair.shapes
}
SETS = {"three": THREE, "pairs": tuple(name for name in TASKS if name not in THREE)}


def names() -> list[str]:
    """The named sets."""
    return [*SETS, "ladder"]


def tasks() -> list[str]:
    """The tasks that are suites of their own; the rungs of the ladder are not."""
    return list(TASKS)


def make(name: str) -> TaskSuite:
    """`three`, `pairs`, the names of some of their tasks, separated by commas, or `ladder`.

    Raises:
        UnknownTaskError: there is no such task.
    """
    if name == "ladder":
        return TaskSuite("toy/ladder", LADDER, Ladder.observation_space, ACTION_SPACE, _same, protocol=PROTOCOL)
    chosen = SETS.get(name) or tuple(part.strip() for part in name.split(","))
    for task in chosen:
        if task not in TASKS:
            raise UnknownTaskError(f"toy has no task {task!r}{did_you_mean(task, [*TASKS, *names()], cutoff=0.0)}")
    tasks = tuple(TASKS[task] for task in chosen)
    return TaskSuite(f"toy/{name}", tasks, OBSERVATION_SPACE, ACTION_SPACE, _same, protocol=PROTOCOL)


def _same(observation: object) -> dict[str, np.ndarray]:
    return observation  # type: ignore[return-value]


def _one_hot(index: int) -> dict[str, np.ndarray]:
    vector = np.zeros(SIZE, np.float32)
    vector[index] = 1.0
    return {"vector": vector}
