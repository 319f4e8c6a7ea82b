"""Any Gymnasium environments behind the vector protocol, stepped one after the other in this process: the reference for other backends."""

from __future__ import annotations

import numpy as np

from envs.backends.place import Place, Result
from envs.levels import Level
from envs.seeds import SeedSequences
from envs.task import TaskSuite
from envs.vector import Arrays, BackendStep, Fault


class GymnasiumBackend:
    """Steps environments in a plain loop. A tolerant backend replaces those that fail, see `Place`."""

    def __init__(self, suite: TaskSuite, seeds: SeedSequences, tolerant: bool = False):
        self._suite = suite
        self._seeds = seeds
        self._tolerant = tolerant
        self._places: list[list[Place]] = [[] for _ in suite.tasks]
        self._new_levels: dict[tuple[int, int], Level] = {}  # of environments that are not there yet, by task and number
        self._earlier: list[Fault] = []  # faults since the last step
        self.marker = np.full(1, -1, np.int64)

    def grow(self, task: int, count: int) -> Arrays:
        """Adds environments of a task and gives their first observations."""
        places = self._places[task]
        numbers = range(len(places), len(places) + count)
        levels = [self._new_levels.pop((task, number), None) for number in numbers]
        new = [
            Place(self._suite, task, self._seeds, number, self._tolerant, level=level)
            for number, level in zip(numbers, levels, strict=True)
        ]
        places += new
        first = [place.attempt(None) for place in new]
        self._earlier += [result.fault for result in first if result.fault is not None]
        return _stack(first)

    def set_level(self, task: int, place: int, level: Level) -> None:
        """The level of an environment's episodes from its next reset on."""
        if place < len(self._places[task]):
            self._places[task][place].level = level
        else:
            self._new_levels[task, place] = level

    def step(self, counts: np.ndarray, actions: np.ndarray) -> BackendStep:
        """Steps the first `counts[task]` environments of each task, or resets those whose episode has ended."""
        active = [place for task, count in enumerate(counts.tolist()) for place in self._places[task][:count]]
        results = []
        for place, action in zip(active, actions, strict=True):
            self.marker[0] = place.task
            results.append(place.attempt(action))
        self.marker[0] = -1
        _, rewards, terminated, truncated, success, lost, faults = zip(*results, strict=True)
        earlier, self._earlier = self._earlier, []
        return BackendStep(
            _stack(results),
            np.array(rewards, np.float32),
            np.array(terminated, bool),
            np.array(truncated, bool),
            np.array(success, bool),
            np.array(lost, bool),
            earlier + [fault for fault in faults if fault is not None],
        )

    def close(self) -> None:
        """Closes every environment."""
        for places in self._places:
            for place in places:
                place.close()


def _stack(results: list[Result]) -> Arrays:
    return {name: np.stack([result.obs[name] for result in results]) for name in results[0].obs}
