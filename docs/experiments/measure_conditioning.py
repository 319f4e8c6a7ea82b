"""Scores on trained and on held-out tasks under each kind of task conditioning.

    python docs/experiments/measure_conditioning.py CONFIG TRAINED HELD_OUT [--frames 100_000] [--seeds 1] [--episodes 25] [-- OPTIONS]

TRAINED and HELD_OUT are suites of one family, such as `context/cartpole=0.2,1,3` and `context/cartpole=0.5,2`; OPTIONS are of `train`.
For every seed, trains CONFIG on TRAINED with `one_hot`, `embedding` and `sentence`, in one process and with a single head, and prints the
mean scores of both suites. `one_hot` cannot play HELD_OUT, which is said. `random` is a policy with its initial weights on HELD_OUT, whose
actions are nearly uniform.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from envs import make_suite  # noqa: E402
from mtrl.config import load_config, override  # noqa: E402
from mtrl.errors import UserError  # noqa: E402
from mtrl.evaluation.runner import evaluate_run  # noqa: E402
from mtrl.evaluation.unsaved import evaluate_weights  # noqa: E402
from mtrl.learning.learner import Learner  # noqa: E402
from mtrl.storage.run_directory import RunDirectory  # noqa: E402

KINDS = ("one_hot", "embedding", "sentence")


def main() -> None:
    """Prints a line for each seed and kind of conditioning."""
    arguments = _arguments()
    for seed in range(arguments.seeds):
        print(f"seed {seed}, random: held-out {random_score(arguments, seed):.3f}", flush=True)
        for kind in KINDS:
            with tempfile.TemporaryDirectory() as folder:
                directory = train(arguments, kind, seed, Path(folder) / "run")
                trained = evaluate_run(directory, episodes=arguments.episodes)
                try:
                    found = evaluate_run(directory, suite=arguments.held_out, episodes=arguments.episodes).unseen_score_mean
                    held_out = "all of them were trained" if found is None else found.text(3)
                except UserError as error:
                    held_out = f"refused ({error})"
            print(f"seed {seed}, {kind}: trained {trained.score_mean.text(3)}, held-out {held_out}; {trained.step:,} frames", flush=True)


def random_score(arguments: argparse.Namespace, seed: int) -> float:
    """The mean score of initial weights on the held-out tasks."""
    config = override(load_config(ROOT / "configs" / f"{arguments.config}.yaml"), {"suite.name": arguments.held_out, "seed": seed})
    weights = Learner(config, make_suite(arguments.held_out)).policy_weights()
    return float(evaluate_weights(config, weights, arguments.episodes)["score_mean"])


def train(arguments: argparse.Namespace, kind: str, seed: int, path: Path) -> RunDirectory:
    """One run."""
    command = [sys.executable, "launch.py", "train", arguments.config, "--suite.name", arguments.trained, "--seed", str(seed)]
    command += ["--total-frames", arguments.frames, "--num-env-runners", "0", "--run-dir", str(path), *arguments.options]
    command += ["--model.heads", "single", "--model.conditioning", kind]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{kind} has failed:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    return RunDirectory.open(path)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("trained")
    parser.add_argument("held_out")
    parser.add_argument("--frames", default="100_000")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--episodes", type=int, default=25)
    own, _, options = " ".join(sys.argv[1:]).partition(" -- ")
    return parser.parse_args(own.split(), argparse.Namespace(options=options.split()))


if __name__ == "__main__":
    main()
