"""Tasks of several families in one suite, with a common space for their different observations and actions.

`minigrid/mt3+metaworld/reach,push` is a suite of five tasks. An observation has the number of its kind and the arrays of every kind; those
of the other kinds are zero. An action is a vector that begins with the number of its kind.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np

from envs.actions import random_action, size_of, values_of
from envs.observations import MASK
from envs.task import Task, TaskSuite
from envs.vector import Arrays

KIND = "kind"


class EitherSpace(gymnasium.Space[np.ndarray]):
    """Actions of one kind or another as vectors: the kind's number, the action (a Discrete one is one number), and zeros to fill up.

    Args:
        kinds: spaces that policies act in, as `envs.actions` has them.
    """

    def __init__(self, kinds: Sequence[gymnasium.Space]):
        self.kinds = tuple(kinds)
        super().__init__((1 + max(size_of(kind) for kind in kinds),), np.float32)

    def sample(self, mask: Any = None, probability: Any = None) -> np.ndarray:
        """An action of any kind."""
        kind = int(self.np_random.integers(len(self.kinds)))
        return self.join(kind, np.asarray(self.kinds[kind].sample()))

    def seed(self, seed: Any = None) -> Any:
        """Seeds the choice of the kind and the actions of each kind."""
        for kind in self.kinds:
            kind.seed(seed)
        return super().seed(seed)

    def contains(self, x: Any) -> bool:
        """Whether `x` is an action of the kind that its first number names."""
        if not (isinstance(x, np.ndarray) and x.shape == self.shape and x[0] in range(len(self.kinds))):
            return False
        kind = int(x[0])
        return bool(np.array_equal(self.join(kind, self.split(kind, x)), x))

    def join(self, kind: int, actions: np.ndarray) -> np.ndarray:
        """Actions `[..., n]` of a kind, or `[...]` of a Discrete one, as vectors."""
        values = actions[..., None] if isinstance(self.kinds[kind], gymnasium.spaces.Discrete) else actions
        vectors = np.zeros((*values.shape[:-1], *self.shape), np.float32)  # type: ignore[misc]
        vectors[..., 0] = kind
        vectors[..., 1 : 1 + values.shape[-1]] = values
        return vectors

    def split(self, kind: int, vectors: np.ndarray) -> Any:
        """The actions in vectors `[..., n]` of a kind: the inverse of `join`; values out of range are clipped."""
        return values_of(self.kinds[kind], vectors[..., 1:])

    def __eq__(self, other: object) -> bool:
        """Whether the kinds are the same."""
        return isinstance(other, EitherSpace) and self.kinds == other.kinds

    __hash__ = None  # type: ignore[assignment]  # as all spaces


@dataclass(frozen=True)
class MixedSuite(TaskSuite):
    """The tasks of several suites, one after the other."""

    parts: tuple[TaskSuite, ...] = ()

    def changed(self, name: str, change: Callable[[Task], Task]) -> MixedSuite:
        """A suite of another name with each task as `change` gives it."""
        return mix(name, [part.changed(part.name, change) for part in self.parts])

    def for_evaluation(self) -> MixedSuite:
        """The same tasks, each part as its published protocol evaluates it."""
        return mix(self.name, [part.for_evaluation() for part in self.parts])

    def observe(self, task_id: int, observation: object) -> Arrays:
        """An observation of one of a task's environments as arrays of `observation_space`."""
        part, local = self._place(task_id)
        own = self.parts[part].observe(local, observation)
        return {name: array[0] for name, array in self.gather([part], [{name: array[None] for name, array in own.items()}], [1]).items()}

    def act(self, task_id: int, action: np.ndarray) -> Any:
        """The argument of the `step` of one of a task's environments for an action of `action_space`."""
        part, local = self._place(task_id)
        return self.parts[part].act(local, self.actions_of(part, action))

    def gather(self, parts: Sequence[int], observations: Sequence[Arrays], counts: Sequence[int]) -> Arrays:
        """The observations `[count, ...]` of some parts, one after the other, as arrays of `observation_space`; those of the kinds that a
        row does not have are zero there.
        """
        shared = {name: np.zeros((sum(counts), *(space.shape or ())), space.dtype) for name, space in self.observation_space.items()}
        start = 0
        for part, obs, count in zip(parts, observations, counts, strict=True):
            rows, own = slice(start, start + count), self._observation_kind_of_part[part]
            shared[KIND][rows] = own
            for name, array in obs.items():
                shared[f"{own}.{name}"][rows] = array
            start += count
        return shared

    def alone(self, task_id: int) -> tuple[TaskSuite, int]:
        """The suite that a task comes from, and the task's index there."""
        part, local = self._place(task_id)
        return self.parts[part], local

    def actions_of(self, part: int, vectors: np.ndarray) -> Any:
        """The actions of a part's tasks from vectors of the common space."""
        space: Any = self.action_space
        return space.split(self._action_kind_of_part[part], vectors) if isinstance(space, EitherSpace) else vectors

    def _random_action(self, task_id: int, obs: Mapping[str, np.ndarray]) -> Any:
        part, _ = self._place(task_id)
        mask = obs.get(f"{self._observation_kind_of_part[part]}.{MASK}")
        if not isinstance(self.action_space, EitherSpace):
            return random_action(self.action_space, mask)
        kind = self._action_kind_of_part[part]
        return self.action_space.join(kind, np.asarray(random_action(self.action_space.kinds[kind], mask)))

    @property
    def action_kinds(self) -> tuple[int, ...]:
        """For each task, the place of its action space among the distinct ones."""
        return tuple(kind for part, kind in zip(self.parts, self._action_kind_of_part, strict=True) for _ in part.tasks)

    @property
    def observation_kinds(self) -> tuple[int, ...]:
        """For each task, the place of its observation space among the distinct ones."""
        return tuple(kind for part, kind in zip(self.parts, self._observation_kind_of_part, strict=True) for _ in part.tasks)

    # Cached: each step needs them, and comparing two spaces compares their arrays.
    @functools.cached_property
    def _observation_kinds(self) -> list[Any]:
        return _distinct(part.observation_space for part in self.parts)

    @functools.cached_property
    def _observation_kind_of_part(self) -> list[int]:
        return [self._observation_kinds.index(part.observation_space) for part in self.parts]

    @functools.cached_property
    def _action_kind_of_part(self) -> list[int]:
        kinds = _distinct(part.action_space for part in self.parts)
        return [kinds.index(part.action_space) for part in self.parts]

    def _place(self, task_id: int) -> tuple[int, int]:
        for number, part in enumerate(self.parts):
            if task_id < part.num_tasks:
                return number, task_id
            task_id -= part.num_tasks
        raise IndexError(task_id)


def split_name(name: str) -> list[str]:
    """The names of the suites that `name` joins by `+`. A `+` before an option of a suite (`context/cartpole+rollin`) joins nothing."""
    return re.split(r"\+(?=\w+/)", name)


def mix(name: str, parts: Sequence[TaskSuite]) -> MixedSuite:
    """One suite of the tasks of several.

    Raises:
        SuiteError: two tasks have the same name.
    """
    parts = [each for part in parts for each in (part.parts if isinstance(part, MixedSuite) else (part,))]
    observations = _distinct(part.observation_space for part in parts)
    actions = _distinct(part.action_space for part in parts)
    spaces: dict[str, gymnasium.Space] = {KIND: gymnasium.spaces.Box(0, len(observations) - 1, (), np.uint8)}
    for number, kind in enumerate(observations):
        spaces |= {f"{number}.{key}": space for key, space in kind.items()}
    protocols = {part.protocol for part in parts}
    return MixedSuite(
        name=name,
        # A task of a suite that is scored by success loses its range of returns, so that it is scored by success here, too.
        tasks=tuple(replace(task, high=None if part.scored_by == "success" else task.high) for part in parts for task in part.tasks),
        observation_space=gymnasium.spaces.Dict(spaces),
        action_space=actions[0] if len(actions) == 1 else EitherSpace(actions),
        adapt=_no_common_form,
        rules=_joined(part.rules for part in parts),
        protocol=protocols.pop() if len(protocols) == 1 else None,
        parts=tuple(parts),
    )


def _joined(rules: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The rules of all parts; where two parts have different values for a rule, all of its values."""
    values: dict[str, list[str]] = {}
    for key, value in itertools.chain.from_iterable(each.items() for each in rules):
        if value not in values.setdefault(key, []):
            values[key].append(value)
    return {key: ", ".join(found) for key, found in values.items()}


def _no_common_form(observation: object) -> Arrays:
    raise TypeError("observations of a mixed suite depend on the task: use observe(task_id, observation)")


def _distinct(spaces: Any) -> list[Any]:
    found: list[Any] = []
    for space in spaces:
        if space not in found:
            found.append(space)
    return found
