"""What other work on the machine costs a training: `python docs/experiments/measure_neighbours.py [CONFIG] [--rounds 3] [--seconds 40]`.

Trains beside 0, 1 and 3 processes that keep a core busy each, in turns. Prints the frames per second of every run, and the median of the
ratios to the run without neighbours of the same round.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NEIGHBOURS = (0, 1, 3)
WARM_UP = 10.0  # seconds after the first line of metrics
PATIENCE = 300.0  # seconds for a start
BUSY = "while True: pass"


def main() -> None:
    """Prints a line for each run, then the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", nargs="?", default="minigrid_mt3")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("options", nargs="*", help="of train, after --")
    arguments = parser.parse_args()
    ratios: dict[int, list[float]] = {count: [] for count in NEIGHBOURS[1:]}
    for number in range(arguments.rounds):
        speeds = {count: speed(arguments.config, count, arguments.seconds, arguments.options) for count in NEIGHBOURS}
        for count, found in ratios.items():
            found.append(speeds[count] / speeds[0])
        print(f"round {number + 1}: " + ", ".join(f"{count} neighbours {each:,.0f} frames/s" for count, each in speeds.items()), flush=True)
    for count, found in ratios.items():
        print(f"{count} neighbours over none: {statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f}, n={len(found)})")


def speed(config: str, neighbours: int, seconds: float, options: list[str]) -> float:
    """Trained frames per second beside so many busy processes."""
    busy = [subprocess.Popen([sys.executable, "-c", BUSY], start_new_session=True) for _ in range(neighbours)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            command = [sys.executable, str(ROOT / "launch.py"), "train", config, "--run-dir", str(run), "--report-seconds", "1", *options]
            with subprocess.Popen([*command, "--total-frames", "1e9"], stdout=subprocess.DEVNULL, start_new_session=True) as process:
                try:
                    _wait_for(run / "metrics.jsonl", process)
                    time.sleep(WARM_UP + seconds)
                finally:
                    process.send_signal(signal.SIGTERM)
            rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    finally:
        for each in busy:
            each.kill()
            each.wait()
    measured = [row for row in rows if row["summary/hours"] >= rows[0]["summary/hours"] + WARM_UP / 3600]
    first, last = measured[0], measured[-1]
    return float((last["summary/frames"] - first["summary/frames"]) / (3600 * (last["summary/hours"] - first["summary/hours"])))


def _wait_for(file: Path, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE
    while not file.exists():
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit("the run did not start")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
