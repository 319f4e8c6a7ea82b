"""Whether every family of suites can be trained on: `python docs/experiments/measure_families.py [--frames 2000] [--every] [FAMILY…]`.

Trains one policy on three tasks of each family in this process, the first, the middle and the last of those that `suites --count` counts,
and prints frames per second and what happened. With `--every`, each single task is started and stepped eight times instead. Exits with 1 if
anything failed. A simulator that ends the process ends this one, too; the family's name is the last line then.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings

import numpy as np

from envs import make_suite, make_vector
from envs.registry import FAMILIES, tasks_of
from mtrl.config import ExperimentConfig, override
from mtrl.rollouts.source import InProcessSource
from mtrl.training.trainer import Trainer

STEPS = 8
SETTINGS = {
    "env_runners.num_env_runners": 0,
    "env_runners.slots": 6,
    "env_runners.unroll_length": 20,
    "learner.device": "cpu",
    "model.experts": 2,
}


def some(tasks: list[str]) -> str:
    """The suite of the first, the middle and the last task, of those with the options of the first."""
    option = tasks[0].partition("?")[2]
    alike = [task for task in tasks if task.partition("?")[2] == option]
    chosen = list(dict.fromkeys(alike[place] for place in (0, len(alike) // 2, -1)))
    if chosen[0].startswith("context/"):
        return "+".join(chosen)
    family = chosen[0].partition("/")[0]
    return f"{family}/{','.join(task.partition('/')[2].partition('?')[0] for task in chosen)}" + (f"?{option}" if option else "")


def train(suite: str, frames: int) -> tuple[float, int]:
    """Frames per second, without the start, and episodes.

    Raises:
        FloatingPointError: a metric is not finite.
    """
    config = override(ExperimentConfig(), SETTINGS | {"suite.name": suite, "total_frames": frames})
    tasks = make_suite(suite)
    trainer = Trainer(config, tasks, InProcessSource(config, tasks))
    try:
        trainer.step()
        begun, first = time.perf_counter(), trainer.frames
        while trainer.frames < frames:
            trainer.step()
        seconds = time.perf_counter() - begun
        wrong = [name for name, value in trainer.metrics().items() if not np.isfinite(value)]
        if wrong:
            raise FloatingPointError(f"not finite: {', '.join(wrong)}")
        return (trainer.frames - first) / seconds, int(trainer.statistics.episodes.sum())
    finally:
        trainer.close()


def step(task: str) -> None:
    """Starts one environment of a suite of one task and takes some steps; raises whatever goes wrong."""
    suite = make_suite(task)
    tasks = make_vector(suite, 1)
    try:
        obs = tasks.reset()
        for _ in range(STEPS):
            obs = tasks.step(suite.random_actions(tasks.task_ids, obs)).obs
        for name, space in suite.observation_space.items():
            if obs[name][0].shape != space.shape or obs[name].dtype != space.dtype:
                raise ValueError(f"{name} is {obs[name].dtype} {obs[name][0].shape}, but its space is {space}")
    finally:
        tasks.close()


def outcome(family: str, tasks: list[str], frames: int, every: bool) -> tuple[str, bool]:
    """A line of the table after the family's name, and whether anything failed."""
    failed = []
    begun = time.perf_counter()
    if every:
        for task in tasks:
            try:
                step(task)
            except Exception as error:
                failed.append(f"{task}: {type(error).__name__}: {error}")
        return f"{len(tasks):6} {time.perf_counter() - begun:8.0f} s  {'; '.join(failed) or 'all stepped'}", bool(failed)
    suite = some(tasks)
    try:
        rate, episodes = train(suite, frames)
    except Exception as error:
        return f"{len(tasks):6}        –    {suite}: {type(error).__name__}: {error}", True
    return f"{len(tasks):6} {rate:8.0f} /s  {suite}: trained, {episodes} episodes", False


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--every", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    failures = 0
    for family in arguments.families:
        print(f"{family:12}", end="", flush=True)
        tasks = tasks_of(family)
        line, failed = (
            outcome(family, tasks, arguments.frames, arguments.every) if tasks else ("     0           no task that can be counted", False)
        )
        print(line, flush=True)
        failures += failed
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
