"""Wall-clock time of `train`, from the command on, until the mean training score over tasks reaches a value.

    python docs/experiments/measure_time_to_score.py CONFIG [--score 0.86] [--seeds 5] [--minutes 15] [-- OPTIONS OF TRAIN]

Runs one seed after the other, ends each run as soon as it is there, and prints seconds, frames and the median. Nothing else may run
beside it.
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
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LOOK_SECONDS = 0.5  # between two looks at the metrics
REPORT_SECONDS = 2  # between two lines of metrics


class Reached(NamedTuple):
    """The first line of metrics with the score."""

    seconds: float  # since the command; infinite where it was not reached
    frames: float
    score: float  # of the last line


def main() -> None:
    """Prints a line for each seed and the median."""
    arguments = _arguments()
    found = []
    for seed in range(arguments.seeds):
        reached = run(arguments.config, seed, arguments.score, 60 * arguments.minutes, arguments.options)
        found.append(reached)
        print(f"seed {seed}: {reached.seconds:.0f} s, {reached.frames:,.0f} frames, score {reached.score:.3f}", flush=True)
    print(f"median {statistics.median(each.seconds for each in found):.0f} s to a mean score of {arguments.score}")


def run(config: str, seed: int, score: float, seconds: float, options: list[str]) -> Reached:
    """One training run, in a folder that is removed."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir, log = Path(folder) / "run", Path(folder) / "log"
        command = [sys.executable, "launch.py", "train", config, "--seed", str(seed), "--run-dir", str(run_dir)]
        start = time.monotonic()
        with log.open("w") as output:
            process = subprocess.Popen(
                [*command, "--report-seconds", str(REPORT_SECONDS), *options], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
            )
        last = Reached(float("inf"), 0, float("nan"))
        while process.poll() is None and time.monotonic() - start < seconds:
            time.sleep(LOOK_SECONDS)
            line = _newest(run_dir / "metrics.jsonl")
            if "summary/score_mean" in line:
                last = Reached(float("inf"), line["summary/frames"], line["summary/score_mean"])
                if last.score >= score:
                    last = last._replace(seconds=time.monotonic() - start)
                    break
        if process.poll():
            sys.exit(f"train has failed:\n{log.read_text()[-2000:]}")
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        return last


def _newest(path: Path) -> dict[str, float]:
    """The last whole line of a file of metrics; empty where there is none yet."""
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    whole = [line for line in lines if line.endswith("\n")]
    return dict(json.loads(whole[-1])) if whole else {}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("config")
    parser.add_argument("--score", type=float, default=0.86)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=15)
    own, _, options = " ".join(sys.argv[1:]).partition(" -- ")
    return parser.parse_args(own.split(), argparse.Namespace(options=options.split()))


if __name__ == "__main__":
    main()
