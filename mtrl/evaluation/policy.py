"""A saved policy as an actor."""

from __future__ import annotations

from pathlib import Path

from envs import TaskSuite, make_suite
from mtrl.config import ModelConfig
from mtrl.models.policy import Actor, build_policy, load_weights
from mtrl.storage.checkpoint import load_policy


def load_actor(policy: Path) -> tuple[TaskSuite, Actor]:
    """The tasks and the actor of a policy's folder.

    Raises:
        DamagedCheckpointError: a file is missing or not what was written.
        ConfigError: the tasks have changed so much since that its weights do not fit.
    """
    weights, description = load_policy(policy)
    suite = make_suite(description["suite"])
    network = build_policy(ModelConfig(**description["model"]), suite, seed=0)
    load_weights(network, weights)
    return suite, network.actor
