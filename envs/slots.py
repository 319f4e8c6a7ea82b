"""`SlotTable`, the implementation of `VectorTasks` over any backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from envs.actions import HybridSpace, values_of
from envs.errors import SuiteError, TaskFault
from envs.levels import LevelSource, SlotLevels
from envs.task import TaskSuite
from envs.vector import Arrays, Backend, Episode, LevelBackend, Step


class SlotTable:
    """`VectorTasks` over a backend: chooses the environments to step, keeps the state of paused ones, and sums up each episode.

    Args:
        suite: the tasks.
        backend: steps the environments.
        counts: slots of each task.
        levels: says which level each episode is played on; None leaves it to the environments.
    """

    def __init__(self, suite: TaskSuite, backend: Backend, counts: np.ndarray, levels: LevelSource | None = None):
        self.suite = suite
        self._levels = levels
        self._backend = backend
        self._counts = counts
        self._tables = [_TaskTable() for _ in range(suite.num_tasks)]
        nothing = _TaskTable()
        # Without an observation: not started.
        self._active = _Active(
            _task_ids(counts), {}, nothing.ended, nothing.returns, nothing.lengths, nothing.succeeded, nothing.levels, nothing.only_rated
        )

    @property
    def num_slots(self) -> int:
        """B"""
        return int(self._counts.sum())

    @property
    def task_ids(self) -> np.ndarray:
        """The task of each slot, [B] int64, ascending."""
        return self._active.task_ids

    @property
    def levels(self) -> SlotLevels | None:
        """The level that each slot plays; None where environments choose their levels themselves."""
        if self._levels is None:
            return None
        return SlotLevels(self._active.levels.copy(), self._active.only_rated.copy(), self._active.places)

    def reset(self) -> Arrays:
        """Starts every slot and gives its first observation."""
        if self._active.obs:
            raise RuntimeError("reset() was called twice; slots reset themselves in the step after an episode's end")
        self._load()
        return self.observe()

    def observe(self) -> Arrays:
        """The current observation of every slot."""
        return {name: array.copy() for name, array in self._active.obs.items()}

    def step(self, actions: np.ndarray) -> Step:
        """One action in each slot."""
        active = self._active
        if not active.obs:
            raise RuntimeError("call reset() before step()")
        if len(actions) != len(active.task_ids):
            raise ValueError(f"{len(active.task_ids)} slots need one action each; got {len(actions)}")
        actions = self._checked(actions)
        if self._levels is not None and active.ended.any():
            self._choose_levels(self._levels, np.flatnonzero(active.ended))
        obs, rewards, terminated, truncated, success, lost, faults = self._backend.step(self._counts, actions)
        self._check(obs, rewards)
        valid = ~active.ended & ~lost
        rewards = np.where(valid, rewards, np.float32(0))
        terminated, truncated = terminated & valid, truncated & valid
        active.returns *= valid
        active.returns += rewards
        active.lengths *= valid
        active.lengths += valid
        active.succeeded &= valid  # success in any step of the episode counts
        active.succeeded |= success & valid
        ended = terminated | truncated
        active.obs, active.ended = {name: array.copy() for name, array in obs.items()}, ended  # copied: the caller may write into `obs`
        episodes = [self._episode(slot, bool(terminated[slot]), bool(truncated[slot])) for slot in np.flatnonzero(ended).tolist()]
        return Step(obs, rewards, terminated, truncated, valid, episodes, lost, faults)

    def _checked(self, actions: np.ndarray) -> np.ndarray:
        """Actions of the suite's space: numbers are clipped, and a choice that does not exist would crash a simulator written in C++."""
        space = self.suite.action_space
        if isinstance(space, gymnasium.spaces.Box):
            return np.clip(actions, space.low, space.high)
        if isinstance(space, HybridSpace):
            return values_of(space, actions)
        if isinstance(space, gymnasium.spaces.Discrete | gymnasium.spaces.MultiDiscrete):
            count: Any = space.n if isinstance(space, gymnasium.spaces.Discrete) else space.nvec
            first: Any = space.start
            outside = (actions < first) | (actions >= first + count)
            if outside.any():
                slot = int(np.flatnonzero(outside.reshape(len(actions), -1).any(axis=1))[0])
                task = self.suite.names[self._active.task_ids[slot]]
                raise ValueError(f"{task} was given action {actions[slot]}, which {space} does not have")
        return actions

    def unfinished(self) -> list[Episode]:
        """The episodes that the slots are in the middle of, as far as they have come: neither terminated nor truncated."""
        return [self._episode(slot, terminated=False, truncated=False) for slot in np.flatnonzero(~self._active.ended).tolist()]

    def set_allocation(self, counts: Sequence[int] | np.ndarray) -> None:
        """Slots of each task from now on, [num_tasks] summing to B."""
        wanted = check_counts(counts, self.suite)
        if int(wanted.sum()) != self.num_slots:
            raise SuiteError(f"an allocation of {wanted.tolist()} needs {int(wanted.sum())} slots, but there are {self.num_slots}")
        if not self._active.obs:
            self._counts, self._active.task_ids = wanted, _task_ids(wanted)
        elif not np.array_equal(wanted, self._counts):
            self._store()
            self._counts = wanted
            self._load()

    def close(self) -> None:
        """Frees the environments."""
        self._backend.close()

    def watch(self, marker: np.ndarray) -> None:
        """Keeps the id of the task that is being stepped in `marker`."""
        self._backend.marker = marker

    def _choose_levels(self, source: LevelSource, slots: np.ndarray) -> None:
        """Draws the levels of the episodes that begin in these slots."""
        active = self._active
        for slot in slots.tolist():
            active.levels[slot], active.only_rated[slot] = self._set_level(source, int(active.task_ids[slot]), int(active.places[slot]))

    def _set_level(self, source: LevelSource, task: int, place: int) -> tuple[int, bool]:
        """Draws an environment's next level; gives its number, and whether it is only rated."""
        assert isinstance(self._backend, LevelBackend)
        level = source.draw(task)
        self._backend.set_level(task, place, level)
        return level.number, level.only_rated

    def _episode(self, slot: int, terminated: bool, truncated: bool) -> Episode:
        active, task = self._active, int(self._active.task_ids[slot])
        episode_return = float(active.returns[slot])
        return Episode(
            task_id=task,
            slot=slot,
            episode_return=episode_return,
            length=int(active.lengths[slot]),
            success=bool(active.succeeded[slot]) or self.suite.tasks[task].succeeded(episode_return),
            terminated=terminated,
            truncated=truncated,
        )

    def _check(self, obs: Arrays, rewards: np.ndarray) -> None:
        """Raises a `TaskFault` for a NaN or an infinity, which would reach every weight in the next update."""
        for name, array in (("reward", rewards), *obs.items()):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                row = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(1))[0])
                task = int(self.task_ids[row])
                what = "the reward" if name == "reward" else f"the observation {name!r}"
                raise TaskFault(task, self.suite.names[task], f"{what} is not finite: {array[row].tolist()}")

    def _store(self) -> None:
        """Writes the state of the active slots back to their tasks."""
        start = 0
        for task, count in enumerate(self._counts.tolist()):
            self._tables[task].write(self._active, slice(start, start + count))
            start += count

    def _load(self) -> None:
        """Reads the state of the first `counts` environments of each task; starts environments that do not exist yet."""
        for task, count in enumerate(self._counts.tolist()):
            table = self._tables[task]
            if count > table.size:
                new = range(table.size, count)
                levels = None if self._levels is None else [self._set_level(self._levels, task, place) for place in new]
                table.append(self._backend.grow(task, len(new)), levels)
        parts = [(table, count) for table, count in zip(self._tables, self._counts.tolist(), strict=True) if count]
        self._active = _Active(
            task_ids=_task_ids(self._counts),
            obs={name: np.concatenate([table.obs[name][:count] for table, count in parts]) for name in parts[0][0].obs},
            ended=np.concatenate([table.ended[:count] for table, count in parts]),
            returns=np.concatenate([table.returns[:count] for table, count in parts]),
            lengths=np.concatenate([table.lengths[:count] for table, count in parts]),
            succeeded=np.concatenate([table.succeeded[:count] for table, count in parts]),
            levels=np.concatenate([table.levels[:count] for table, count in parts]),
            only_rated=np.concatenate([table.only_rated[:count] for table, count in parts]),
        )


class _Active:
    """The state of the active slots, by row."""

    def __init__(
        self,
        task_ids: np.ndarray,
        obs: Arrays,
        ended: np.ndarray,
        returns: np.ndarray,
        lengths: np.ndarray,
        succeeded: np.ndarray,
        levels: np.ndarray,
        only_rated: np.ndarray,
    ):
        self.task_ids = task_ids
        self.places = np.arange(len(task_ids)) - np.searchsorted(task_ids, task_ids)  # of each environment among those of its task
        self.obs = obs  # the newest observation
        self.ended = ended  # whether the next step is a reset
        self.returns = returns  # of the episode so far
        self.lengths = lengths
        self.succeeded = succeeded
        self.levels = levels  # number of the level that is played
        self.only_rated = only_rated  # whether it is only rated


class _TaskTable:
    """The state of all environments of one task, paused ones too."""

    def __init__(self) -> None:
        self.size = 0
        self.obs: Arrays = {}
        self.ended = np.zeros(0, bool)
        self.returns = np.zeros(0)
        self.lengths = np.zeros(0, np.int64)
        self.succeeded = np.zeros(0, bool)
        self.levels = np.zeros(0, np.int64)
        self.only_rated = np.zeros(0, bool)

    def append(self, obs: Arrays, levels: list[tuple[int, bool]] | None = None) -> None:
        """Adds environments that have just started, with their first observations and the levels that they play."""
        count = len(next(iter(obs.values())))
        self.obs = {name: np.concatenate([self.obs[name], array]) if self.size else array.copy() for name, array in obs.items()}
        self.ended = np.concatenate([self.ended, np.zeros(count, bool)])
        self.returns = np.concatenate([self.returns, np.zeros(count)])
        self.lengths = np.concatenate([self.lengths, np.zeros(count, np.int64)])
        self.succeeded = np.concatenate([self.succeeded, np.zeros(count, bool)])
        numbers, only_rated = zip(*levels, strict=True) if levels else ([0] * count, [False] * count)
        self.levels = np.concatenate([self.levels, np.array(numbers, np.int64)])
        self.only_rated = np.concatenate([self.only_rated, np.array(only_rated, bool)])
        self.size += count

    def write(self, active: _Active, rows: slice) -> None:
        """Sets the state of the first environments to that of `rows` of the active slots."""
        count = rows.stop - rows.start
        for name, array in self.obs.items():
            array[:count] = active.obs[name][rows]
        self.ended[:count] = active.ended[rows]
        self.returns[:count] = active.returns[rows]
        self.lengths[:count] = active.lengths[rows]
        self.succeeded[:count] = active.succeeded[rows]
        self.levels[:count] = active.levels[rows]
        self.only_rated[:count] = active.only_rated[rows]


def check_counts(counts: Sequence[int] | np.ndarray, suite: TaskSuite) -> np.ndarray:
    """`counts` as an array [num_tasks] int64.

    Raises:
        SuiteError: not one whole number for each task, a negative one, or no slot at all.
    """
    array = np.asarray(counts)
    if array.shape != (suite.num_tasks,) or array.dtype.kind not in "iu" or (array < 0).any() or array.sum() < 1:
        raise SuiteError(
            f"{suite.name} has {suite.num_tasks} tasks and needs a number of slots for each, at least one in all; got {counts}"
        )
    return array.astype(np.int64)  # copied: the caller may write into `counts`


def _task_ids(counts: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)
