"""Evaluation jobs as Ray tasks, and the evaluation of weights that are not saved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import ray
import torch

from envs import Episode, make_suite
from envs.vector import Arrays
from mtrl.config import ExperimentConfig
from mtrl.distributed.cluster import start_ray
from mtrl.evaluation.jobs import Job, play, play_job
from mtrl.evaluation.protocols import protocol_of
from mtrl.evaluation.runner import summarize
from mtrl.models.policy import build_policy, load_weights


def play_on_ray(jobs: Sequence[Job]) -> Iterator[tuple[Job, list[Episode]]]:
    """Plays jobs wherever the cluster has a free core; a job whose worker died is played again elsewhere."""
    start_ray()
    remote = ray.remote(num_cpus=1, max_retries=3)(play_job)
    running = {remote.remote(job): job for job in jobs}
    while running:
        (done, *_), _ = ray.wait(list(running), num_returns=1)
        yield running.pop(done), ray.get(done)


def evaluate_weights(experiment: ExperimentConfig, weights: Arrays, episodes: int | None = None) -> dict[str, Any]:
    """Plays a policy by its suite's protocol, in this process.

    Args:
        experiment: the experiment that the policy is of.
        weights: actor and critic.
        episodes: of each task; by default the protocol's number.

    Returns:
        `env_runners` with RLlib's names, and `tasks` with each task's figures by its name.
    """
    suite = make_suite(experiment.suite.name)
    policy = build_policy(experiment.model, suite, experiment.seed)
    load_weights(policy, {name: torch.from_numpy(np.array(array)) for name, array in weights.items()})
    protocol = protocol_of(suite)
    rows = [
        episode
        for task in range(suite.num_tasks)
        for episode in play(
            policy.actor.eval(),
            suite,
            task,
            episodes or protocol.episodes,
            backend=protocol.backend,
            seed=0,
            sampled=protocol.actions == "sampled",
        )
    ]
    tasks, score = summarize(suite, rows)
    return {
        "env_runners": {
            "episode_return_mean": float(np.mean([row.episode_return for row in rows])),
            "episode_len_mean": float(np.mean([row.length for row in rows])),
            "num_episodes": len(rows),
        },
        "score_mean": score.value,
        "tasks": {
            name: {"score": row.score.value, "success_rate": row.success_rate.value, "episode_return_mean": row.return_mean}
            for name, row in tasks.items()
        },
    }
