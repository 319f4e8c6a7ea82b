"""How much faster worker processes step Gymnasium's environments than one process."""

from __future__ import annotations

import time
from typing import NamedTuple

from envs import TaskSuite, make_vector

WARM_UP_STEPS = 2  # of all slots, which do not count


class WorkerSpeed(NamedTuple):
    """Steps per second of random actions in all slots together."""

    slots: int
    workers: int
    in_this_process: float
    in_workers: float


def worker_speed(suite: TaskSuite, slots: int, cores: int, seconds: float) -> WorkerSpeed | None:
    """The speed with one worker for each core beside that of this process; None where there is one core, or where environments cannot be
    in another process.

    Args:
        suite: the tasks, which Gymnasium steps.
        slots: environments that are stepped together, at least one for each task.
        cores: of this machine.
        seconds: about how long this may take.
    """
    slots, workers = max(slots, suite.num_tasks), min(cores, slots)
    if workers < 2:
        return None
    try:
        alone, together = (_steps_per_second(suite, slots, count, seconds / 2) for count in (0, workers))
    except (Exception, SystemExit):  # an environment that fails was reported when it was played alone
        return None
    return WorkerSpeed(slots, workers, alone, together)


def _steps_per_second(suite: TaskSuite, slots: int, workers: int, seconds: float) -> float:
    begin = time.monotonic()
    tasks = make_vector(suite, slots, backend="gymnasium", env_workers=workers)
    try:
        obs, steps, spent = tasks.reset(), -WARM_UP_STEPS, 0.0
        while steps < 1 or time.monotonic() < begin + seconds:
            actions = suite.random_actions(tasks.task_ids, obs)
            start = time.perf_counter()
            obs = tasks.step(actions).obs
            spent = 0.0 if steps < 0 else spent + time.perf_counter() - start
            steps += 1
        return steps * slots / spent
    finally:
        tasks.close()
