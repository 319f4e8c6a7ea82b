"""Memory of a training run, all its processes: `python docs/experiments/measure_memory.py minigrid_mt7_fast 5000000`.

Prints a line per twentieth of the frames: frames, GiB. Memory that processes share is divided among them (proportional set size).
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mtrl.benchmark.processes import held_by
from mtrl.storage.run_directory import RunDirectory


def measure(config: str, frames: int) -> None:
    """Trains `config` to `frames` frames and prints its memory on the way."""
    path = Path(tempfile.mkdtemp()) / "run"
    command = [sys.executable, "launch.py", "train", config, "--run-dir", str(path), "--total-frames", str(frames), "--report-seconds", "5"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    printed = 0
    while process.poll() is None:
        time.sleep(5)
        rows = RunDirectory.open(path).read_metrics() if (path / "metrics.jsonl").exists() else []
        trained = int(rows[-1]["summary/frames"]) if rows else 0
        if trained - printed >= frames / 20:
            printed = trained
            print(f"{trained:>10,} frames  {held_by(process.pid).memory / 2**30:.3f} GiB", flush=True)


if __name__ == "__main__":
    measure(sys.argv[1], int(sys.argv[2]))
