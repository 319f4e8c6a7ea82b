"""How results are scored, by family of suites: named and versioned, so that two figures are comparable or visibly not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from envs import TaskSuite


@dataclass(frozen=True)
class Protocol:
    """The rules of one evaluation."""

    name: str
    episodes: int
    """Episodes of each task."""
    actions: Literal["sampled", "greedy"]
    """Drawn from the policy, or always the most likely one."""
    backend: str = "gymnasium"
    """Whose environments are played: the reference's, not the ones trained on."""


PROTOCOLS = {
    "atari": Protocol("atari-v1", episodes=10, actions="sampled", backend="envpool"),  # ALE's own code is what EnvPool steps
    "babyai": Protocol("babyai-512-v1", episodes=512, actions="greedy"),
    "metaworld": Protocol("metaworld-50-v1", episodes=50, actions="greedy"),  # one for each training goal
    "minigrid": Protocol("minigrid-v1", episodes=25, actions="sampled"),
    "toy": Protocol("toy-v1", episodes=5, actions="sampled"),
}
GENERIC = Protocol("generic-v1", episodes=25, actions="sampled")


def protocol_of(suite: TaskSuite) -> Protocol:
    """The protocol of the suite's family."""
    return PROTOCOLS.get(suite.family, GENERIC)
