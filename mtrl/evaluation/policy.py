"""A saved policy as an actor."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from envs import TaskSuite, make_suite
from mtrl.config import ConfigError, ModelConfig
from mtrl.evaluation.unseen import suite_to_play
from mtrl.models.conditioning import places_of, weights_for
from mtrl.models.policy import Actor, build_policy, load_weights
from mtrl.storage.checkpoint import load_policy


def load_actor(policy: Path, suite: str = "") -> tuple[TaskSuite, Actor]:
    """The tasks and the actor of a policy's folder.

    Args:
        policy: its folder.
        suite: the name of a suite with tasks that the policy was not trained on, for which the actor is to act; empty for its own.

    Raises:
        DamagedCheckpointError: a file is missing or not what was written.
        ConfigError: the tasks have changed so much since that its weights do not fit, or its actions mean something else now.
    """
    weights, description = load_policy(policy)
    own = make_suite(description["suite"])
    played = suite_to_play(own, suite) if suite else own
    check_actions(policy, description, played)
    network = build_policy(ModelConfig(**description["model"]), played, seed=0)
    load_weights(network, weights_for(network, weights, places_of(played, own.names)) if suite else weights)
    return played, network.actor


def check_actions(policy: Path, description: Mapping[str, Any], suite: TaskSuite) -> None:
    """Compares the meaning of a policy's actions with that of the suite's tasks today; warns where the policy does not record it.

    Args:
        policy: its folder.
        description: the description saved with it.
        suite: its tasks.

    Raises:
        ConfigError: they differ: the policy would act on another scale than it was trained on.
    """
    now = suite.rules.get("actions")
    if "rules" not in description:
        if now is not None:
            warnings.warn(
                f"{policy} does not say how its actions are scaled; they are mapped {now}, and a policy of an early version, whose actions "
                "were in the environment's units, acts wrongly",
                stacklevel=3,
            )
        return
    before = description["rules"].get("actions")
    if before != now:
        raise ConfigError(
            f"the actions of {policy} were {_mapped(before)} when it was trained, and those of {suite.name} are {_mapped(now)} today: "
            "it would act wrongly. Use the tasks that it was trained with, or train it again"
        )


def _mapped(rule: str | None) -> str:
    return "given as they are" if rule is None else f"mapped {rule}"
