"""What early stopping saves in a search.

    python docs/experiments/measure_search.py [--trials 64] [--budget 100_000] [--seeds 3] [--method asha] [--folder DIR]

For each seed, searches `minigrid_mt3` over `configs/spaces/minigrid.yaml` by random search and by the method, in turns. Prints the best
score of each, the frames of each, and at which share of the random search's frames the method had reached that search's best score. With a
folder, searches are kept, and the same command goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from mtrl.dashboard.search import spent_until_best  # noqa: E402
from mtrl.storage.search_record import TrialRecord, read_search  # noqa: E402


def main() -> None:
    """Prints a line for each seed and the median share."""
    arguments = _arguments()
    shares = []
    for seed in range(arguments.seeds):
        with contextlib.nullcontext(arguments.folder) if arguments.folder else tempfile.TemporaryDirectory() as folder:
            found = {method: run(method, seed, Path(folder) / f"{method}-{seed}", arguments) for method in ("random", arguments.method)}
        best = {method: max(trial.best or 0.0 for trial in trials) for method, trials in found.items()}
        spent = {method: spent_until_best(trials, "frames")[-1][0] for method, trials in found.items()}
        needed = cost_of(found[arguments.method], best["random"])
        shares.append(needed / spent["random"])
        print(
            f"seed {seed}: random {best['random']:.3f} with {spent['random']:,.0f} frames; {arguments.method} "
            f"{best[arguments.method]:.3f} with {spent[arguments.method]:,.0f}; the former's best at {shares[-1]:.2f} of its cost",
            flush=True,
        )
    print(f"median share of the cost: {statistics.median(shares):.2f}")


def cost_of(trials: Sequence[TrialRecord], score: float) -> float:
    """Frames of all trials until one of them has the score; infinite where none has."""
    return next((cost for cost, best in spent_until_best(trials, "frames") if best >= score), float("inf"))


def run(method: str, seed: int, folder: Path, arguments: argparse.Namespace) -> list[TrialRecord]:
    """One search, with values that depend on the seed alone."""
    command = [sys.executable, "launch.py", "search", "minigrid_mt3", "--space", "minigrid", "--method", method]
    command += ["--trials", str(arguments.trials), "--budget", arguments.budget, "--search-seed", str(seed), "--run-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{method} has failed:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    return read_search(folder)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--budget", default="100_000")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--method", default="asha")
    parser.add_argument("--folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
