"""Ends commands by signals at random moments: `python docs/experiments/measure_leftovers.py [ROUNDS]`.

For each command and each of SIGTERM, SIGINT and SIGHUP, the signal goes to the command's whole process group after a random time. Prints
the time until the command has ended and the processes that are left one second later. Exit code 1 if some are, or if a command took more
than `LONGEST` seconds.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from measure_signals import MARK, marked

LONGEST = 10.0  # seconds from the signal to the end
LATEST = 20.0  # seconds until the signal


def commands(folder: Path, run: Path) -> dict[str, list[str]]:
    """The commands that start processes, by a short name."""
    endless = ["--total-frames", str(10**9)]
    return {
        "train, one process": ["train", "toy", "--run-dir", str(folder / "a"), *endless],
        "train, one runner": ["train", "toy", "--num-env-runners", "1", "--run-dir", str(folder / "b"), *endless],
        "train, background evaluation": [
            *("train", "toy", "--run-dir", str(folder / "c"), *endless),
            *("--evaluation.every-frames", "1", "--evaluation.episodes", "5000"),
        ],
        "evaluate": ["evaluate", str(run), "--episodes", "20000", "--workers", "2"],
        "sweep": ["sweep", "toy", "--seeds", "2", "--run-dir", str(folder / "d"), *endless],
        "bench chaos": ["bench", "chaos", "toy", "--minutes", "1"],
        "bench throughput": ["bench", "throughput", "minigrid_mt3"],
        "doctor": ["doctor", "toy", "--num-env-runners", "1"],
        "dashboard": ["dashboard", str(run.parent), "--port", "8765"],
    }


def main(rounds: int) -> int:
    """Returns the exit code."""
    rng, faults = random.Random(0), 0
    with tempfile.TemporaryDirectory() as root:
        run = Path(root) / "run"
        subprocess.run(
            [sys.executable, "launch.py", "train", "toy", "--run-dir", str(run), "--total-frames", "1000"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        for number, which in itertools.product(range(rounds), (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)):
            for name, arguments in commands(Path(root) / f"{number}-{which.name}", run).items():
                faults += not ends(name, arguments, which, rng.uniform(0.2, LATEST))
    print(f"{faults} faults")
    return bool(faults)


def ends(name: str, arguments: list[str], number: signal.Signals, seconds: float) -> bool:
    """One command, ended after these seconds."""
    mark = uuid.uuid4().hex
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "launch.py", *arguments], stdout=log, stderr=log, start_new_session=True, env={**os.environ, MARK: mark}
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, number)
        begin = time.monotonic()
        process.wait()
        took = time.monotonic() - begin
        time.sleep(1.0)
        left = marked(mark)
        good = took <= LONGEST and not left
        print(
            f"{name:30} {number.name:8} after {seconds:5.1f} s: {took:5.2f} s, code {process.returncode}, left {left or 'nothing'}",
            flush=True,
        )
        if not good:
            log.seek(0)
            print("    FAULT " + log.read()[-600:].replace("\n", "\n    "))
    return good


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10))
