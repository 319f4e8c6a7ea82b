"""Tasks and suites as data: names, spaces, scores, and the rules of an evaluation."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import gymnasium
import numpy as np

from envs.actions import random_action
from envs.errors import SuiteError, UnknownTaskError, did_you_mean
from envs.levels import LevelSpace
from envs.observations import MASK

BackendName = Literal["envpool", "gymnasium"]


@dataclass(frozen=True)
class Task:
    """One environment with its own dynamics and reward."""

    name: str
    make_env: Callable[..., gymnasium.Env]
    """Builds Gymnasium's version of the environment; with `render_mode="rgb_array"` one that can be recorded. The suite's `adapt` reads its
    observations."""
    low: float = 0.0
    """The return that scores 0."""
    high: float | None = 1.0
    """The return that scores 1; None where it is unknown, and then a success scores 1 and anything else 0."""
    context: float | None = None
    """The task's value of the one number in which the suite's tasks differ; None where they differ in more."""
    success_return: float | None = None
    """An episode with a return above this has succeeded; None where only the environment reports success."""
    envpool_id: str | None = None
    """EnvPool's id of the task; None where EnvPool does not have it."""
    envpool_options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `envpool.make`."""
    envpool_evaluation_options: Mapping[str, Any] | None = None
    """The arguments instead of these for the published protocol; None where they are those of the training."""
    envpool_actions: Callable[[np.ndarray], np.ndarray] | None = None
    """Turns the suite's actions [N, ...] into those of EnvPool's environments; None where they are the same."""
    make_evaluation_env: Callable[..., gymnasium.Env] | None = None
    """Builds Gymnasium's version for the published protocol; None where it is that of the training. `reset` gets the environment's number
    in its options."""
    level_parameters: LevelSpace | None = None
    """The numbers that a level sets, which `reset` gets in its options; None where a level is a seed alone."""
    description: str = ""
    """What the task asks for, in a sentence; empty where only its name says it."""

    @property
    def sentence(self) -> str:
        """The description, or else the words of the name: `Slow-v0` is `slow v 0`."""
        return self.description or " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+(?:[.][0-9]+)?", self.name)).lower()

    def for_evaluation(self) -> Task:
        """The task as the published protocol evaluates it."""
        options = self.envpool_options if self.envpool_evaluation_options is None else self.envpool_evaluation_options
        return replace(self, make_env=self.make_evaluation_env or self.make_env, envpool_options=options)

    def succeeded(self, episode_return: float) -> bool:
        """Whether the return of an episode shows that it succeeded."""
        return self.success_return is not None and episode_return > self.success_return

    def score(self, returns: np.ndarray | float) -> np.ndarray:
        """Returns mapped to 0 … 1 by the task's published range; NaN stays NaN. `high` has to be known."""
        assert self.high is not None
        return np.clip((np.asarray(returns, float) - self.low) / (self.high - self.low), 0.0, 1.0)


@dataclass(frozen=True)
class EvaluationProtocol:
    """The rules of a suite's evaluation: named and versioned, so that two figures are comparable or visibly not."""

    name: str
    episodes: int
    """Episodes of each task."""
    actions: Literal["sampled", "greedy"]
    """Drawn from the policy, or always the most likely one."""
    backend: BackendName = "gymnasium"
    """The backend that steps the environments, which may differ from the one of the training."""


@dataclass(frozen=True)
class PlayRecipe:
    """The lines of a script that plays a suite's tasks with Gymnasium and a simulator's package, without this project."""

    package: str
    """Imported before an environment is made."""
    make_env: str
    """The expression that makes an environment; `{task}` stands for the task's name."""
    read: str | Mapping[str, str]
    """The expression for the array that a policy reads, from the variable `observation`; for several arrays one for each, by its name."""
    setup: str = ""
    """Lines with the imports and functions that the expressions use."""


@dataclass(frozen=True)
class TaskSuite:
    """An ordered, named tuple of tasks with common spaces."""

    name: str
    tasks: tuple[Task, ...]
    observation_space: gymnasium.spaces.Dict
    action_space: gymnasium.Space
    adapt: Callable[[object], dict[str, np.ndarray]]
    """Turns the observations of one environment, or of a pool with a leading axis, into arrays of `observation_space`."""
    scored_by: Literal["return", "success"] = "return"
    """Whether an episode's score is its return within the task's range, or 1 for a success and 0 for none."""
    rules: Mapping[str, str] = field(default_factory=dict)
    """Facts that a figure has to name beside the tasks, such as the version of the rewards; written into every result."""
    protocol: EvaluationProtocol | None = None
    """The rules by which results on these tasks are published; None where there are none."""
    recipe: PlayRecipe | None = None
    """Code with which an exported policy plays without this project; None where no Gymnasium call makes the same environment."""
    names: tuple[str, ...] = field(init=False)
    """The tasks' names in order."""

    def __post_init__(self) -> None:
        names = tuple(task.name for task in self.tasks)
        if len(set(names)) < len(names):
            raise SuiteError(f"{self.name} names a task twice: {', '.join(names)}")
        object.__setattr__(self, "names", names)

    @property
    def num_tasks(self) -> int:
        """The number of tasks."""
        return len(self.tasks)

    @property
    def backends(self) -> tuple[BackendName, ...]:
        """The backends that have all tasks, the fastest first."""
        return ("envpool", "gymnasium") if all(task.envpool_id for task in self.tasks) else ("gymnasium",)

    def index(self, name: str) -> int:
        """The index of the task called `name`.

        Raises:
            UnknownTaskError: there is no such task; the message has the nearest name.
        """
        if name not in self.names:
            raise UnknownTaskError(f"{self.name} has no task {name!r}{did_you_mean(name, self.names, cutoff=0.0)}")
        return self.names.index(name)

    def score(self, task_id: int, returns: np.ndarray | float, successes: np.ndarray | float = np.nan) -> np.ndarray:
        """The scores of one task's episodes, 0 … 1; NaN stays NaN."""
        by_success = self.scored_by == "success" or self.tasks[task_id].high is None
        return np.asarray(successes, float) if by_success else self.tasks[task_id].score(returns)

    @property
    def contexts(self) -> np.ndarray | None:
        """The tasks' contexts [num_tasks]; None if not every task has one."""
        contexts = [task.context for task in self.tasks if task.context is not None]
        return np.array(contexts) if len(contexts) == self.num_tasks else None

    def part_of(self, task_id: int) -> TaskSuite:
        """The suite that a task comes from: this one, unless it joins several."""
        return self.alone(task_id)[0]

    def alone(self, task_id: int) -> tuple[TaskSuite, int]:
        """The suite that a task comes from, and the task's index there."""
        return self, task_id

    def observe(self, task_id: int, observation: object) -> dict[str, np.ndarray]:
        """An observation of one of a task's environments as arrays of `observation_space`."""
        return self.adapt(observation)

    def act(self, task_id: int, action: np.ndarray) -> Any:
        """The argument of the `step` of one of a task's environments for an action of `action_space`."""
        return action

    def random_actions(self, task_ids: Sequence[int] | np.ndarray, obs: Mapping[str, np.ndarray]) -> np.ndarray:
        """An action for each row of observations [B, ...], drawn by `action_space`; all that are allowed have the same chance.

        Args:
            task_ids: the rows' tasks, [B].
            obs: arrays of `observation_space`.
        """
        rows = range(len(task_ids))
        return np.stack([self._random_action(int(task_ids[row]), {name: array[row] for name, array in obs.items()}) for row in rows])

    def _random_action(self, task_id: int, obs: Mapping[str, np.ndarray]) -> Any:
        return random_action(self.action_space, obs.get(MASK))

    def changed(self, name: str, change: Callable[[Task], Task]) -> TaskSuite:
        """A suite of another name with each task as `change` gives it."""
        return replace(self, name=name, tasks=tuple(map(change, self.tasks)))

    def for_evaluation(self) -> TaskSuite:
        """The same tasks as the published protocol evaluates them."""
        return replace(self, tasks=tuple(task.for_evaluation() for task in self.tasks))


def just_below(threshold: float) -> float:
    """What a return must exceed to reach the threshold: rewards are float32, and their sum may be a rounding below it."""
    return threshold - 1e-6 * max(1.0, abs(threshold))
