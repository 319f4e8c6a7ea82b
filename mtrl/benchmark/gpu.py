"""What a GPU does for training: frames per second of the whole system, and the cost, the use and the waits of the learner alone."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from envs import TaskSuite, make_suite
from mtrl.benchmark.fresh_process import run_in_fresh_process
from mtrl.benchmark.speed import MODULE, describe
from mtrl.config import ExperimentConfig, load_config, override
from mtrl.errors import UserError
from mtrl.learning.learner import Learner
from mtrl.machine import whole_cores
from mtrl.rollouts.collector import build_collector
from mtrl.rollouts.rollout import Rollout, concatenate

CORES_OF_THE_DRIVER = 2  # of the learner, and of the rollouts that arrive meanwhile
TIMES = (1, 4, 16)  # multiples of the config's slots
SECONDS = 1.5  # for which one size is measured
WARM_UP_UPDATES = 3  # the second one records graphs
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
PRODUCT = 8192  # rows of the matrices whose product is the card's peak


def gpu(configs: Sequence[Path], *, runners: int | None = None) -> None:
    """Prints one line for each figure, first those of the whole system.

    Args:
        configs: experiments.
        runners: of the whole system; by default all cores but two, and none in another process where that leaves fewer than two.

    Raises:
        UserError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise UserError("PyTorch finds no GPU: bench gpu measures what one does for training")
    card = torch.cuda.get_device_name()
    peak = _peak()
    print(f"{card}, CUDA {torch.version.cuda}, {whole_cores()} cores; a product of bfloat16 matrices reaches {peak / 1e12:.0f} TFLOP/s")
    for path in configs:
        config = override(load_config(path), {"learner.device": "cuda"})
        describe(config)
        measure_system(config, runners)
        measure_learner(config, peak)


def measure_system(config: ExperimentConfig, runners: int | None) -> float:
    """Trained frames per second, in a process of its own."""
    count = whole_cores() - CORES_OF_THE_DRIVER if runners is None else runners
    count = count if count > 1 else 0
    changed = override(config, {"env_runners.num_env_runners": count, "env_runners.env_threads": 1, "env_runners.inference_threads": 1})
    rate = run_in_fresh_process(MODULE, changed, "gpu")
    print(f"  {config.name}: whole system, {count or 'no'} runners: {rate:,.0f} frames/s", flush=True)
    return float(rate)


class Update(NamedTuple):
    """The learner's update of one size."""

    frames: int
    seconds: float
    operations: float  # floating-point, of the networks' products and convolutions
    memory: int  # bytes, at most
    kernels: int
    busy: float  # share of the time in which the GPU worked
    waits: int  # calls by which the CPU waits for the GPU


def measure_learner(config: ExperimentConfig, peak: float) -> list[Update]:
    """Updates on rollouts of the config's size and of multiples of it."""
    suite = make_suite(config.suite.name)
    rollouts = _collect(config, suite, max(TIMES))
    found = []
    for times in TIMES:
        update = _measure(config, suite, concatenate(rollouts[:times]))
        print(
            f"  {config.name}: learner, {update.frames:7,} frames an update: {1e3 * update.seconds:6.1f} ms, "
            f"{1e6 * update.seconds / update.frames:.2f} µs/frame, {update.operations / update.seconds / peak:.1%} of the peak, "
            f"{update.memory / 2**30:.1f} GiB, {update.kernels:,} kernels, GPU busy {update.busy:.0%}, {update.waits} waits",
            flush=True,
        )
        found.append(update)
    return found


def _measure(config: ExperimentConfig, suite: TaskSuite, rollout: Rollout) -> Update:
    torch.cuda.reset_peak_memory_stats()
    started = Learner(override(config, {"learner.cuda_graphs": False, "model.share_repeats": False}), suite)
    with FlopCounterMode(display=False) as counted:  # which sees no replayed operations
        started.update(rollout, 0.0)
    del started
    learner = Learner(config, suite)
    for _ in range(WARM_UP_UPDATES):
        learner.update(rollout, 0.0)
    seconds = _median(lambda: learner.update(rollout, 0.0))
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        learner.update(rollout, 0.0)
        torch.cuda.synchronize()
    kernels, busy, waits = _demands(recorded)
    memory = torch.cuda.max_memory_allocated()
    return Update(rollout.num_frames, seconds, counted.get_total_flops(), memory, kernels, busy / seconds, waits)


def _demands(recorded: profile) -> tuple[int, float, int]:
    """Kernels, seconds in which a kernel or a copy was at work, and calls by which the CPU waited."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    on_gpu = [event for event in events if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    calls = Counter(event["name"] for event in events if event.get("cat") == "cuda_runtime")
    return sum(event["cat"] == "kernel" for event in on_gpu), sum(event["dur"] for event in on_gpu) / 1e6, sum(calls[n] for n in WAITS)


def _collect(config: ExperimentConfig, suite: TaskSuite, unrolls: int) -> list[Rollout]:
    """Consecutive rollouts of the initial policy: n of them together are one of n times as many slots."""
    collector = build_collector(override(config, {"env_runners.env_threads": whole_cores()}), suite, runner=0)
    collector.set_weights(0, Learner(config, suite).actor_weights())
    rollouts = [collector.collect().rollout for _ in range(unrolls)]
    collector.close()
    return rollouts


def _peak() -> float:
    """Operations per second of a large product of random matrices in bfloat16."""
    a, b = torch.randn(2, PRODUCT, PRODUCT, device="cuda").bfloat16()
    return 2 * PRODUCT**3 / _median(lambda: a @ b, 0.5)


def _median(function: Callable[[], object], seconds: float = SECONDS) -> float:
    """Of the durations of calls for `seconds`, three at least, after one that does not count."""
    function()
    torch.cuda.synchronize()
    durations: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(durations) < 3:
        start = time.perf_counter()
        function()
        torch.cuda.synchronize()
        durations.append(time.perf_counter() - start)
    return sorted(durations)[len(durations) // 2]
