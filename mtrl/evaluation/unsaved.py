"""The evaluation of a policy that is not saved."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from envs import make_suite
from envs.vector import Arrays
from mtrl.config import ExperimentConfig
from mtrl.evaluation.jobs import play
from mtrl.evaluation.protocols import protocol_of
from mtrl.evaluation.runner import summarize
from mtrl.models.policy import build_policy, load_weights


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
            training_levels=experiment.curriculum.levels.count,
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
