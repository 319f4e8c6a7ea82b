"""A place for one Gymnasium environment at a time: steps it, resets it after an episode's end, and replaces it when it fails."""

from __future__ import annotations

import contextlib
import traceback
from dataclasses import dataclass
from typing import NamedTuple

import gymnasium
import numpy as np

from envs.errors import MisfitError, TaskFault
from envs.levels import Level
from envs.observations import MASK
from envs.seeds import SeedSequences
from envs.task import TaskSuite
from envs.vector import Arrays, Fault

LARGEST_REWARD = float(np.finfo(np.float32).max)

LONGEST_REST = 1024  # steps; the longest pause of a place between two environments that fail


class Result(NamedTuple):
    """The result of one step of one environment."""

    obs: Arrays
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    success: bool = False
    lost: bool = False
    fault: Fault | None = None


@dataclass
class History:
    """What has failed at a place."""

    replaced: int = 0  # environments that have failed here
    in_a_row: int = 0  # environments that have failed since the last successful step
    resting: int = 0  # steps until the next environment starts

    def failed(self) -> None:
        """Counts an environment that failed."""
        self.replaced += 1
        self.in_a_row += 1

    @property
    def rest(self) -> int:
        """Steps for which the place rests after failures in a row: 1, 2, 4, …"""
        return min(2 ** (self.in_a_row - 1), LONGEST_REST)


class Place:
    """Holds one of a task's environments at a time; the first one starts with the first attempt.

    A tolerant place replaces an environment that raises an error, or returns values that do not fit the suite. If the new environment
    fails before its first step, the place rests for 1, 2, 4, … steps before the next one starts.

    Args:
        suite: the tasks.
        task: the task's id.
        seeds: of the suite's environments.
        number: of the place among those of the task.
        tolerant: whether an environment that fails is replaced.
        history: what has failed here before; nothing by default.
        level: what it plays; None leaves it to the environment.
    """

    def __init__(
        self,
        suite: TaskSuite,
        task: int,
        seeds: SeedSequences,
        number: int,
        tolerant: bool = False,
        history: History | None = None,
        level: Level | None = None,
    ):
        self.task = task
        self.level = level
        self.history = history or History()
        self._suite = suite
        self._seeds = seeds
        self._number = number
        self._tolerant = tolerant
        self._env: gymnasium.Env | None = None
        self._ended = False

    def attempt(self, action: np.ndarray | None) -> Result:
        """A step or a reset, or the first reset where `action` is None.

        Raises:
            Exception: whatever the environment raised, if the place is not tolerant.
            TaskFault: the environment ended the program, and the place is not tolerant.
        """
        try:
            return self._step(action)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # sys.exit, too: a window that is closed must not end the tasks that have none
            reason = str(error) if isinstance(error, TaskFault | MisfitError) else f"{type(error).__name__}: {error}"
            if not self._tolerant:
                if isinstance(error, MisfitError):
                    raise self._fault(reason) from error
                if isinstance(error, Exception):
                    raise  # here, where a debugger can look at the environment
                raise self._fault(f"its environment ended the program ({reason})") from error
            return self._replaced(Fault(self.task, reason, traceback.format_exc()))

    def close(self) -> None:
        """Closes the environment; errors of a broken one are ignored."""
        if self._env is not None:
            with contextlib.suppress(Exception, SystemExit):
                self._env.close()

    def _step(self, action: np.ndarray | None) -> Result:
        """The result of an action, or of a reset if there is no episode to act in."""
        history = self.history
        if history.resting > 0:
            history.resting -= 1
            if history.resting > 0:
                return self._nothing(None)
        if self._env is None:
            obs = self._begin()
            return Result(obs, lost=history.replaced > 0)
        if self._ended:
            # Without a seed the environment goes on with its stream.
            observation, _ = self._env.reset() if self.level is None else self._reset(self.level.number)
            self._ended = False
            return Result(self._adapt(observation))
        observation, reward, terminated, truncated, info = self._env.step(action)
        self._ended = bool(terminated or truncated)
        if not abs(float(reward)) <= LARGEST_REWARD:
            raise self._fault(f"the reward is {reward}")
        obs = self._adapt(observation)
        history.in_a_row = 0
        return Result(obs, float(reward), bool(terminated), bool(truncated), bool(info.get("success", False)))

    def _replaced(self, fault: Fault) -> Result:
        """Replaces the environment: at once, or after a rest if the last environments failed before their first step."""
        self.close()
        self._env, self._ended = None, False
        self.history.failed()
        if self.history.in_a_row == 1:
            with contextlib.suppress(Exception, SystemExit):  # an environment that cannot start gets a rest below
                return Result(self._begin(), lost=True, fault=fault)
        self.close()
        self._env = None
        self.history.resting = self.history.rest
        return self._nothing(fault)

    def _begin(self) -> Arrays:
        """Starts a new environment and gives its first observation. No two environments have the same seed, replacements included."""
        self._env = self._suite.tasks[self.task].make_env()
        own = self._seeds.of(self._suite.names[self.task], self._number, self.history.replaced)
        observation, _ = self._reset(own if self.level is None else self.level.number)
        return self._adapt(observation)

    def _reset(self, seed: int) -> tuple[object, object]:
        """A reset with a seed, and with the options that our own environments read."""
        assert self._env is not None
        options = {"number": self._seeds.first_number + self._number}
        return self._env.reset(seed=seed, options=options if self.level is None else {**options, "level": self.level})

    def _adapt(self, observation: object) -> Arrays:
        obs = self._suite.adapt(observation)
        for name, space in self._suite.observation_space.items():
            array = obs[name]
            if array.shape != space.shape:
                raise self._fault(f"the observation {name!r} has shape {array.shape} instead of {space.shape}")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise self._fault(f"the observation {name!r} is not finite: {_shown(array)}")
        return obs

    def _fault(self, reason: str) -> TaskFault:
        return TaskFault(self.task, self._suite.names[self.task], reason)

    def _nothing(self, fault: Fault | None) -> Result:
        """An all-zero observation for a place without an environment, where all actions are allowed."""
        obs = {name: np.zeros(part.shape or (), part.dtype) for name, part in self._suite.observation_space.items()}
        for name, array in obs.items():
            if name.rpartition(".")[2] == MASK:
                array[...] = 1
        return Result(obs, lost=True, fault=fault)


def _shown(array: np.ndarray) -> str:
    """The values that are not finite, the first few of them, and how many numbers there are."""
    wrong = array[~np.isfinite(array)]
    return f"{', '.join(map(str, wrong[:3].tolist()))}{' …' if len(wrong) > 3 else ''} among {array.size} numbers"
