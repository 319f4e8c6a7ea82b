"""How long it takes from the README's command to a score that has risen: `python docs/experiments/measure_strangers.py [--score 0.5]`.

Trains three tasks that have no space in common, each alone, with nothing but their names given: an image with continuous actions, an image
and a vector with several choices, and a text with one choice (`tests/strangers.py`). Prints the seconds from the command until the share of
training episodes that succeed has reached the score, and the chance of a random policy. Exit code 1 if a task does not come so far.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TASKS = {"Steers-v0": (1 / 2) ** 4, "Dials-v0": (1 / 6) ** 4, "Obeys-v0": (1 / 3) ** 4}
"""The tasks, with the chance of four right answers in a row."""
LIMIT = 300.0  # seconds


def main() -> int:
    """Measures all tasks, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--score", type=float, default=0.5)
    parser.add_argument("--config", default="minigrid_mt3", help="the experiment besides the tasks")
    arguments = parser.parse_args()
    late = 0
    for task, chance in TASKS.items():
        seconds, score = seconds_to_score(task, arguments.config, arguments.score)
        late += score < arguments.score
        print(f"{task}: score {score:.2f} after {seconds:.0f} s; by chance {chance:.3f}", flush=True)
    return int(late > 0)


def seconds_to_score(task: str, config: str, score: float) -> tuple[float, float]:
    """Seconds until a training's score has reached `score` or the time is over, and the newest score then."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        options = ["--suite.name", f"gym/strangers:{task}", "--num-env-runners", "0", "--suite.env-workers", "0"]
        command = [sys.executable, "launch.py", "train", config, *options, "--run-dir", str(run)]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
        start, newest = time.monotonic(), 0.0
        with subprocess.Popen(
            [*command, "--report-seconds", "1", "--total-frames", str(10**9)], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
        ) as process:
            while newest < score and time.monotonic() - start < LIMIT and process.poll() is None:
                time.sleep(0.2)
                rows = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
                newest = json.loads(rows[-1]).get("summary/score_mean", 0.0) if rows else 0.0
            seconds = time.monotonic() - start
            process.send_signal(signal.SIGTERM)
        return seconds, newest


if __name__ == "__main__":
    sys.exit(main())
