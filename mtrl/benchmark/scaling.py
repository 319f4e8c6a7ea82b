"""The gain of one more runner or learner: environments that mostly wait, so that one machine can stand for many."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from envs import make_suite
from mtrl.benchmark.fresh_process import run_in_fresh_process
from mtrl.benchmark.initial_rollout import initial_rollout
from mtrl.benchmark.processes import held_by
from mtrl.benchmark.speed import describe
from mtrl.config import ExperimentConfig, load_config, override
from mtrl.learning.learner import Learner
from mtrl.training.trainer import Trainer

WARM_UP_SECONDS = 5.0  # in which a rollout has to have come from every runner before it counts
SECONDS = 20.0
SMALL_CORE = 1 / 64  # what Ray reserves for a runner that mostly waits
LEARNERS = (0, 1, 2)
LEARNER_ROUNDS = 30


class Scaled(NamedTuple):
    """A run with some number of runners."""

    runners: int
    seconds_to_start: float  # until all runners were at work
    frames_per_second: float
    policy_lag: float  # updates
    learner_busy: float  # of the time
    driver_busy: float  # of a core: what the driver does besides the learning
    rollouts_per_second: float
    shared: float  # bytes of the object store and other shared memory in use
    memory: float  # bytes, all processes


def scaling(config: ExperimentConfig, runners: Sequence[int], sleep: float) -> list[Scaled]:
    """Trains with each number of runners whose environments take `sleep` seconds for a step, then compares numbers of learners."""
    describe(config)
    print(f"every environment step waits {1000 * sleep:g} ms; {SECONDS:.0f} s each")
    print("runners  frames/s  of n x 1  rollouts/s    lag  learner busy  driver busy    shared    memory  start")
    found: list[Scaled] = []
    for count in runners:
        found.append(Scaled(*run_in_fresh_process("mtrl.benchmark.scaling", waiting(config, count, sleep), str(SECONDS))))
        print(_line(found[-1], found[0]), flush=True)
    _sizes(config)
    _learners(config)
    return found


def waiting(config: ExperimentConfig, runners: int, sleep: float) -> ExperimentConfig:
    """The experiment with so many runners, whose environments wait in every step and which reserve next to no core."""
    return override(
        config,
        {
            "suite.name": f"chaos/{config.suite.name}?sleep={sleep:g}",
            "suite.backend": "gymnasium",
            "env_runners.num_env_runners": runners,
            "env_runners.num_cpus_per_env_runner": SMALL_CORE,
            "learner.threads": 1,
            "total_frames": 10**12,
        },
    )


def measure(config: ExperimentConfig, seconds: float) -> Scaled:
    """One run in this process."""
    from mtrl.distributed import build_ray_trainer

    start = time.perf_counter()
    algorithm, trainer = build_ray_trainer(config)
    runners = config.env_runners.num_env_runners
    while trainer.metrics().get("throughput/runners", 0) < runners:
        _train(trainer, WARM_UP_SECONDS)
    started = time.perf_counter() - start
    frames, before, processor = trainer.frames, time.perf_counter(), time.thread_time()
    _train(trainer, seconds)
    elapsed, processor = time.perf_counter() - before, time.thread_time() - processor
    metrics = trainer.metrics()
    held = held_by(os.getpid())
    scaled = Scaled(
        runners,
        started,
        (trainer.frames - frames) / elapsed,
        metrics["summary/policy_lag"],
        metrics["learner/busy_fraction"],
        processor / elapsed,
        metrics["throughput/rollouts"],
        held.shared,
        held.memory,
    )
    algorithm.stop()
    return scaled


def _line(scaled: Scaled, first: Scaled) -> str:
    share = scaled.frames_per_second / (first.frames_per_second / first.runners * scaled.runners)
    return (
        f"{scaled.runners:7} {scaled.frames_per_second:9,.0f} {share:9.2f} {scaled.rollouts_per_second:11.1f} {scaled.policy_lag:6.2f} "
        f"{scaled.learner_busy:13.2f} {scaled.driver_busy:12.2f} {scaled.shared / 2**20:5,.0f} MiB {scaled.memory / 2**30:5.1f} GiB "
        f"{scaled.seconds_to_start:4.0f} s"
    )


def _train(trainer: Trainer, seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        trainer.step()


def _sizes(config: ExperimentConfig) -> None:
    """Prints the sizes of a frame and of one version of the weights, which travel between processes."""
    suite = make_suite(config.suite.name)
    learner = Learner(config, suite)
    rollout = initial_rollout(config, suite)
    arrays = [array for value in rollout if isinstance(value, dict) for array in value.values()]
    arrays += [value for value in (*rollout, *(rollout.levels or ())) if isinstance(value, np.ndarray)]
    size = sum(array.nbytes for array in arrays)
    weights = sum(array.nbytes for array in learner.actor_weights().values())
    print(f"a rollout of {rollout.num_frames:,} frames has {size / 2**20:.2f} MiB, {size / rollout.num_frames:.0f} bytes a frame; ", end="")
    print(f"one version of the actor's weights has {weights / 2**20:.2f} MiB")


def _learners(config: ExperimentConfig) -> None:
    """The same rollout, learned by the driver and by actors that share it."""
    from mtrl.distributed import build_ray_trainer

    rollout = initial_rollout(config, make_suite(config.suite.name))
    print(f"an update of {rollout.num_frames:,} frames, one thread each:")
    base = None
    for count in LEARNERS:
        small = {"env_runners.num_env_runners": 1, "env_runners.num_cpus_per_env_runner": SMALL_CORE, "learner.threads": 1}
        shared = {"learners.num_learners": count, "learners.num_cpus_per_learner": SMALL_CORE}
        algorithm, trainer = build_ray_trainer(override(config, small | shared))
        times = []
        for _ in range(LEARNER_ROUNDS):
            start = time.perf_counter()
            trainer.learner.update(rollout, 0.0)
            times.append(time.perf_counter() - start)
        algorithm.stop()
        middle = statistics.median(times[2:])
        base = base or middle
        name = "the driver" if count == 0 else f"{count} actor{'s' * (count > 1)}"
        print(
            f"  {name:11} {1e3 * middle:8.1f} ms ({1e3 * min(times[2:]):.1f} to {1e3 * max(times[2:]):.1f}), "
            f"{rollout.num_frames / middle:9,.0f} frames/s, {base / middle:.2f} times the driver's",
            flush=True,
        )


if __name__ == "__main__":
    print(json.dumps(measure(load_config(sys.argv[1]), float(sys.argv[2]))), flush=True)
