"""The time of each part of a frame: a few updates under torch's profiler, as a trace and a table."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from mtrl.training.trainer import Trainer

WARM_UP_UPDATES = 2  # allocate memory and choose kernels
UPDATES = 5
RECORDED_UPDATES = 2  # under the profiler, which needs seconds to sort what a hundred thousand operations took
ROWS = 15  # of the table of operations


def profile_training(trainer: Trainer, folder: Path) -> str:
    """Trains a few updates, which count like all others, and writes `trace.json` and `operations.txt` into `folder`.

    The parts are timed without the profiler, which slows small operations down.

    Returns:
        the table of parts, in microseconds for a frame.

    Raises:
        NonFiniteError: from the learner.
    """
    _train(trainer, WARM_UP_UPDATES)
    trainer.metrics()
    frames, start = trainer.frames, time.perf_counter()
    _train(trainer, UPDATES)
    seconds, trained = time.perf_counter() - start, trainer.frames - frames
    parts = trainer.metrics()

    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its profiler writes two lines of its own to standard error
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities) as recorded:
        _train(trainer, RECORDED_UPDATES)
    folder.mkdir(parents=True, exist_ok=True)
    recorded.export_chrome_trace(str(folder / "trace.json"))
    (folder / "operations.txt").write_text(recorded.key_averages().table(sort_by="self_cpu_time_total", row_limit=ROWS))

    named = {
        "environments": parts["throughput/env_seconds"],
        "policy in the runners": parts["throughput/inference_seconds"],
        "learner": parts["throughput/learner_seconds"],
    }
    lines = [f"{name:24} {1e6 * spent / trained:9.1f} µs" for name, spent in named.items()]
    if not trainer.asynchronous:
        lines.append(f"{'everything else':24} {1e6 * (seconds - sum(named.values())) / trained:9.1f} µs")
    lines.append(f"{'a frame':24} {1e6 * seconds / trained:9.1f} µs   ({trained / seconds:,.0f} frames/s)")
    if trainer.asynchronous:
        lines.append("runners and learner work side by side, so that the parts do not add up to a frame")
    return "\n".join(
        [*lines, f"operations by time: {folder / 'operations.txt'}; the trace is for ui.perfetto.dev: {folder / 'trace.json'}"]
    )


def _train(trainer: Trainer, updates: int) -> None:
    end = trainer.updates + updates
    while trainer.updates < end:
        trainer.step()
