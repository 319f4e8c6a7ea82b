"""Seconds from the command `train` to its first update: `python docs/experiments/measure_start.py [CONFIG] [--rounds 5]`.

In turns with forked workers, as they are by default, and with `MTRL_FORK_SERVER=0`, where each worker of Ray imports its packages itself.
The first update is taken for done when the first line of metrics is there, with a report every 0.2 s.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0  # seconds for a start


def main() -> None:
    """Prints each time, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", nargs="?", default="minigrid_mt3")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    times: dict[str, list[float]] = {"forked": [], "imported by each worker": []}
    for number in range(arguments.rounds):
        for (name, found), value in zip(times.items(), ("1", "0"), strict=True):
            found.append(first_update(arguments.config, value))
            print(f"round {number + 1}, {name}: {found[-1]:.1f} s", flush=True)
    for name, found in times.items():
        print(f"{name}: {statistics.median(found):.1f} s ({min(found):.1f} to {max(found):.1f}, n={len(found)})")


def first_update(config: str, forked: str) -> float:
    """Seconds until the first line of metrics."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, str(ROOT / "launch.py"), "train", config, "--run-dir", str(run), "--report-seconds", "0.2"]
        start = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"MTRL_FORK_SERVER": forked}) as process:
            while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").stat().st_size:
                if process.poll() is not None or time.monotonic() - start > PATIENCE:
                    process.kill()
                    raise SystemExit("the run did not come to its first update")
                time.sleep(0.02)
            seconds = time.monotonic() - start
            process.send_signal(signal.SIGTERM)
        return seconds


if __name__ == "__main__":
    main()
