"""Whether Gymnasium's environments are stepped in this process or by workers, by how long a step takes."""

from __future__ import annotations

import bdb
import contextlib
import copy
import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal

import numpy as np

from envs.actions import random_action
from envs.backends.gymnasium import GymnasiumBackend
from envs.backends.worker import Setup
from envs.backends.workers import WorkerBackend, packed, python
from envs.errors import SuiteError
from envs.observations import MASK
from envs.seeds import SeedSequences
from envs.task import Task, TaskSuite
from envs.vector import Backend

SLOW_SECONDS = 0.3e-3  # of a step, from which on an exchange with workers, 0.1 ms or two, is worth it
STEPS = 10  # of which the median is taken
WARM_UP_STEPS = 2  # that do not count: libraries are loaded, functions are compiled
TASK_SECONDS = 0.5  # for the steps of one task
ALL_SECONDS = 5.0  # for all tasks; those that come later are not measured
ELSEWHERE_SECONDS = 60.0  # for another process to measure
MEASURE = "from envs.backends.choice import tell_slow_task; tell_slow_task()"


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


def gymnasium_backend(suite: TaskSuite, seeds: SeedSequences, tolerant: bool, workers: Workers) -> Backend:
    """The plain loop, or workers with the same results.

    Raises:
        SuiteError: a number of workers is wanted, and the suite cannot be used in another process.
    """
    count = min(workers.cores if workers.wanted == "auto" else workers.wanted, workers.slots)
    if workers.wanted == "auto":
        # A debugger that traces this process would miss what happens in others.
        measure = slow_task_elsewhere if tolerant else slow_task
        slow = measure(suite) if count > 1 and sys.gettrace() is None else None
        if slow is None:
            return GymnasiumBackend(suite, seeds, tolerant)
        because = f"{slow}: "
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


def slow_task(suite: TaskSuite) -> str | None:
    """The words for the first task with a step slower than `SLOW_SECONDS`, measured in an environment of its own; None if there is none.

    One slow task is enough: a step of all slots waits for it.
    """
    end = time.monotonic() + ALL_SECONDS
    with _noticing_debuggers() as debuggers:
        for task in suite.tasks:
            if time.monotonic() > end:
                break
            seconds = _step_seconds(task, suite)
            if debuggers:  # somebody reads variables at a prompt, which a worker process does not have
                return None
            if seconds > SLOW_SECONDS:
                return f"a step of {task.name} takes {seconds * 1e3:.1f} ms"
    return None


def slow_task_elsewhere(suite: TaskSuite) -> str | None:
    """The same in another process, which an environment may take along; such an environment belongs in a worker, however fast it is."""
    try:
        data = packed(suite, SeedSequences(0, 0, 0), True)
    except Exception:  # something in the suite cannot leave this process
        return None
    try:
        done = subprocess.run(python(MEASURE), input=data, stdout=subprocess.PIPE, timeout=ELSEWHERE_SECONDS)
    except subprocess.TimeoutExpired:
        return f"steps were not measured within {ELSEWHERE_SECONDS:.0f} s"
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return "an environment ended the process that measured its steps"


def tell_slow_task() -> None:
    """Reads what `packed` has made from the standard input, and prints the slow task as JSON on the last line."""
    setup: Setup = pickle.loads(sys.stdin.buffer.read()).fn
    setup.register()
    print(f"\n{json.dumps(slow_task(setup.suite))}", flush=True)


@contextlib.contextmanager
def _noticing_debuggers() -> Iterator[list[str]]:
    """Gives a list that gets an entry for each `breakpoint()` or `set_trace()` of Python's debuggers in the block."""
    entered: list[str] = []
    original: Any = bdb.Bdb.set_trace

    def set_trace(self: bdb.Bdb, frame: FrameType | None = None) -> None:
        entered.append(type(self).__name__)
        original(self, frame or sys._getframe().f_back)

    bdb.Bdb.set_trace = set_trace  # type: ignore[method-assign]
    try:
        yield entered
    finally:
        bdb.Bdb.set_trace = original  # type: ignore[method-assign]


def _step_seconds(task: Task, suite: TaskSuite) -> float:
    """The median time of a step; 0 for an environment that fails, which the run will find out as well."""
    space = copy.deepcopy(suite.action_space)  # which draws from a stream of its own
    space.seed(0)
    times: list[float] = []
    try:
        env = task.make_env()
        try:
            arrays = suite.adapt(env.reset(seed=0, options={"number": 0})[0])
            end = time.monotonic() + TASK_SECONDS
            while len(times) < WARM_UP_STEPS + STEPS and (len(times) <= WARM_UP_STEPS or time.monotonic() < end):
                action = random_action(space, arrays.get(MASK))
                before = time.perf_counter()
                observation, _, terminated, truncated, _ = env.step(action)
                arrays = suite.adapt(observation)
                times.append(time.perf_counter() - before)
                if terminated or truncated:
                    arrays = suite.adapt(env.reset()[0])
        finally:
            env.close()
    except KeyboardInterrupt:
        raise
    except BaseException:  # an environment may call sys.exit
        return 0.0
    return float(np.median(times[WARM_UP_STEPS:]))
