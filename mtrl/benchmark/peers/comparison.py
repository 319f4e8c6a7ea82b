"""Frames per second of this system and of other trainers, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from envs import TaskSuite, make_suite
from mtrl.benchmark.fresh_process import run_in_fresh_process
from mtrl.benchmark.peers.program import PEERS, PeerProgram, steps_per_second
from mtrl.benchmark.speed import MODULE, ROUND_SECONDS, ROUNDS, describe, print_row
from mtrl.config import ExperimentConfig
from mtrl.errors import UserError

WARM_UP_SECONDS = 30.0  # after the first steps: Sample Factory's environments begin at random moments
OURS, RLLIB = "ours", "rllib"
TRAINERS = (RLLIB, *PEERS)
LABELS = {OURS: "this system", RLLIB: "RLlib IMPALA, 2x256"} | {name: peer.label for name, peer in PEERS.items()}


def compare_with_peers(config: ExperimentConfig, names: Sequence[str]) -> None:
    """Prints frames per second of this system and of the peers in turns, each in a process of its own, and the ratios of each round.

    Args:
        config: the experiment of this system; the peers train on its tasks with two layers of 256 and settings of their own.
        names: some of `TRAINERS`.

    Raises:
        UserError: a peer cannot be installed or does not know the tasks.
    """
    describe(config)
    suite = make_suite(config.suite.name)
    env_ids = minigrid_ids(suite) if set(names) - {RLLIB} else []
    rates: dict[str, list[float]] = {name: [] for name in (OURS, *names)}
    for _ in range(ROUNDS):
        for name, found in rates.items():
            if name in PEERS:
                found.append(measure_peer(name, env_ids, ROUND_SECONDS, WARM_UP_SECONDS))
            else:
                found.append(run_in_fresh_process(MODULE, config, "system" if name == OURS else name))
    for name, found in rates.items():
        print_row(LABELS[name], found, "frames/s")
    for name in names:
        ratios = [ours / theirs for ours, theirs in zip(rates[OURS], rates[name], strict=True)]
        print_row(f"this system over {LABELS[name]}", ratios, "")
        print(f"ratio of medians: {statistics.median(rates[OURS]) / statistics.median(rates[name]):.2f}")


def measure_peer(name: str, env_ids: list[str], seconds: float, warm_up: float) -> float:
    """Environment steps per second of a peer that trains, after a warm-up from its first steps on."""
    with PeerProgram.running(name, env_ids) as program:
        program.wait_for_steps()
        time.sleep(warm_up)
        start = time.monotonic()
        time.sleep(seconds)
        end = time.monotonic()
        return steps_per_second(program.lines(), start, end)


def minigrid_ids(suite: TaskSuite) -> list[str]:
    """MiniGrid's ids of the tasks.

    Raises:
        UserError: they are not MiniGrid's.
    """
    if not suite.name.startswith("minigrid/") or "+" in suite.name:
        raise UserError(f"Sample Factory and PufferLib are measured on minigrid/… alone, and {suite.name} is another suite; see --against")
    return [f"MiniGrid-{name}-v0" for name in suite.names]
