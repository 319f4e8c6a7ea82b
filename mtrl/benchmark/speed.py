"""Speed, measured: the whole system against its parts, and the learner alone. Prints medians and spreads."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable

import torch

from envs import TaskSuite, make_suite, make_vector
from envs.observations import MASK
from envs.task import BackendName
from mtrl.benchmark.fresh_process import run_in_fresh_process
from mtrl.benchmark.initial_rollout import initial_rollout, warm_collector
from mtrl.config import ConfigError, ExperimentConfig, override
from mtrl.learning.balancers import BALANCERS
from mtrl.learning.combiners import COMBINERS
from mtrl.learning.devices import has_bfloat16
from mtrl.learning.learner import Learner
from mtrl.machine import usable_cores, whole_cores
from mtrl.rollouts.rollout import Rollout
from mtrl.storage.run_directory import versions

MODULE = "mtrl.benchmark.speed"  # what a fresh process runs: `_main` below
ROUNDS = 3
ROUND_SECONDS = 20.0
WARM_UP_SECONDS = 10.0
STEPPING_SECONDS = 4.0
GPU_SECONDS = 12.0


def throughput(config: ExperimentConfig) -> None:
    """Frames per second of the whole system, and of its parts with the whole machine to themselves.

    The ceiling is what two cores could do if every frame cost its environment step, its inference and its learning, and nothing else:
    the inverse of the sum of the three costs, each measured with all cores at work.
    """
    describe(config)
    suite = make_suite(config.suite.name)
    parts: dict[str, list[float]] = {"environments": [], "inference": [], "learner": []}
    system: list[float] = []
    for _ in range(ROUNDS):
        alone = _parts(config, suite)
        for name, rate in alone.items():
            parts[name].append(rate)
        system.append(run_in_fresh_process(MODULE, config, "system"))
    stepping = {backend: [_bare_stepping(suite, config, backend) for _ in range(ROUNDS)] for backend in suite.backends}
    ceiling = [1 / sum(1 / parts[name][i] for name in parts) for i in range(ROUNDS)]
    for name, rates in parts.items():
        print_row(f"{name} alone", rates, "frames/s")
    print_row("ceiling (all three on every frame)", ceiling, "frames/s")
    print_row("whole system", system, "frames/s")
    print_row("share of the ceiling", [a / b for a, b in zip(system, ceiling, strict=True)], "")
    for backend, rates in stepping.items():
        print_row(f"bare stepping, {backend}, one process", rates, "steps/s")


def learner(config: ExperimentConfig) -> None:
    """Cost of a frame in the learner, forward and backward and optimiser, on a real rollout of the initial policy."""
    describe(config)
    suite = make_suite(config.suite.name)
    rollout = initial_rollout(config, suite)
    for share in (True, False):
        changed = override(config, {"model.share_repeats": share})
        subject = Learner(changed, suite)
        frames = rollout.num_frames
        times = _time(lambda subject=subject: subject.update(rollout, 0.0), seconds=8.0)  # type: ignore[misc]
        label = "each distinct observation once" if share else "every observation"
        print_row(f"update, {label}", [1e6 * t / frames for t in times], "µs/frame")
    if config.model.memory:
        _compare_without_memory(config, suite, rollout)
    for field, name in [("balancing", name) for name in BALANCERS] + [("combiner", name) for name in COMBINERS]:
        try:
            subject = Learner(override(config, {f"learner.{field}": name}), suite)
        except ConfigError as error:  # a package that only this one needs
            print(error)
        else:
            times = _time(lambda subject=subject: subject.update(rollout, 0.0), seconds=4.0)  # type: ignore[misc]
            print_row(f"update, {field} {name}", [1e6 * t / rollout.num_frames for t in times], "µs/frame")
    size = 2048
    for dtype in (torch.float32, *([torch.bfloat16] if has_bfloat16(torch.device("cpu")) else [])):
        a, b = torch.randn(2, size, size).to(dtype)
        rates = [2e-9 * size**3 / t for t in _time(lambda a=a, b=b: a @ b, seconds=2.0)]  # type: ignore[misc]
        print_row(f"matrix product, {dtype}", rates, "GFLOP/s")


def _compare_without_memory(config: ExperimentConfig, suite: TaskSuite, rollout: Rollout) -> None:
    """The learner with its memory and without, in turns, since a shared machine's speed changes within a minute."""
    subjects = [Learner(override(config, {"model.memory": memory}), suite) for memory in (True, False)]
    rounds = [[statistics.median(_time(lambda s=subject: s.update(rollout, 0.0), seconds=0.0)) for subject in subjects] for _ in range(5)]  # type: ignore[misc]
    for label, times in zip(("with its memory, in turns", "without it"), zip(*rounds, strict=True), strict=True):
        print_row(f"update, {label}", [1e6 * t / rollout.num_frames for t in times], "µs/frame")
    print_row("ratio of the two", [with_it / without for with_it, without in rounds], "")


def measure_system(config: ExperimentConfig, seconds: float, warm_up: float) -> float:
    """Trained frames per second of this system after a warm-up."""
    if config.env_runners.num_env_runners == 0:
        from mtrl.training.trainer import build_trainer

        trainer = build_trainer(config)
    else:
        from mtrl.distributed import build_ray_trainer

        _, trainer = build_ray_trainer(config)
    end = time.perf_counter() + warm_up
    while time.perf_counter() < end:
        trainer.step()
    before, start = trainer.frames, time.perf_counter()
    while time.perf_counter() - start < seconds:
        trainer.step()
    return (trainer.frames - before) / (time.perf_counter() - start)


def print_row(name: str, values: list[float], unit: str) -> None:
    """Prints the median and the spread of a figure."""
    print(f"{name:45} {statistics.median(values):12,.2f} {unit}  ({min(values):,.2f} to {max(values):,.2f}, n={len(values)})", flush=True)


def describe(config: ExperimentConfig) -> None:
    """A line that says what is measured where."""
    found = versions()
    packages = ", ".join(f"{name} {found[name]}" for name in ("torch", "ray", "envpool", "minigrid"))
    bfloat16 = "with" if has_bfloat16(torch.device("cpu")) else "without"
    print(
        f"{config.name} at {found['commit']}; {platform.machine()}, {usable_cores():g} cores, {bfloat16} bfloat16; {packages}", flush=True
    )


def _parts(config: ExperimentConfig, suite: TaskSuite) -> dict[str, float]:
    """Frames per second of each part with all cores at work on nothing else."""
    collector = warm_collector(config, suite)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    before = time.process_time()
    collected = [collector.collect() for _ in range(3)]
    # All threads' time: a pool's own threads are at work beside the one that waits for them.
    spent = time.process_time() - before
    torch.set_num_threads(threads)
    frames = sum(item.rollout.num_frames for item in collected)
    inference_spent = sum(item.inference_seconds for item in collected)
    cores = usable_cores()
    environments, inference = cores * frames / (spent - inference_spent), cores * frames / inference_spent
    collector.close()
    subject = Learner(config, suite)
    rollout = collected[-1].rollout
    times = _time(lambda: subject.update(rollout, 0.0), seconds=8.0)
    return {"environments": environments, "inference": inference, "learner": rollout.num_frames / statistics.median(times)}


def _bare_stepping(suite: TaskSuite, config: ExperimentConfig, backend: BackendName) -> float:
    """Random steps per second of one process, whose pools may use all cores."""
    tasks = make_vector(suite, config.env_runners.slots, backend=backend, num_threads=whole_cores())
    suite.action_space.seed(0)
    obs = tasks.reset()
    actions, masked = [suite.random_actions(tasks.task_ids, obs) for _ in range(16)], any(MASK in name for name in obs)
    obs = tasks.step(actions[0]).obs
    steps, seconds = 0, 0.0
    while seconds < STEPPING_SECONDS:
        action = suite.random_actions(tasks.task_ids, obs) if masked else actions[steps % len(actions)]
        start = time.perf_counter()
        obs = tasks.step(action).obs
        seconds += time.perf_counter() - start
        steps += 1
    tasks.close()
    return steps * tasks.num_slots / seconds


def _time(function: Callable[[], object], seconds: float) -> list[float]:
    """Durations of calls for `seconds`, after two that do not count."""
    function()
    function()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < ROUNDS:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return times


def _main(path: str, kind: str) -> None:
    from mtrl.config import load_config

    config = load_config(path)
    if kind == "rllib":
        from mtrl.distributed.peers import measure_rllib

        rate = measure_rllib(config.suite.name, ROUND_SECONDS, WARM_UP_SECONDS)
    elif kind == "gpu":
        rate = measure_system(config, GPU_SECONDS, WARM_UP_SECONDS)
    else:
        rate = measure_system(config, ROUND_SECONDS, WARM_UP_SECONDS)
    print(json.dumps(rate), flush=True)
    # Ray's shut-down is not part of the measurement.
    os._exit(0)


if __name__ == "__main__":
    _main(*sys.argv[1:])
