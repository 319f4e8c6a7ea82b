"""What a GPU does for training: frames per second, the learner's cost of a frame, and where the time of an update goes.

    python docs/experiments/measure_gpu.py [CONFIG ...] [--seconds 8] [--largest 16]

Measures the configs `minigrid_mt7_fast` and `minigrid_mt7` by default, in this process, and takes three to four minutes. Without a GPU the
same is measured on the CPU. Four tables:

1. training as a whole, with the policy of the collector on the CPU and on the GPU;
2. the learner alone, on rollouts of the config's size and of 4 and 16 times as many slots;
3. what one update asks of the GPU: kernels, copies, and how often the CPU waits for it;
4. the lines of code at which it waits, and the operations that take most of the CPU's time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch.profiler import ProfilerActivity, profile

from envs import TaskSuite, make_suite
from mtrl.config import ExperimentConfig, load_config, override
from mtrl.learning.learner import Learner
from mtrl.rollouts.collector import build_collector
from mtrl.rollouts.rollout import Rollout, concatenate
from mtrl.training.trainer import build_trainer

ROOT = Path(__file__).resolve().parents[2]
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
WARM_UP_UPDATES = 2
LINES = 10  # of the tables of part 4


def main() -> None:
    """Prints all tables, and the most important figures again at the end."""
    arguments = _arguments()
    card = torch.cuda.get_device_name() if GPU else "no GPU: everything on the CPU"
    print(f"{card}; torch {torch.__version__}, CUDA {torch.version.cuda}; {len(os.sched_getaffinity(0))} cores\n", flush=True)
    summary: list[str] = []
    for name in arguments.configs:
        config = override(load_config(ROOT / "configs" / f"{name}.yaml"), {"env_runners.num_env_runners": 0, "learner.device": DEVICE})
        suite = make_suite(config.suite.name)
        summary += measure_training(config, arguments.seconds)
        rollouts = _collect(config, suite, arguments.largest)
        for times in [times for times in (1, 4, 16) if times <= arguments.largest]:
            summary += measure_learner(config, suite, concatenate(rollouts[:times]), times)
        for times in sorted({1, arguments.largest}):
            summary += measure_update(config, suite, concatenate(rollouts[:times]), times)
        show_waits(config, suite, rollouts[0])
        show_operations(config, suite, rollouts[0])
    print("\nsummary\n" + "\n".join(summary), flush=True)


def measure_training(config: ExperimentConfig, seconds: float) -> list[str]:
    """Trained frames per second, and the share that each part has in the time of a frame."""
    lines = []
    for acting in ("cpu", "cuda") if GPU else ("cpu",):
        trainer = build_trainer(override(config, {"env_runners.num_gpus_per_env_runner": int(acting == "cuda")}))
        for _ in range(WARM_UP_UPDATES):
            trainer.step()
        trainer.metrics()
        frames, start = trainer.frames, time.perf_counter()
        while time.perf_counter() - start < seconds:
            trainer.step()
        spent, trained = time.perf_counter() - start, trainer.frames - frames
        parts = trainer.metrics()
        trainer.close()
        split = {name: 1e6 * parts[f"throughput/{name}_seconds"] / trained for name in ("env", "inference", "learner")}
        split["rest"] = 1e6 * spent / trained - sum(split.values())
        shown = ", ".join(f"{name} {cost:.1f}" for name, cost in split.items())
        lines.append(f"{config.name}: training, policy on {acting}: {trained / spent:,.0f} frames/s; µs/frame: {shown}")
        print(lines[-1], flush=True)
    return lines


def measure_learner(config: ExperimentConfig, suite: TaskSuite, rollout: Rollout, times: int) -> list[str]:
    """Median time of an update, and the part of it that lays out the batch on the CPU and moves it to the GPU."""
    lines = []
    for precision, share in (("auto", True), ("float32", True), ("auto", False)):
        changes = {"learner.precision": precision, "model.share_repeats": share}
        learner = Learner(override(config, changes), suite)
        if GPU:
            torch.cuda.reset_peak_memory_stats()
        update = _median(lambda learner=learner: learner.update(rollout, 0.0))  # type: ignore[misc]
        batch = _median(lambda learner=learner: learner.make_batch(rollout))  # type: ignore[misc]
        memory = f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if GPU else ""
        lines.append(
            f"{config.name}: learner, {times:2d} x slots, {precision}, {'distinct' if share else 'all'} observations: "
            f"{1e3 * update:.1f} ms, {1e6 * update / rollout.num_frames:.2f} µs/frame "
            f"(batch {1e6 * batch / rollout.num_frames:.2f}){memory}"
        )
        print(lines[-1], flush=True)
    return lines


class Demands(NamedTuple):
    """What one update asked of the GPU."""

    kernels: int
    busy: float  # seconds in which some kernel or copy was at work
    to_cpu: int  # copies
    to_gpu: int
    waits: dict[str, int]  # calls by which the CPU waits for the GPU


def measure_update(config: ExperimentConfig, suite: TaskSuite, rollout: Rollout, times: int) -> list[str]:
    """Counts what an update asks of the GPU, from torch's profiler."""
    if not GPU:
        return []
    learner = Learner(config, suite)
    for _ in range(WARM_UP_UPDATES):
        learner.update(rollout, 0.0)
    seconds = _median(lambda: learner.update(rollout, 0.0))
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        learner.update(rollout, 0.0)
        torch.cuda.synchronize()
    found = _demands(recorded)
    steps = _steps(config)
    waits = ", ".join(f"{name} {count}" for name, count in found.waits.items())
    line = (
        f"{config.name}: one update, {times:2d} x slots, {steps} optimiser steps, {1e3 * seconds:.1f} ms: "
        f"{found.kernels} kernels ({found.kernels / steps:.0f} a step), GPU busy {1e3 * found.busy:.1f} ms "
        f"({found.busy / seconds:.0%}), {found.to_cpu} copies to the CPU, {found.to_gpu} to the GPU, {waits}"
    )
    print(line, flush=True)
    return [line]


def show_waits(config: ExperimentConfig, suite: TaskSuite, rollout: Rollout) -> None:
    """The lines at which the CPU waits for the GPU, by number of waits in an update."""
    if not GPU:
        return
    learner = Learner(config, suite)
    learner.update(rollout, 0.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        learner.update(rollout, 0.0)
        torch.cuda.set_sync_debug_mode("default")
    lines = Counter(f"{_short(warning.filename)}:{warning.lineno}" for warning in caught if "synchroniz" in str(warning.message))
    print(f"{config.name}: {lines.total()} waits in an update, at")
    for place, count in lines.most_common(LINES):
        print(f"  {count:6d}  {place}")
    print(flush=True)


def show_operations(config: ExperimentConfig, suite: TaskSuite, rollout: Rollout) -> None:
    """The operations of an update of one pass that take most of the CPU's time to start (without a GPU, to compute)."""
    learner = Learner(override(config, {"learner.epochs": 1}), suite)
    learner.update(rollout, 0.0)
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        learner.update(rollout, 0.0)
    operations = sorted(recorded.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in operations)
    print(f"{config.name}: an update of one pass, {sum(event.count for event in operations)} operations, {total / 1e3:.0f} ms of the CPU:")
    for event in operations[:LINES]:
        print(f"  {event.self_cpu_time_total / total:6.1%}  {event.count:6d} x {event.key[:60]}")
    print(flush=True)


def _demands(recorded: profile) -> Demands:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    on_gpu = [event for event in events if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    calls = Counter(event["name"] for event in events if event.get("cat") == "cuda_runtime")
    return Demands(
        kernels=sum(event["cat"] == "kernel" for event in on_gpu),
        busy=sum(event["dur"] for event in on_gpu) / 1e6,
        to_cpu=sum("DtoH" in event["name"] for event in on_gpu),
        to_gpu=sum("HtoD" in event["name"] for event in on_gpu),
        waits={name: calls[name] for name in WAITS if calls[name]},
    )


def _collect(config: ExperimentConfig, suite: TaskSuite, unrolls: int) -> list[Rollout]:
    """Consecutive rollouts of the initial policy: n of them together are one of n times as many slots."""
    collector = build_collector(config, suite, runner=0)
    collector.set_weights(0, Learner(config, suite).actor_weights())
    rollouts = [collector.collect().rollout for _ in range(unrolls)]
    collector.close()
    return rollouts


def _steps(config: ExperimentConfig) -> int:
    """Of all optimisers, in an update whose minibatches all have steps."""
    learner = config.learner
    steps = learner.actor_updates or learner.epochs * learner.minibatches
    if config.model.trunks == "shared":
        return steps
    apart = learner.minibatches > 1
    return steps + learner.critic_updates if apart else max(steps, learner.critic_updates)


def _median(function: Callable[[], object], seconds: float = 2.0) -> float:
    """Of the durations of calls for `seconds`, three at least, after one that does not count."""
    durations: list[float] = []
    end = float("inf")
    while time.perf_counter() < end or len(durations) < 4:
        start = time.perf_counter()
        function()
        if GPU:
            torch.cuda.synchronize()
        durations.append(time.perf_counter() - start)
        end = min(end, time.perf_counter() + seconds)
    return statistics.median(durations[1:])


def _short(path: str) -> str:
    """A file's path below the repository, or its last two parts."""
    full = Path(path)
    return str(full.relative_to(ROOT)) if full.is_relative_to(ROOT) else "/".join(full.parts[-2:])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("configs", nargs="*", default=["minigrid_mt7_fast", "minigrid_mt7"], help="names of files in configs/")
    parser.add_argument("--seconds", type=float, default=8.0, help="for which training is measured")
    parser.add_argument("--largest", type=int, default=16, help="the largest multiple of the config's slots")
    return parser.parse_args()


if __name__ == "__main__":
    main()
