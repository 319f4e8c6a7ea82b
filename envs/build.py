"""Builds the environments of a runner's slots, and chooses the backend that steps each task."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from envs.backends.choice import Workers, gymnasium_backend
from envs.backends.joined import JoinedBackend
from envs.errors import SuiteError
from envs.levels import LevelSource
from envs.mixed import MixedSuite
from envs.seeds import SeedSequences
from envs.slots import SlotTable, check_counts
from envs.task import BackendName, TaskSuite
from envs.vector import Backend, VectorTasks


def make_vector(
    suite: TaskSuite,
    counts: int | Sequence[int] | np.ndarray,
    backend: BackendName | Literal["auto"] = "auto",
    seed: int = 0,
    runner_index: int = 0,
    num_threads: int = 1,
    restart_count: int = 0,
    first_number: int = 0,
    tolerant: bool = False,
    env_workers: int | Literal["auto"] = 0,
    cores: int = 1,
    say: Callable[[str], None] = lambda sentence: None,
    levels: LevelSource | None = None,
    least_seed: int = 0,
) -> VectorTasks:
    """Environments for `counts` slots.

    Args:
        suite: the tasks.
        counts: slots of each task [num_tasks]; or their sum, which is spread evenly over the tasks.
        backend: the library that steps the environments; `auto` takes for each task the fastest library that has it.
        seed: the run's seed.
        runner_index: the number of the runner; no two runners share a stream of random numbers.
        num_threads: threads that step environments (EnvPool).
        restart_count: how often the runner was started again; a restart does not repeat the streams of an earlier start.
        first_number: the number of each task's first environment; seeds depend on these numbers.
        tolerant: replace an environment that fails and go on. Gymnasium only: EnvPool cannot replace a single environment.
        env_workers: processes that step Gymnasium's environments, with the same results as this process, which steps them at 0; `auto`
            takes one for each of `cores` if a step is slow.
        cores: cores that are free while environments are stepped.
        say: told, in a sentence, which workers step what.
        levels: says which level each episode is played on, which Gymnasium steps; None leaves it to the environments.
        least_seed: the smallest seed of an environment. Smaller seeds are the levels that a policy was trained on.

    Raises:
        SuiteError: the backend does not have these tasks or cannot be told their levels, its package is missing, or `counts` does not fit
            the suite.
    """
    if isinstance(counts, int | np.integer):
        counts = [counts // suite.num_tasks + (task < counts % suite.num_tasks) for task in range(suite.num_tasks)]
    checked = check_counts(counts, suite)
    seeds = SeedSequences(seed, runner_index, restart_count, first_number, least_seed)
    workers = Workers(env_workers, cores, int(checked.sum()), say)
    if levels is not None:
        if backend == "envpool":
            raise SuiteError(f"EnvPool chooses the levels of {suite.name} itself; set suite.backend to auto or gymnasium")
        backend = "gymnasium"
    return SlotTable(suite, build_backend(suite, backend, seeds, num_threads, tolerant, workers), checked, levels)


def step_once(suite: TaskSuite, backend: BackendName) -> None:
    """Steps one environment of every task of a suite; raises whatever goes wrong."""
    tasks = make_vector(suite, [1] * suite.num_tasks, backend=backend)
    tasks.step(suite.random_actions(tasks.task_ids, tasks.reset()))
    tasks.close()


def build_backend(
    suite: TaskSuite,
    backend: BackendName | Literal["auto"],
    seeds: SeedSequences,
    num_threads: int,
    tolerant: bool,
    workers: Workers | None = None,
) -> Backend:
    """The backend of a suite's environments; the arguments are those of `make_vector`, and the workers of its environments.

    Raises:
        SuiteError: the backend does not have these tasks, or its package is missing.
    """
    workers = workers or Workers()
    if isinstance(suite, MixedSuite):
        return JoinedBackend(
            [build_backend(part, backend, seeds, num_threads, tolerant, workers) for part in suite.parts],
            [part.num_tasks for part in suite.parts],
            suite.gather,
            suite.actions_of,
        )
    if backend == "auto" and any(task.envpool_id for task in suite.tasks) and "envpool" not in suite.backends:
        return _fastest_for_each(suite, seeds, num_threads, tolerant, workers)
    chosen = suite.backends[0] if backend == "auto" else backend
    if chosen not in suite.backends:
        missing = [task.name for task in suite.tasks if not task.envpool_id]
        raise SuiteError(f"{suite.name} cannot run on {chosen}, which lacks {', '.join(missing)}; use {' or '.join(suite.backends)}")
    if chosen == "envpool":
        from envs.backends.envpool import EnvPoolBackend

        return EnvPoolBackend(suite, seeds, num_threads)
    return gymnasium_backend(suite, seeds, tolerant, workers)


def _fastest_for_each(suite: TaskSuite, seeds: SeedSequences, num_threads: int, tolerant: bool, workers: Workers) -> JoinedBackend:
    """EnvPool for the tasks that it has, and Gymnasium for the others."""
    runs = [tuple(run) for _, run in itertools.groupby(suite.tasks, key=lambda task: task.envpool_id is not None)]
    backends = [build_backend(dataclasses.replace(suite, tasks=run), "auto", seeds, num_threads, tolerant, workers) for run in runs]
    return JoinedBackend(backends, [len(run) for run in runs])
