"""The rules of an evaluation: a suite's published protocol, or a generic one."""

from __future__ import annotations

from envs import EvaluationProtocol, TaskSuite

GENERIC = EvaluationProtocol("generic-v1", episodes=25, actions="sampled")


def protocol_of(suite: TaskSuite) -> EvaluationProtocol:
    """The suite's own protocol; `GENERIC` where it has none, or mixes suites with different ones."""
    return suite.protocol or GENERIC
