"""Any Gymnasium environments behind the vector protocol, stepped one after the other in this process: the reference for other backends."""

from __future__ import annotations

import contextlib
import math
import traceback
from typing import NamedTuple

import gymnasium
import numpy as np

from envs.errors import TaskFault
from envs.seeds import SeedSequences
from envs.task import TaskSuite
from envs.vector import Arrays, BackendStep, Fault

LONGEST_REST = 1024  # steps; the longest pause of a place between two environments that fail


class GymnasiumBackend:
    """Steps environments in a plain loop.

    A tolerant backend replaces an environment that raises an error, or returns values that do not fit the suite. If the new environment
    fails before its first step, the place rests for 1, 2, 4, … steps before the next one starts.
    """

    def __init__(self, suite: TaskSuite, seeds: SeedSequences, tolerant: bool = False):
        self._suite = suite
        self._seeds = seeds
        self._tolerant = tolerant
        self._places: list[list[_Place]] = [[] for _ in suite.tasks]
        self._earlier: list[Fault] = []  # faults since the last step
        self.marker = np.full(1, -1, np.int64)

    def grow(self, task: int, count: int) -> Arrays:
        """Adds environments of a task and gives their first observations."""
        places = self._places[task]
        new = [_Place(self._suite, task, self._seeds, number) for number in range(len(places), len(places) + count)]
        places += new
        first = [self._attempt(task, place, None) for place in new]
        self._earlier += [result.fault for result in first if result.fault is not None]
        return self._stack(first)

    def step(self, counts: np.ndarray, actions: np.ndarray) -> BackendStep:
        """Steps the first `counts[task]` environments of each task, or resets those whose episode has ended."""
        active = [(task, place) for task, count in enumerate(counts.tolist()) for place in self._places[task][:count]]
        results = []
        for (task, place), action in zip(active, actions, strict=True):
            self.marker[0] = task
            results.append(self._attempt(task, place, action))
        self.marker[0] = -1
        _, rewards, terminated, truncated, success, lost, faults = zip(*results, strict=True)
        earlier, self._earlier = self._earlier, []
        return BackendStep(
            self._stack(results),
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

    def _attempt(self, task: int, place: _Place, action: np.ndarray | None) -> _Result:
        """A step, or the first reset where `action` is None."""
        try:
            return place.step(action)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # sys.exit, too: a window that is closed must not end the tasks that have none
            reason = str(error) if isinstance(error, TaskFault) else f"{type(error).__name__}: {error}"
            if not self._tolerant:
                if isinstance(error, Exception):
                    raise  # here, where a debugger can look at the environment
                raise TaskFault(task, self._suite.names[task], f"its environment ended the program ({reason})") from error
            return place.replaced(Fault(task, reason, traceback.format_exc()))

    def _stack(self, results: list[_Result]) -> Arrays:
        return {name: np.stack([result.obs[name] for result in results]) for name in results[0].obs}


class _Result(NamedTuple):
    obs: Arrays
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    success: bool = False
    lost: bool = False
    fault: Fault | None = None


class _Place:
    """A place for one environment at a time. The step after an episode's end resets the environment."""

    def __init__(self, suite: TaskSuite, task: int, seeds: SeedSequences, number: int):
        self._suite = suite
        self._task = task
        self._seeds = seeds
        self._number = number
        self._env: gymnasium.Env | None = None
        self._ended = False
        self._replaced = 0  # environments that have failed at this place
        self._in_a_row = 0  # environments that have failed since the last successful step
        self._resting = 0  # steps until the next environment starts

    def step(self, action: np.ndarray | None) -> _Result:
        """The result of an action, or of a reset if there is no episode to act in."""
        if self._resting > 0:
            self._resting -= 1
            if self._resting > 0:
                return self._nothing(None)
        if self._env is None:
            obs = self._begin()
            return _Result(obs, lost=self._replaced > 0)
        if self._ended:
            observation, _ = self._env.reset()  # without a seed: the environment goes on with its stream
            self._ended = False
            return _Result(self._adapt(observation))
        observation, reward, terminated, truncated, info = self._env.step(action)
        self._ended = bool(terminated or truncated)
        if not math.isfinite(float(reward)):
            raise TaskFault(self._task, self._suite.names[self._task], f"the reward is {reward}")
        obs = self._adapt(observation)
        self._in_a_row = 0
        return _Result(obs, float(reward), bool(terminated), bool(truncated), bool(info.get("success", False)))

    def replaced(self, fault: Fault) -> _Result:
        """Replaces the environment: at once, or after a rest if the last environments failed before their first step."""
        self.close()
        self._env, self._ended = None, False
        self._replaced += 1
        self._in_a_row += 1
        if self._in_a_row == 1:
            with contextlib.suppress(Exception, SystemExit):  # an environment that cannot start gets a rest below
                return _Result(self._begin(), lost=True, fault=fault)
        self.close()
        self._env = None
        self._resting = min(2 ** (self._in_a_row - 1), LONGEST_REST)
        return self._nothing(fault)

    def close(self) -> None:
        """Closes the environment; errors of a broken one are ignored."""
        if self._env is not None:
            with contextlib.suppress(Exception, SystemExit):
                self._env.close()

    def _begin(self) -> Arrays:
        """Starts a new environment and gives its first observation. No two environments have the same seed, replacements included."""
        self._env = self._suite.tasks[self._task].make_env()
        number = self._seeds.first_number + self._number
        seed = self._seeds.of(self._suite.names[self._task], self._number, self._replaced)
        observation, _ = self._env.reset(seed=seed, options={"number": number})
        return self._adapt(observation)

    def _adapt(self, observation: object) -> Arrays:
        obs = self._suite.adapt(observation)
        for name, space in self._suite.observation_space.items():
            array = obs[name]
            if array.shape != space.shape:
                raise TaskFault(
                    self._task, self._suite.names[self._task], f"the observation {name!r} has shape {array.shape} instead of {space.shape}"
                )
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise TaskFault(self._task, self._suite.names[self._task], f"the observation {name!r} is not finite: {_shown(array)}")
        return obs

    def _nothing(self, fault: Fault | None) -> _Result:
        """An all-zero observation for a place without an environment."""
        space = self._suite.observation_space
        return _Result({name: np.zeros(part.shape or (), part.dtype) for name, part in space.items()}, lost=True, fault=fault)


def _shown(array: np.ndarray) -> str:
    """The values that are not finite, the first few of them, and how many numbers there are."""
    wrong = array[~np.isfinite(array)]
    return f"{', '.join(map(str, wrong[:3].tolist()))}{' …' if len(wrong) > 3 else ''} among {array.size} numbers"
