"""Several backends as one: each steps a range of the suite's tasks."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from envs.errors import TaskFault
from envs.levels import Level
from envs.vector import Arrays, Backend, BackendStep, LevelBackend, Overlapping


class JoinedBackend:
    """Backends of the parts of a suite, in the order of the parts.

    Args:
        backends: the backend of each part; it counts the part's tasks from 0.
        sizes: the number of tasks of each part.
        gather: puts the parts' observations one after the other, as the suite's; arguments are the parts' numbers, their observations and
            how many each has. By default all parts have the same arrays.
        actions_of: turns the suite's actions into a part's; arguments are the part's number and the actions. By default both are the same.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        sizes: Sequence[int],
        gather: Callable[[Sequence[int], Sequence[Arrays], Sequence[int]], Arrays] | None = None,
        actions_of: Callable[[int, np.ndarray], Any] = lambda part, actions: actions,
    ):
        self._backends = list(backends)
        self._overlapping = [isinstance(backend, Overlapping) for backend in backends]
        self._starts = [0, *itertools.accumulate(sizes)]
        self._gather, self._actions_of = gather or _concatenated, actions_of
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
        part, local = self._place_of(task)
        return self._gather([part], [self._of_part(part, lambda backend: backend.grow(local, count))], [count])

    def set_level(self, task: int, place: int, level: Level) -> None:
        """Tells the part that has the task."""
        part, local = self._place_of(task)
        backend = self._backends[part]
        assert isinstance(backend, LevelBackend)
        backend.set_level(local, place, level)

    def step(self, counts: np.ndarray, actions: np.ndarray) -> BackendStep:
        """Steps the parts that have environments. Those that can start a step before it is waited for all start theirs first."""
        parts, sizes, given, first = [], [], [], 0
        for part, (start, end) in enumerate(itertools.pairwise(self._starts)):
            count = int(counts[start:end].sum())
            if count:
                parts.append(part)
                sizes.append(count)
                given.append((counts[start:end], self._actions_of(part, actions[first : first + count])))
                first += count
        for part, (own, acted) in zip(parts, given, strict=True):
            if self._overlapping[part]:
                self._of_part(part, functools.partial(_send, counts=own, actions=acted))
        results: list[BackendStep] = []
        for part, (own, acted) in zip(parts, given, strict=True):
            finish = _receive if self._overlapping[part] else functools.partial(_step, counts=own, actions=acted)
            results.append(self._of_part(part, finish))
        obs = self._gather(parts, [result.obs for result in results], sizes)
        per_slot = ("rewards", "terminated", "truncated", "success", "lost")
        arrays = {name: np.concatenate([getattr(result, name) for result in results]) for name in per_slot}
        faults = [
            fault._replace(task_id=fault.task_id + self._starts[part])
            for part, result in zip(parts, results, strict=True)
            for fault in result.faults
        ]
        return BackendStep(obs, **arrays, faults=faults)

    def close(self) -> None:
        """Closes all parts."""
        for backend in self._backends:
            backend.close()

    def _place_of(self, task: int) -> tuple[int, int]:
        """The part that has a task, and the task's number there."""
        part = next(part for part, end in enumerate(self._starts[1:]) if task < end)
        return part, task - self._starts[part]

    def _of_part(self, part: int, use: Callable[[Any], Any]) -> Any:
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


def _send(backend: Overlapping, counts: np.ndarray, actions: Any) -> None:
    backend.send(counts, actions)


def _receive(backend: Overlapping) -> BackendStep:
    return backend.receive()


def _concatenated(parts: Sequence[int], observations: Sequence[Arrays], counts: Sequence[int]) -> Arrays:
    return {name: np.concatenate([obs[name] for obs in observations]) for name in observations[0]}
