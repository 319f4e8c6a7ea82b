"""Wall-clock time of `train`, from the command on, until the mean training score over tasks reaches a value.

    python docs/experiments/measure_time_to_score.py CONFIG [--score 0.86] [--seeds 5] [--minutes 15] [-- OPTIONS OF TRAIN]
    python docs/experiments/measure_time_to_score.py CONFIG --trainer sample_factory

Runs one seed after the other, ends each run as soon as it is there, and prints seconds, frames and the median. Nothing else may run
beside it. Another trainer (`sample_factory`, `pufferlib`) trains on the configuration's tasks with two layers of 256 and its own settings.
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
sys.path.insert(0, str(ROOT))

from envs import make_suite  # noqa: E402
from mtrl.benchmark.peers import PEERS, PeerProgram, installed, mean_score, minigrid_ids  # noqa: E402
from mtrl.config import load_config  # noqa: E402

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
        if arguments.trainer == "ours":
            reached = run(arguments.config, seed, arguments.score, 60 * arguments.minutes, arguments.options)
        else:
            reached = run_peer(arguments.trainer, arguments.config, seed, arguments.score, 60 * arguments.minutes)
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


def run_peer(trainer: str, config: str, seed: int, score: float, seconds: float) -> Reached:
    """One run of another trainer, from its start on; `seconds` do not count its installation."""
    suite = make_suite(load_config(ROOT / "configs" / f"{config}.yaml").suite.name)
    installed(trainer)
    start = time.monotonic()
    with PeerProgram.running(trainer, minigrid_ids(suite), seed) as program:
        while True:
            time.sleep(REPORT_SECONDS)
            lines = program.lines()
            reached = Reached(float("inf"), sum(line.steps for line in lines), mean_score(lines, suite))
            if reached.score >= score:
                return reached._replace(seconds=time.monotonic() - start)
            if time.monotonic() - start >= seconds:
                return reached


def _newest(path: Path) -> dict[str, float]:
    """The last whole line of a file of metrics; empty where there is none yet."""
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    whole = [line for line in lines if line.endswith("\n")]
    return dict(json.loads(whole[-1])) if whole else {}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("config")
    parser.add_argument("--trainer", choices=("ours", *PEERS), default="ours")
    parser.add_argument("--score", type=float, default=0.86)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=15)
    own, _, options = " ".join(sys.argv[1:]).partition(" -- ")
    return parser.parse_args(own.split(), argparse.Namespace(options=options.split()))


if __name__ == "__main__":
    main()
