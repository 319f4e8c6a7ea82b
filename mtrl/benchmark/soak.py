"""A long run, watched: whether its memory, its open files and its threads stay what they were."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.stats import linregress

from mtrl.benchmark.processes import ProcessUsage, end, held_by
from mtrl.config import ExperimentConfig, dump_yaml
from mtrl.machine import PROJECT_ROOT
from mtrl.storage.run_directory import RunDirectory

LOOK_SECONDS = 10.0
FEWEST_LOOKS = 3  # after it has settled: two points are always on a line
SETTLED = 0.2  # of the time, after which caches are full and the slope begins to count
MEBIBYTE = 2.0**20


def soak(config: ExperimentConfig, minutes: float, interval_seconds: float = LOOK_SECONDS) -> dict[str, float]:
    """Trains for so many minutes, in a process of its own as a user would, and prints how what it holds has grown.

    Returns:
        slopes by name, per minute, and the most of the object store.
    """
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    (folder / "config.yaml").write_text(dump_yaml(config))
    command = [sys.executable, str(PROJECT_ROOT / "launch.py"), "train", str(folder / "config.yaml"), "--run-dir", str(folder / "run")]
    process = subprocess.Popen([*command, "--total-frames", str(10**12)], stdout=subprocess.DEVNULL, start_new_session=True)
    start, times, usages = time.monotonic(), [], []
    try:
        while (now := time.monotonic() - start) < 60 * minutes and process.poll() is None:
            times.append(now / 60)
            usages.append(held_by(process.pid))
            if len(usages) % 30 == 1:
                print(_line(times[-1], usages[-1], folder / "run"), flush=True)
            time.sleep(interval_seconds)
        if process.poll() is not None:
            raise RuntimeError(f"the run ended by itself with code {process.returncode} after {times[-1]:.1f} minutes; see {folder}")
    finally:
        end(process)
    return _judged(np.array(times), usages)


def _judged(times: np.ndarray, usages: list[ProcessUsage]) -> dict[str, float]:
    """Prints and returns the slopes of straight lines through what was seen once the run had settled."""
    settled = times >= SETTLED * times[-1]
    found = {}
    for name, unit, values in (
        ("memory", "MiB", [usage.memory / MEBIBYTE for usage in usages]),
        ("open files", "", [usage.files for usage in usages]),
        ("threads", "", [usage.threads for usage in usages]),
    ):
        if settled.sum() < FEWEST_LOOKS:
            found[name] = 0.0
            print(f"{name}: {values[-1]:,.0f} {unit} at the end; too short to say whether it grows".replace("  ", " "))
            continue
        line = linregress(times[settled], np.array(values)[settled])
        found[name] = float(line.slope)
        error = 0.0 if np.ptp(np.array(values)[settled]) == 0 else line.stderr  # SciPy's is NaN where nothing changes
        low, high = line.slope - 1.96 * error, line.slope + 1.96 * error
        print(f"{name}: {line.slope:+.3f} {unit} a minute ({low:+.3f} to {high:+.3f}), {values[-1]:,.0f} {unit} at the end")
    found["shared"] = max(usage.shared for usage in usages) / MEBIBYTE
    print(f"object store and other shared memory: at most {found['shared']:.0f} MiB")
    return found


def _line(minutes: float, usage: ProcessUsage, run: Path) -> str:
    rows = RunDirectory.open(run).read_metrics() if (run / "metrics.jsonl").exists() else []
    frames = int(rows[-1]["summary/frames"]) if rows else 0
    return (
        f"{minutes:6.1f} min  {frames:>11,} frames  {usage.memory / MEBIBYTE:8.1f} MiB  {usage.files:5} files  "
        f"{usage.threads:4} threads  {usage.processes:3} processes"
    )
