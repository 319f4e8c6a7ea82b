"""What experts of other tasks are worth: `python docs/experiments/measure_transfer.py CONFIG TASKS FRAMES FOLDER SEED [SEED ...]`.

For every seed, in one process each: trains CONFIG, then TASKS (such as `minigrid/DoorKey-6x6,DistShift1`) under the same settings
for FRAMES from random experts, and for half of FRAMES from random experts, from CONFIG's experts, and from CONFIG's experts left as
they are. Evaluates all of them, and counts the frames until the mean score of the latest training episodes was first at 0.5 and at
0.9. Runs that are in FOLDER already are only evaluated.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from envs import make_suite
from mtrl.evaluation.runner import evaluate_run
from mtrl.storage.run_directory import RunDirectory

LEVELS = (0.5, 0.9)
SLOTS_PER_TASK = 16


def train(path: Path, *arguments: str) -> Path:
    """Trains into `path` unless that is there."""
    if not path.exists():
        command = [sys.executable, "launch.py", "train", *arguments, "--env-runners.num-env-runners", "0", "--run-dir", str(path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


def frames_to(directory: RunDirectory, level: float) -> int | None:
    """Frames after which the mean training score of all tasks was first at `level`."""
    rows = directory.read_metrics()
    return next((int(row["summary/frames"]) for row in rows if (row.get("summary/score_mean") or 0) >= level), None)


def report(path: Path) -> None:
    """One line: the evaluated scores, their mean, and the frames to each level."""
    directory = RunDirectory.open(path)
    results = evaluate_run(directory)
    tasks = ", ".join(f"{name} {task.score.value:.2f}" for name, task in results.tasks.items())
    reached = ", ".join(f"{level} after {frames_to(directory, level) or float('nan'):,.0f}" for level in LEVELS)
    print(f"{path.name}: mean {results['score_mean']['value']:.3f} ({tasks}); {reached}", flush=True)


def measure(config: str, tasks: str, frames: int, folder: Path, seeds: list[str]) -> None:
    """Prints a line for every run."""
    slots = SLOTS_PER_TASK * len(make_suite(tasks).names)
    for seed in seeds:
        source = train(folder / f"{config}-{seed}", config, "--seed", seed)
        new = [config, "--seed", seed, "--suite.name", tasks, "--env-runners.slots", str(slots)]
        experts = ["--init-experts", str(source)]
        for name, length, options in (
            ("random", frames, []),
            ("random-half", frames // 2, []),
            ("experts-half", frames // 2, experts),
            ("frozen-half", frames // 2, [*experts, "--model.freeze-experts", "true"]),
        ):
            report(train(folder / f"{name}-{seed}", *new, "--total-frames", str(length), *options))


if __name__ == "__main__":
    config, tasks, frames, folder, *seeds = sys.argv[1:]
    measure(config, tasks, int(frames), Path(folder), seeds)
