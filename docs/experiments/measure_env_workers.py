"""Speed of slow Python environments with and without workers: `python docs/experiments/measure_env_workers.py [WORKERS [MILLISECONDS]]`.

Steps SLOTS environments in the plain loop and on WORKERS processes (one for each core by default), in turns, ROUNDS times each. In one
kind of environment a step computes for so many milliseconds (5 by default), in the other it waits. Prints steps per second with the load
of the machine, and the time that the parent computes for one step of all slots, which hardly depends on the load. Exit code 1 if the median
ratio of a kind is below BAR, which holds for two workers on two free cores.
"""

from __future__ import annotations

import functools
import os
import statistics
import sys
import time
from typing import Any

import gymnasium
import numpy as np

from envs import Task, TaskSuite, make_vector
from mtrl.machine import usable_cores, whole_cores

SLOTS = 16
ROUNDS = 3
SECONDS = 5.0  # of stepping in one round
BAR = 1.8
OBSERVATIONS = gymnasium.spaces.Dict({"vector": gymnasium.spaces.Box(0, 1, (8,), np.float32)})


class Slow(gymnasium.Env[dict[str, np.ndarray], int]):
    """A step takes `seconds` of a core's time, or of the clock's if it waits."""

    observation_space, action_space = OBSERVATIONS, gymnasium.spaces.Discrete(2)

    def __init__(self, seconds: float, waits: bool):
        self._seconds, self._waits = seconds, waits

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Zeros."""
        return {"vector": np.zeros(8, np.float32)}, {}

    def step(self, action: int) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Computes or waits."""
        if self._waits:
            time.sleep(self._seconds)
        else:
            end = time.thread_time() + self._seconds
            while time.thread_time() < end:
                pass
        return {"vector": np.zeros(8, np.float32)}, 0.0, False, False, {}


def stepping(suite: TaskSuite, workers: int) -> tuple[float, float]:
    """Steps per second of all slots together, and seconds that this process computes for one step of all slots."""
    tasks = make_vector(suite, SLOTS, env_workers=workers)
    actions = np.zeros(SLOTS, np.int64)
    tasks.reset()
    tasks.step(actions)
    steps, begin, computed = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - begin < SECONDS:
        tasks.step(actions)
        steps += 1
    rate, own = steps * SLOTS / (time.perf_counter() - begin), (time.process_time() - computed) / steps
    tasks.close()
    return rate, own


def main(workers: int, milliseconds: float) -> int:
    """Returns the exit code."""
    print(f"{SLOTS} environments, {milliseconds:g} ms a step, {workers} workers, {usable_cores():g} cores", flush=True)
    below = False
    for kind, waits in (("computes", False), ("waits", True)):
        make_env = functools.partial(Slow, milliseconds * 1e-3, waits)
        suite = TaskSuite(f"a step that {kind}", (Task(kind, make_env),), OBSERVATIONS, Slow.action_space, dict)
        ratios = []
        for _ in range(ROUNDS):
            load = os.getloadavg()[0]
            (loop, _), (shared, own) = stepping(suite, 0), stepping(suite, workers)
            ratios.append(shared / loop)
            print(
                f"{suite.name:20} loop {loop:7.1f}/s, workers {shared:7.1f}/s: {shared / loop:.2f} times; the parent computes "
                f"{own * 1e3:.2f} ms; load {load:.1f}",
                flush=True,
            )
        median = statistics.median(ratios)
        print(f"{suite.name:20} {median:.2f} times ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)
        below |= median < BAR
    return int(below)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else whole_cores(), float(sys.argv[2]) if len(sys.argv) > 2 else 5.0))
