"""Whether a BabyAI policy does what it is told: `python docs/experiments/measure_missions.py RUN [EPISODES] [LEVEL ...]`.

Plays EPISODES (100 by default) of every level of the run twice by its newest policy: with their own missions, and with each episode shown
the mission of the next one instead. What counts as success is the episode's own mission both times.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from envs.vector import Arrays
from mtrl.evaluation.intervals import success_interval
from mtrl.evaluation.jobs import play
from mtrl.evaluation.policy import load_actor
from mtrl.evaluation.protocols import protocol_of
from mtrl.storage.checkpoint import resolve_policy
from mtrl.storage.run_directory import RunDirectory


class NextOnes:
    """Shows every slot the mission that the slot after it began with."""

    def __init__(self) -> None:
        self.missions: np.ndarray | None = None
        self.changed = 0.0  # share of the slots whose mission is another one now

    def __call__(self, obs: Arrays) -> Arrays:
        """The observations with the missions of others."""
        if self.missions is None:
            self.missions = np.roll(obs["mission"], -1, axis=0)
            self.changed = float((self.missions != obs["mission"]).any(axis=1).mean())
        return obs | {"mission": self.missions}


def measure(run: Path, episodes: int, levels: list[str]) -> None:
    """Prints a line for every level."""
    directory = RunDirectory.open(run)
    suite, actor = load_actor(resolve_policy(directory.checkpoints, directory.policies, "latest"))
    protocol = protocol_of(suite)
    for level in levels or suite.names:
        task, next_ones = suite.index(level), NextOnes()
        plays = partial(play, actor, suite, task, episodes, backend=protocol.backend, seed=0, sampled=protocol.actions == "sampled")
        told, misled = (
            success_interval(sum(episode.success for episode in played), episodes) for played in (plays(), plays(shown=next_ones))
        )
        print(
            f"{level}: {told.value:.2f} ({told.low:.2f} to {told.high:.2f}) with its own missions, {misled.value:.2f} "
            f"({misled.low:.2f} to {misled.high:.2f}) with the next ones', of which {next_ones.changed:.0%} differ",
            flush=True,
        )


if __name__ == "__main__":
    run, *rest = sys.argv[1:]
    episodes = int(rest.pop(0)) if rest and rest[0].isdigit() else 100
    measure(Path(run), episodes, rest)
