"""How much evaluation on the side slows training: `python docs/experiments/measure_evaluation.py [CONFIG] [EVERY_FRAMES] [ROUNDS]`.

Trains for 90 seconds with and without it, in turns, and prints frames/s after the first 15 seconds. By default an evaluation is asked for
every 50 000 frames, which is as good as always.
"""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from mtrl.storage.run_directory import RunDirectory

SECONDS = 90
WARM_UP = 15


def frames_per_second(config: str, every_frames: int | None) -> tuple[float, int]:
    """Trained frames per second, and evaluations that ended."""
    path = Path(tempfile.mkdtemp()) / "run"
    command = [sys.executable, "launch.py", "train", config, "--run-dir", str(path), "--report-seconds", "2"]
    command += ["--evaluation.every-frames", str(every_frames)] if every_frames else []
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()
    rows = RunDirectory.open(path).read_metrics()
    late = [row for row in rows if row["time"] - rows[0]["time"] > WARM_UP]
    rate = (late[-1]["summary/frames"] - late[0]["summary/frames"]) / (late[-1]["time"] - late[0]["time"])
    return rate, len(list(path.glob("evaluation/*/results.json")))


def measure(config: str, every_frames: int, rounds: int) -> None:
    """Prints medians and their ratio."""
    without, beside, evaluations = [], [], 0
    for _ in range(rounds):
        without.append(frames_per_second(config, None)[0])
        rate, ended = frames_per_second(config, every_frames)
        beside.append(rate)
        evaluations += ended
        print(f"without {without[-1]:,.0f}, beside an evaluation {rate:,.0f} frames/s", flush=True)
    slower = 1 - statistics.median(beside) / statistics.median(without)
    print(f"medians {statistics.median(without):,.0f} and {statistics.median(beside):,.0f}: slower by {slower:.1%}; {evaluations} ended")


if __name__ == "__main__":
    given = [*sys.argv[1:], *("minigrid_mt7", "50000", "3")[len(sys.argv) - 1 :]]
    measure(given[0], int(given[1]), int(given[2]))
