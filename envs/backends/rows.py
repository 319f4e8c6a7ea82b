"""Memory that two processes share: a row for each environment, with its action, the result of its step, and what has failed there.

The memory is a file without a name, whose descriptor the parent gives to the worker. It can grow, and the system frees it when both
processes are gone, however they ended.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from typing import Any

import gymnasium
import numpy as np

from envs.backends.place import History, Result
from envs.levels import Level
from envs.task import TaskSuite
from envs.vector import Arrays

HEADER = 64  # bytes; the first eight are the row that is being stepped
WIDEST = 8  # bytes of a number


class SharedRows:
    """The rows of one worker's environments.

    Args:
        suite: the tasks, whose spaces say how large a row is.
        file: the descriptor of the memory; a new memory if None.
    """

    def __init__(self, suite: TaskSuite, file: int | None = None):
        self.file = _new_file() if file is None else file
        self.close = weakref.finalize(self, os.close, self.file)  # gives the memory up
        self._type = _row_type(suite)
        self._names = tuple(suite.observation_space)
        if file is None:
            os.ftruncate(self.file, HEADER)
        self._size = 0  # of what is mapped
        self.look()
        if file is None:
            self.current = -1

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, tasks: list[int], numbers: list[int]) -> np.ndarray:
        """Adds rows for environments; gives their places in the memory. The worker sees them after its next `look`."""
        first, count = len(self), len(tasks)
        os.ftruncate(self.file, HEADER + (first + count) * self._type.itemsize)
        self.look()
        self._rows["task"][first:], self._rows["number"][first:] = tasks, numbers
        return np.arange(first, first + count)

    def look(self) -> None:
        """Maps the rows that the other process has added, if there are any: each page of a new mapping is a fault at its first use."""
        size = os.fstat(self.file).st_size
        if size == self._size:
            return
        self._size = size
        memory = mmap.mmap(self.file, size)  # lives as long as the arrays over it
        self._header = np.frombuffer(memory, np.int64, 1)
        self._rows = np.frombuffer(memory, self._type, (size - HEADER) // self._type.itemsize, HEADER)

    @property
    def current(self) -> int:
        """The row that is being stepped; -1 between steps."""
        return int(self._header[0])

    @current.setter
    def current(self, row: int) -> None:
        self._header[0] = row

    def identity(self, row: int) -> tuple[int, int]:
        """The environment's task and its number within the task."""
        return int(self._rows["task"][row]), int(self._rows["number"][row])

    def history(self, row: int) -> History:
        """What has failed at the environment's place."""
        return History(*self._rows["history"][row].tolist())

    def set_history(self, row: int, history: History) -> None:
        """Writes what has failed at the environment's place."""
        self._rows["history"][row] = (history.replaced, history.in_a_row, history.resting)

    def set_level(self, row: int, level: Level) -> None:
        """Writes the level that the environment plays from its next reset on."""
        own = self._rows[row]
        own["has_level"], own["level"], own["only_rated"] = True, level.number, level.only_rated
        own["parameters"][: len(level.parameters)] = level.parameters

    def level(self, row: int, parameters: int) -> Level | None:
        """The level of an environment whose task has so many level parameters; None where it chooses itself."""
        own = self._rows[row]
        if not own["has_level"]:
            return None
        return Level(int(own["level"]), tuple(own["parameters"][:parameters].tolist()), bool(own["only_rated"]))

    def write_actions(self, rows: np.ndarray, actions: np.ndarray) -> None:
        """Writes actions [n, ...] of any type of number."""
        data = np.ascontiguousarray(actions).view(np.uint8).reshape(len(rows), -1)
        self._rows["action"][rows, : data.shape[1]] = data

    def read_actions(self, rows: np.ndarray, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """The actions [n, ...] that were written with this type and this shape of one action."""
        size = dtype.itemsize * int(np.prod(shape))
        return np.ascontiguousarray(self._rows["action"][rows, :size]).view(dtype).reshape(len(rows), *shape)

    def write_result(self, row: int, result: Result) -> None:
        """Writes the result of an environment's step, without its fault."""
        own = self._rows[row]
        own["reward"], own["terminated"], own["truncated"] = result.reward, result.terminated, result.truncated
        own["success"], own["lost"] = result.success, result.lost
        for name in self._names:
            own["obs"][name] = result.obs[name]

    def read(self, field: str, rows: np.ndarray) -> np.ndarray:
        """One field of the results of some rows, [n]."""
        return self._rows[field][rows]

    def read_obs(self, rows: np.ndarray) -> Arrays:
        """The observations of some rows, [n, ...]."""
        return {name: self._rows["obs"][name][rows] for name in self._names}


def _row_type(suite: TaskSuite) -> np.dtype:
    action_size = WIDEST * int(np.prod(suite.action_space.shape or ()))
    obs: list[Any] = [(name, space.dtype, _shape(space)) for name, space in suite.observation_space.items()]
    flags = [(name, np.bool_) for name in ("terminated", "truncated", "success", "lost")]
    fields = [
        *(("task", np.int64), ("number", np.int64), ("history", np.int64, (3,))),
        *(("has_level", np.bool_), ("only_rated", np.bool_), ("level", np.int64), ("parameters", np.float64, (_most_parameters(suite),))),
        *(("action", np.uint8, (action_size,)), ("reward", np.float32), *flags, ("obs", np.dtype(obs, align=True))),
    ]
    return np.dtype(fields, align=True)


def _most_parameters(suite: TaskSuite) -> int:
    """The level parameters of the task that has most of them."""
    return max(len(task.level_parameters.names) if task.level_parameters is not None else 0 for task in suite.tasks)


def _shape(space: gymnasium.Space) -> tuple[int, ...]:
    return tuple(space.shape or ())


def _new_file() -> int:
    """The descriptor of an empty file without a name, in memory where the system has such files."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("environments")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
