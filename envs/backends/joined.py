"""Several backends as one: each steps a range of the suite's tasks."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from envs.errors import TaskFault
from envs.vector import Arrays, Backend, BackendStep


class JoinedBackend:
    """Backends of the parts of a suite, in the order of the parts.

    Args:
        backends: the backend of each part; it counts the part's tasks from 0.
        sizes: the number of tasks of each part.
        widen: turns a part's observations into the suite's; arguments are the part's number, the observations and their leading shape. By
            default both are the same.
        actions_of: turns the suite's actions into a part's; arguments are the part's number and the actions. By default both are the same.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        sizes: Sequence[int],
        widen: Callable[[int, Arrays, tuple[int, ...]], Arrays] = lambda part, obs, shape: obs,
        actions_of: Callable[[int, np.ndarray], Any] = lambda part, actions: actions,
    ):
        self._backends = list(backends)
        self._starts = [0, *itertools.accumulate(sizes)]
        self._widen, self._actions_of = widen, actions_of
        self.marker = np.full(1, -1, np.int64)

    @property
    def marker(self) -> np.ndarray:
        """The task that is being stepped."""
        return self._marker

    @marker.setter
    def marker(self, marker: np.ndarray) -> None:
        self._marker = marker
        for backend, start in zip(self._backends, self._starts, strict=False):
            backend.marker = _Shifted(marker, start)  # type: ignore[assignment]

    def grow(self, task: int, count: int) -> Arrays:
        """Adds environments to the part that has the task."""
        part = next(part for part, end in enumerate(self._starts[1:]) if task < end)
        local = task - self._starts[part]
        return self._widen(part, self._of_part(part, lambda backend: backend.grow(local, count)), (count,))

    def step(self, counts: np.ndarray, actions: np.ndarray) -> BackendStep:
        """Steps the parts that have environments."""
        results, first = [], 0
        for part, (start, end) in enumerate(itertools.pairwise(self._starts)):
            own = counts[start:end]
            count = int(own.sum())
            if not count:
                continue
            given = self._actions_of(part, actions[first : first + count])
            stepped: BackendStep = self._of_part(part, functools.partial(_step, counts=own, actions=given))
            faults = [fault._replace(task_id=fault.task_id + start) for fault in stepped.faults]
            results.append(stepped._replace(obs=self._widen(part, stepped.obs, (count,)), faults=faults))
            first += count
        obs = {name: np.concatenate([result.obs[name] for result in results]) for name in results[0].obs}
        per_slot = ("rewards", "terminated", "truncated", "success", "lost")
        arrays = {name: np.concatenate([getattr(result, name) for result in results]) for name in per_slot}
        return BackendStep(obs, **arrays, faults=[fault for result in results for fault in result.faults])

    def close(self) -> None:
        """Closes all parts."""
        for backend in self._backends:
            backend.close()

    def _of_part(self, part: int, use: Callable[[Backend], Any]) -> Any:
        """The result of `use` on a part's backend. A `TaskFault` gets the task's number in the whole suite."""
        try:
            return use(self._backends[part])
        except TaskFault as fault:
            fault.task_id += self._starts[part]
            raise


class _Shifted:
    """The marker of a part: its task 0 is task `by` of the whole suite."""

    def __init__(self, marker: np.ndarray, by: int):
        self._marker, self._by = marker, by

    def __setitem__(self, place: int, task: int) -> None:
        self._marker[place] = task + self._by if task >= 0 else task


def _step(backend: Backend, counts: np.ndarray, actions: Any) -> BackendStep:
    return backend.step(counts, actions)
