"""EnvPool behind the vector protocol: C++ environments, one pool for each task.

A pool steps any subset of its environments and leaves the others as they are: pausing needs nothing else. All pools get their actions
before the first result is waited for, so that their threads work at the same time.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from envs.envpool_package import load, module_of
from envs.errors import SuiteError
from envs.seeds import SeedSequences
from envs.task import Task, TaskSuite
from envs.vector import Arrays, BackendStep

SUCCESS = ("success", "is_success", "solved")
"""Names under which EnvPool's environments report success in `info`."""

FORKING = ("envpool.vizdoom",)
"""Modules with environments that are programs of their own: EnvPool's threads fork, several at the same time."""
GAME_FOLDER = Path("_vizdoom")


class EnvPoolBackend:
    """Pools of environments. Growing a task adds a pool, since a pool's size is fixed."""

    def __init__(self, suite: TaskSuite, seeds: SeedSequences, num_threads: int):
        self._suite = suite
        self._seeds = seeds
        self._num_threads = num_threads
        self._pools: list[list[_Pool]] = [[] for _ in suite.tasks]
        self._plan: list[tuple[_Pool, int]] = []  # pools to step and how many environments of each, for the newest counts
        self._planned = np.empty(0, np.int64)
        self.marker = np.full(1, -1, np.int64)

    def grow(self, task: int, count: int) -> Arrays:
        """Adds a pool of `count` environments and gives their first observations."""
        pools = self._pools[task]
        existing = sum(pool.size for pool in pools)
        spec = self._suite.tasks[task]
        seeds = [self._seeds.of(spec.name, existing + i) for i in range(count)]
        pool = _Pool(task, spec, seeds, self._num_threads)
        pools.append(pool)
        self._planned = np.empty(0, np.int64)
        return self._suite.adapt(pool.reset())

    def step(self, counts: np.ndarray, actions: np.ndarray) -> BackendStep:
        """Steps the first `counts[task]` environments of each task; an environment whose episode has ended resets itself."""
        self.send(counts, actions)
        return self.receive()

    def send(self, counts: np.ndarray, actions: np.ndarray) -> None:
        """Starts the step, the result of which `receive` waits for."""
        if not np.array_equal(counts, self._planned):
            self._make_plan(counts)
        actions = actions.astype(np.int32) if actions.dtype.kind in "iu" else actions
        start = 0
        for pool, count in self._plan:
            pool.send(actions[start : start + count], count)
            start += count

    def receive(self) -> BackendStep:
        """The result of the step that `send` has started."""
        results = []
        for pool, count in self._plan:
            self.marker[0] = pool.task
            results.append(pool.receive(count))
        self.marker[0] = -1
        observations = [self._suite.adapt(result[0]) for result in results]
        if len(results) == 1:
            (obs,), (_, rewards, terminated, truncated, success) = observations, results[0]
        else:
            obs = {name: np.concatenate([observation[name] for observation in observations]) for name in observations[0]}
            rewards, terminated, truncated, success = (np.concatenate([result[i] for result in results]) for i in (1, 2, 3, 4))
        return BackendStep(obs, rewards.astype(np.float32, copy=False), terminated, truncated, success, np.zeros(len(rewards), bool), [])

    def close(self) -> None:
        """Closes every pool."""
        for pools in self._pools:
            for pool in pools:
                pool.close()

    def _make_plan(self, counts: np.ndarray) -> None:
        self._plan = []
        for pools, count in zip(self._pools, counts.tolist(), strict=True):
            for pool in pools:
                taken = min(count, pool.size)
                if taken:
                    self._plan.append((pool, taken))
                count -= taken
        self._planned = counts.copy()


class _Pool:
    """One EnvPool of one task."""

    def __init__(self, number: int, task: Task, seeds: list[int], num_threads: int):
        self.task = number
        self.size = len(seeds)
        self._to_pool = task.envpool_actions
        self._pool = make_pool(str(task.envpool_id), seeds, num_threads=min(num_threads, self.size), **task.envpool_options)
        self._ids = np.arange(self.size, dtype=np.int32)

    def reset(self) -> object:
        """First observations."""
        obs, info = self._pool.reset()
        return _sorted(obs, np.argsort(info["env_id"]))

    def send(self, actions: np.ndarray, count: int) -> None:
        """Starts a step of the first `count` environments."""
        self._pool.send(actions if self._to_pool is None else self._to_pool(actions), self._ids[:count])

    def receive(self, count: int) -> tuple[object, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Observations, rewards, terminated, truncated and success of the step, in the order of the environments."""
        obs, rewards, terminated, truncated, info = self._pool.recv(reset=False, return_info=True)
        success = succeeded(info, count)
        ids = info["env_id"]
        if (ids[1:] > ids[:-1]).all():
            return obs, rewards, terminated, truncated, success
        order = np.argsort(ids)
        return _sorted(obs, order), rewards[order], terminated[order], truncated[order], success[order]

    def close(self) -> None:
        """Stops its threads."""
        self._pool.close()


def make_pool(envpool_id: str, seeds: list[int], **options: Any) -> Any:
    """EnvPool's environments of one id, one for each seed, by Gymnasium's rules.

    Raises:
        SuiteError: EnvPool, or what the environment needs besides, is not installed.
    """
    package = load(envpool_id)
    if module_of(envpool_id) in FORKING:
        _make_game_folder()
        _stop_blas_threads()
    return package.make(envpool_id, env_type="gymnasium", num_envs=len(seeds), seed=seeds, **options)


def _make_game_folder() -> None:
    """Makes the folder that each game of ViZDoom looks for and makes in the current directory. Of two games that start at the same time
    and do not find it, one ends because the other has made it, and EnvPool then ends this process with a segmentation fault.
    """
    try:
        GAME_FOLDER.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise SuiteError(f"ViZDoom writes to the current directory, and {Path.cwd()} cannot be written: {error.strerror}") from None


def _stop_blas_threads() -> None:
    """Forks once. Before a fork OpenBLAS (of NumPy and of SciPy) stops its own threads and waits for their end, and it starts them again
    with the next large product. Two threads that fork at the same time wait for the same thread, and one of them waits for ever. After
    this fork, OpenBLAS has no thread that they could wait for.
    """
    with warnings.catch_warnings(action="ignore"):  # Python's, that a fork copies one thread alone: the child ends at once
        child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def succeeded(info: Mapping[str, Any], count: int) -> np.ndarray:
    """Whether `info` says of each of `count` environments that it has succeeded, [count] bool."""
    key = next((key for key in SUCCESS if key in info), None)
    return np.zeros(count, bool) if key is None else np.asarray(info[key]).astype(bool)


def _sorted(obs: Any, order: np.ndarray) -> Any:
    return {name: _sorted(part, order) for name, part in obs.items()} if isinstance(obs, dict) else obs[order]
