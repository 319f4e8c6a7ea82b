"""Kills a training run with SIGKILL at random moments and starts it again: `python docs/experiments/measure_kills.py [KILLS]`.

After every kill the same command goes on (`--auto-resume`). Every third kill comes while the run is starting, the others some random time
after it has gone on. Prints each time how far the checkpoints are, and in the end whether a start failed, a checkpoint was lost or the
counters ever ran back. Exit code 1 if one did.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mtrl.storage.checkpoint import load_checkpoint, newest_valid, steps
from mtrl.storage.run_directory import RunDirectory

STARTING = 6.0  # seconds that a start takes, about
LONGEST = 5.0  # seconds from going on to the kill
PATIENCE = 120.0  # seconds for a start


def main(kills: int) -> int:
    """Returns the exit code."""
    run = Path(tempfile.mkdtemp()) / "run"
    command = [sys.executable, "launch.py", "train", "toy", "--run-dir", str(run), "--auto-resume", "--total-frames", str(10**9)]
    command += ["--checkpoints.every-seconds", "0.1", "--report-seconds", "0.5"]
    rng, reached, faults, waited, resumed = random.Random(0), 0, [], 0, 0
    for kill in range(1, kills + 1):
        before = time.monotonic()
        log = run.parent / "log"
        with log.open("w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        if kill % 3 == 0:
            time.sleep(rng.uniform(0.0, STARTING))
        else:
            waited += 1
            resumed += wait_for("resumed" if reached else "frames/s", log, process)
            time.sleep(rng.uniform(0.0, LONGEST))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        said = log.read_text()
        if process.returncode != -signal.SIGKILL:
            faults.append(f"kill {kill}: ended by itself with code {process.returncode}: {said[-500:]}")
        newest, problems = newest_valid(run / "checkpoints") if (run / "checkpoints").exists() else (None, [])
        faults += [f"kill {kill}: {problem}" for problem in problems]
        frames = newest.manifest.step if newest is not None else 0
        if frames < reached:
            faults.append(f"kill {kill}: the newest checkpoint is of {frames:,} frames, and was of {reached:,}")
        for step in steps(run / "checkpoints") if newest is not None else []:
            load_checkpoint(run / "checkpoints" / str(step))
        reached = max(reached, frames)
        print(f"kill {kill} after {time.monotonic() - before:4.1f} s: {frames:,} frames in the newest checkpoint", flush=True)
    rows = [int(row["summary/frames"]) for row in RunDirectory.open(run).read_metrics()]
    if rows != sorted(rows):
        faults.append("the metrics run back")
    print("\n".join(faults) or f"{kills} kills; of the starts that were given the time {resumed} of {waited} went on; nothing was lost")
    return bool(faults) or resumed < waited


def wait_for(word: str, log: Path, process: subprocess.Popen) -> bool:
    """Whether the word is said before the process ends or patience does."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        if word in log.read_text():
            return True
        time.sleep(0.05)
    return False


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50))
