"""Whether this tree is slower than another commit: both are measured in turns, in processes of their own, and the ratios decide."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mtrl.config import ExperimentConfig, dump_yaml, override
from mtrl.errors import UserError
from mtrl.machine import PROJECT_ROOT

ROUNDS = 7  # pairs; the tree that goes first changes from one to the next
TOLERANCE = 0.03  # a ratio below 1 less this is too slow
SEEDS = 5  # of the bootstrap, all of which have to agree
DRAWS = 2000
SECONDS = 5.0  # of each measurement

# Only names that former commits have, too.
PROBE = """
import json, statistics, sys, time
from envs import make_suite
from mtrl.config import load_config
from mtrl.learning.learner import Learner
from mtrl.rollouts.collector import build_collector
from mtrl.training.trainer import build_trainer

config, seconds = load_config(sys.argv[1]), float(sys.argv[2])
suite = make_suite(config.suite.name)
collector, learner = build_collector(config, suite, runner=0), Learner(config, suite)
collector.set_weights(0, learner.actor_weights())
rollout = [collector.collect().rollout for _ in range(2)][-1]
collector.close()
learner.update(rollout, 0.0)
times, end = [], time.perf_counter() + seconds
while time.perf_counter() < end or len(times) < 3:
    start = time.perf_counter()
    learner.update(rollout, 0.0)
    times.append(time.perf_counter() - start)
trainer = build_trainer(config)
for _ in range(2):
    trainer.step()
frames, start = trainer.frames, time.perf_counter()
while time.perf_counter() - start < seconds:
    trainer.step()
speed = (trainer.frames - frames) / (time.perf_counter() - start)
trainer.close()
print(json.dumps({"learner": rollout.num_frames / statistics.median(times), "whole system": speed}))
"""


class Verdict(NamedTuple):
    """One figure of this tree against the other one."""

    name: str
    ratio: float  # median of this tree's speed over the other's, pair by pair
    low: float  # 95 % interval of the median
    high: float
    slower: bool


def gate(config: ExperimentConfig, base: str) -> bool:
    """Measures, prints a line for each figure, and says whether none of them is slower.

    Args:
        config: the experiment, which both commits have to understand; it is run in one process.
        base: the other commit, by any name that git knows.

    Raises:
        UserError: git does not know the commit, or one of the trees cannot be measured.
    """
    config = override(config, {"env_runners.num_env_runners": 0})
    with worktree(base) as other, tempfile.TemporaryDirectory() as folder:
        experiment = Path(folder) / "experiment.yaml"
        experiment.write_text(dump_yaml(config))
        pairs = []
        for number in range(ROUNDS):
            trees = [PROJECT_ROOT, other] if number % 2 else [other, PROJECT_ROOT]
            found = {tree: _measure(tree, experiment) for tree in trees}
            pairs.append({name: found[PROJECT_ROOT][name] / found[other][name] for name in found[other]})
            print(f"pair {number + 1} of {ROUNDS}: " + ", ".join(f"{name} {ratio:.3f}" for name, ratio in pairs[-1].items()), flush=True)
    verdicts = [judge(name, [pair[name] for pair in pairs]) for name in pairs[0]]
    for verdict in verdicts:
        word = "SLOWER" if verdict.slower else "not slower"
        print(f"{verdict.name}: {verdict.ratio:.3f} ({verdict.low:.3f} to {verdict.high:.3f}) times as fast as {base}: {word}")
    return not any(verdict.slower for verdict in verdicts)


def judge(name: str, ratios: list[float]) -> Verdict:
    """Slower is a median below 1 by more than the tolerance, with an interval that leaves 1 out under every seed of the bootstrap."""
    values, median = np.array(ratios), statistics.median(ratios)
    bounds = []
    for seed in range(SEEDS):
        drawn = np.random.default_rng(seed).choice(values, (DRAWS, len(values)))
        bounds.append(np.percentile(np.median(drawn, axis=1), (2.5, 97.5)))
    low, high = min(bound[0] for bound in bounds), max(bound[1] for bound in bounds)
    return Verdict(name, median, float(low), float(high), median < 1 - TOLERANCE and bool(high < 1))


def _measure(tree: Path, experiment: Path) -> dict[str, float]:
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-P", "-c", PROBE, str(experiment), str(SECONDS)]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{tree} cannot be measured: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


@contextmanager
def worktree(base: str) -> Iterator[Path]:
    """A folder with the files of another commit, which is removed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "base"
        added = _git("worktree", "add", "--detach", str(place), base)
        if added.returncode:
            raise UserError(f"git has no commit {base}: {(added.stderr.strip().splitlines() or ['no reason'])[-1]}")
        try:
            yield place
        finally:
            _git("worktree", "remove", "--force", str(place))


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["git", *arguments], cwd=PROJECT_ROOT, capture_output=True, text=True)
    except OSError as error:
        raise UserError(f"git cannot be run: {error.strerror}") from None
