"""Random actions in one environment, with a look at everything that it returns."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np

from envs.actions import random_action
from envs.inspection.findings import Defect, Inspection, PlayedEpisode, Rewards, raised
from envs.observations import MASK
from envs.task import TaskSuite
from envs.vector import Arrays

LONGEST_EPISODE = 30_000  # steps; evaluations cut an episode off there, too
SEEDED_STEPS = 50  # that are played twice under one seed
AUTORESET_KEYS = ("final_obs", "final_observation", "terminal_observation")  # in the info of environments that reset themselves


class _FatalError(Exception):
    """An observation or a reward that no training could use."""


class RandomPlayer:
    """Plays random actions in an environment and looks at everything that it returns."""

    def __init__(self, suite: TaskSuite, task_id: int, env: gymnasium.Env[Any, Any], found: Inspection):
        self._suite, self._task, self._env, self._found = suite, task_id, env, found
        self._space = copy.deepcopy(suite.action_space)  # its own draws
        self._mask: np.ndarray | None = None  # of the newest observation
        self._number = self._step = 0  # of the episode, from 1, and of the step in it
        self._noted: set[str] = set()  # kinds of defects that are reported once
        self._seconds = 0.0
        self._rewards: list[float] = []
        self._squares: dict[str, np.ndarray] = {}
        self._looks = 0
        self.firsts: set[bytes] = set()
        self.finals: list[bytes] = []
        self.others = False  # whether an observation differs from all that episodes began with

    def play(self, episodes: int, seed: int, until: float) -> None:
        """Plays episodes, at least one step."""
        self._space.seed(seed)
        with self._fatal_noted():
            observation = self._reset(seed)
            self.firsts.add(_fingerprint(observation))
            while len(self._found.episodes) < episodes and not self._episode(until):
                self.firsts.add(_fingerprint(self._reset(None)))
        self._sum_up()

    def check_seed(self, seed: int, until: float) -> None:
        """Compares two trajectories under one seed."""
        with self._fatal_noted():
            first, second = (list(self._trajectory(seed, until)) for _ in range(2))
            for step, (one, other) in enumerate(zip(first, second, strict=False)):
                difference = _difference(one, other)
                if difference is not None:
                    where = "the first observations differ" if step == 0 else f"step {step} differs"
                    self._found.repeats = False
                    self._note("seed", f"the same seed does not give the same episode: {where}: {difference}; let reset pass its seed on")
                    return
            self._found.repeats = True if first and second else None

    def _episode(self, until: float) -> bool:
        """Plays one episode to its end; whether it was cut off."""
        total, success = 0.0, False
        while True:
            if self._step >= LONGEST_EPISODE or (time.monotonic() > until and self._step > 0):
                self._found.unfinished_steps = self._step
                return True
            start = time.perf_counter()
            observation, reward, terminated, truncated, info = self._act(random_action(self._space, self._mask))
            self._seconds += time.perf_counter() - start
            arrays = self._look(observation)
            self._measure(arrays, reward)
            total, success = total + reward, success or bool(info.get("success", False))
            print_of = _fingerprint(arrays)
            self.others = self.others or print_of not in self.firsts
            if terminated or truncated:
                self.finals.append(print_of)
                self._check_info(info)
                succeeded = success or self._suite.tasks[self._task].succeeded(total)
                self._found.episodes.append(PlayedEpisode(total, self._step, terminated, succeeded))
                return False

    def _trajectory(self, seed: int, until: float) -> Iterator[tuple[Arrays, float, bool, bool]]:
        """Observations, rewards and ends; an episode that ends is followed by the next one, without a seed."""
        self._space.seed(seed)
        yield self._reset(seed), 0.0, False, False
        ended = False
        for _ in range(SEEDED_STEPS):
            if time.monotonic() > until:
                return
            if ended:
                yield self._reset(None), 0.0, False, False
            observation, reward, terminated, truncated, _ = self._act(random_action(self._space, self._mask))
            ended = terminated or truncated
            yield _copied(self._look(observation)), reward, terminated, truncated

    def _reset(self, seed: int | None) -> Arrays:
        self._number, self._step = self._number + 1, 0
        # Only the first reset has options, as in a training.
        observation, _ = self._env.reset() if seed is None else self._env.reset(seed=seed, options={"number": 0})
        return _copied(self._look(observation))

    def _act(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._step += 1
        observation, reward, terminated, truncated, info = self._env.step(self._suite.act(self._task, action))
        reward = float(reward)
        if not math.isfinite(reward):
            raise _FatalError(f"the reward is {reward}")
        return observation, reward, bool(terminated), bool(truncated), info or {}

    def _look(self, observation: Any) -> Arrays:
        """The arrays of an observation, compared with the space that it belongs to.

        Raises:
            _FatalError: no training could use it.
        """
        arrays = {name: np.asarray(array) for name, array in self._suite.observe(self._task, observation).items()}
        for name, space in self._suite.observation_space.items():
            array = arrays[name]
            if array.shape != space.shape:
                raise _FatalError(f"the observation {name!r} has shape {array.shape} instead of {space.shape}")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise _FatalError(f"the observation {_place(name, array, ~np.isfinite(array))}")
            if isinstance(space, gymnasium.spaces.Box):
                outside = (array < space.low) | (array > space.high)
                if outside.any():
                    index = tuple(np.argwhere(outside)[0])
                    bounds = f"{space.low[index]:g} to {space.high[index]:g}"
                    self._note(f"bounds {name}", f"{self._where()}: the observation {_place(name, array, outside)}, outside of {bounds}")
        self._mask = arrays.get(MASK)
        return arrays

    def _measure(self, arrays: Arrays, reward: float) -> None:
        self._rewards.append(reward)
        self._looks += 1
        for name, array in arrays.items():
            if array.dtype.kind == "f" and array.ndim == 1:
                self._squares[name] = self._squares.get(name, 0.0) + np.square(array.astype(np.float64))

    def _check_info(self, info: dict[str, Any]) -> None:
        present = [key for key in AUTORESET_KEYS if key in info]
        if present:
            self._note(
                "autoreset",
                f"{self._where()}: the environment resets itself (its info has {present[0]!r}), so that the observation of that step is "
                "the next episode's first one; leave resets to the trainer",
            )

    def _sum_up(self) -> None:
        found, rewards = self._found, np.array(self._rewards)
        found.steps = len(rewards)
        if len(rewards):
            found.steps_per_second = len(rewards) / max(self._seconds, 1e-9)
            root = float(np.sqrt(np.mean(np.square(rewards))))
            found.rewards = Rewards(float(rewards.min()), float(rewards.max()), root, float(np.mean(rewards != 0)))
            found.sizes = {name: np.sqrt(squares / self._looks) for name, squares in self._squares.items()}

    def _note(self, kind: str, text: str) -> None:
        """A defect that does not keep anybody from training, once for each kind."""
        if kind not in self._noted:
            self._noted.add(kind)
            self._found.defects.append(Defect(False, text))

    @contextlib.contextmanager
    def _fatal_noted(self) -> Iterator[None]:
        try:
            yield
        except _FatalError as error:
            self._found.defects.append(Defect(True, f"{self._where()}: {error}"))
        except (Exception, SystemExit) as error:
            self._found.defects.append(raised(self._where(), error))

    def _where(self) -> str:
        return f"reset {self._number}" if self._step == 0 else f"step {self._step} of episode {self._number}"


def _copied(arrays: Arrays) -> Arrays:
    """For environments that write all of their observations into one array."""
    return {name: array.copy() for name, array in arrays.items()}


def _fingerprint(arrays: Arrays) -> bytes:
    return b"".join(np.ascontiguousarray(arrays[name]).tobytes() for name in sorted(arrays))


def _place(name: str, array: np.ndarray, wrong: np.ndarray) -> str:
    """The first wrong number of an array, with its place: `'vector'[3] is nan`."""
    index = tuple(int(each) for each in np.argwhere(wrong)[0])
    return f"{name!r}[{', '.join(map(str, index))}] is {array[index]:g}" if index else f"{name!r} is {array[index]:g}"


def _difference(one: tuple[Arrays, float, bool, bool], other: tuple[Arrays, float, bool, bool]) -> str | None:
    """The first difference of two steps, in words; None if there is none."""
    for name, array in one[0].items():
        unequal = array != other[0][name]
        if unequal.any():
            index = tuple(np.argwhere(unequal)[0])
            return f"the observation {_place(name, array, unequal)} and then {other[0][name][index]:g}"
    for what, before, after in zip(("reward", "terminated", "truncated"), one[1:], other[1:], strict=True):
        if before != after:
            return f"{what} is {before} and then {after}"
    return None
