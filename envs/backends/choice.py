"""Whether Gymnasium's environments are stepped in this process or by workers, by how long a step takes."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from envs.backends.gymnasium import GymnasiumBackend
from envs.backends.workers import WorkerBackend
from envs.errors import SuiteError
from envs.seeds import SeedSequences
from envs.task import Task, TaskSuite
from envs.vector import Backend

SLOW_SECONDS = 0.3e-3  # of a step, from which on an exchange with workers, 0.1 ms or two, is worth it
STEPS = 10  # of which the median is taken
WARM_UP_STEPS = 2  # that do not count: libraries are loaded, functions are compiled
TASK_SECONDS = 0.5  # for the steps of one task
ALL_SECONDS = 5.0  # for all tasks; those that come later are not measured


@dataclass(frozen=True)
class Workers:
    """The processes that may step environments."""

    wanted: int | Literal["auto"] = 0
    """`auto` takes one for each core where a step is slow; 0 steps in this process."""
    cores: int = 1
    """Cores that are free while environments are stepped."""
    slots: int = 1
    """Environments that are stepped together."""
    say: Callable[[str], None] = lambda sentence: None
    """Told what was chosen."""


class Measured(NamedTuple):
    """How long a task's steps take."""

    task: str
    seconds: float  # median


def gymnasium_backend(suite: TaskSuite, seeds: SeedSequences, tolerant: bool, workers: Workers) -> Backend:
    """The plain loop, or workers with the same results.

    Raises:
        SuiteError: a number of workers is wanted, and the suite cannot be used in another process.
    """
    count = min(workers.cores if workers.wanted == "auto" else workers.wanted, workers.slots)
    if workers.wanted == "auto":
        # A debugger that traces this process would miss what happens in others.
        slow = slow_task(suite) if count > 1 and sys.gettrace() is None else None
        if slow is None:
            return GymnasiumBackend(suite, seeds, tolerant)
        because = f"a step of {slow.task} takes {slow.seconds * 1e3:.1f} ms: "
    elif count > 0:
        because = ""
    else:
        return GymnasiumBackend(suite, seeds, tolerant)
    begin = time.monotonic()
    try:
        backend = WorkerBackend(suite, seeds, count, tolerant)
    except SuiteError as error:
        if workers.wanted != "auto":
            raise
        workers.say(f"{because}this process steps {suite.name}, because {error}")
        return GymnasiumBackend(suite, seeds, tolerant)
    processes = "1 worker process steps" if count == 1 else f"{count} worker processes step"
    environments = "1 environment" if workers.slots == 1 else f"{workers.slots} environments"
    workers.say(f"{because}{processes} {environments} (started in {time.monotonic() - begin:.1f} s)")
    return backend


def slow_task(suite: TaskSuite) -> Measured | None:
    """The first task with a step slower than `SLOW_SECONDS`, measured in an environment of its own; None if there is none.

    One slow task is enough: a step of all slots waits for it.
    """
    end = time.monotonic() + ALL_SECONDS
    for task in suite.tasks:
        if time.monotonic() > end:
            break
        seconds = _step_seconds(task, suite)
        if seconds > SLOW_SECONDS:
            return Measured(task.name, seconds)
    return None


def _step_seconds(task: Task, suite: TaskSuite) -> float:
    """The median time of a step; 0 for an environment that fails, which the run will find out as well."""
    space = copy.deepcopy(suite.action_space)  # which draws from a stream of its own
    space.seed(0)
    times: list[float] = []
    try:
        env = task.make_env()
        try:
            env.reset(seed=0, options={"number": 0})
            end = time.monotonic() + TASK_SECONDS
            while len(times) < WARM_UP_STEPS + STEPS and (len(times) <= WARM_UP_STEPS or time.monotonic() < end):
                action = space.sample()
                before = time.perf_counter()
                observation, _, terminated, truncated, _ = env.step(action)
                suite.adapt(observation)
                times.append(time.perf_counter() - before)
                if terminated or truncated:
                    env.reset()
        finally:
            env.close()
    except KeyboardInterrupt:
        raise
    except BaseException:  # an environment may call sys.exit
        return 0.0
    return float(np.median(times[WARM_UP_STEPS:]))
