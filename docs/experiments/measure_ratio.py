"""Speed of whole runs against those of another commit, in turns: `python docs/experiments/measure_ratio.py CONFIG COMMIT`.

Each tree trains its own configuration of that name with `launch.py train`, for `--seconds` after its first line of metrics. Options of
`launch.py train` that both trees know follow after `--`. Prints both speeds of every round, and the median of their ratios with the
smallest and the largest.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mtrl.benchmark.gate import worktree
from mtrl.machine import PROJECT_ROOT

START_SECONDS = 240.0  # for the first line of metrics


def speed(tree: Path, config: str, seconds: float, more: list[str]) -> float:
    """Frames per second of one run."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-P", str(tree / "launch.py"), "train", config, "--run-dir", str(run), "--total-frames", "1000000000"]
        command += ["--report-seconds", "1", *more]
        environment = os.environ | {"PYTHONPATH": str(tree)}
        with (Path(folder) / "log").open("w") as log:
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            first = _wait_for_line(run / "metrics.jsonl", process, Path(folder) / "log")
            time.sleep(seconds)
            lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if line.endswith("}")]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    frames, last = lines[-1]["summary/frames"] - first["summary/frames"], lines[-1]
    return frames / (last["time"] - first["time"])


def _wait_for_line(path: Path, process: subprocess.Popen, log: Path) -> dict[str, float]:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if path.exists() and path.read_text().count("\n") > 1:
            found: dict[str, float] = json.loads(path.read_text().splitlines()[1])
            return found
        time.sleep(0.2)
    raise SystemExit(f"no metrics: {log.read_text()[-500:]}")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("commit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0)
    given = sys.argv[1:]
    more = given[given.index("--") + 1 :] if "--" in given else []
    options = parser.parse_args(given[: len(given) - len(more) - ("--" in given)])
    ratios = []
    with worktree(options.commit) as other:
        for number in range(options.rounds):
            trees = [PROJECT_ROOT, other] if number % 2 else [other, PROJECT_ROOT]
            found = {tree: speed(tree, options.config, options.seconds, more) for tree in trees}
            ratios.append(found[PROJECT_ROOT] / found[other])
            print(f"{found[PROJECT_ROOT]:,.0f} frames/s, {found[other]:,.0f} at {options.commit}: {ratios[-1]:.2f} times", flush=True)
    print(f"{options.config}: {statistics.median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f}, n={len(ratios)})")


if __name__ == "__main__":
    main()
