"""The multi-task policy: an actor for those who collect, a critic for those who learn."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from envs import TaskSuite
from mtrl.config import ModelConfig
from mtrl.distributions import Distribution, make_distribution
from mtrl.models.encoders import make_encoder
from mtrl.models.experts import mix, mix_plain
from mtrl.models.gates import LinearGate
from mtrl.models.heads import MultiHead, SingleHead
from mtrl.models.rows import Rows


class Trunk(nn.Module):
    """Experts' features, mixed with the task's weights and squashed: tanh(w · V)."""

    def __init__(self, model: ModelConfig, suite: TaskSuite):
        super().__init__()
        self.encoder = make_encoder(suite.observation_space, model.experts)
        self.gate = LinearGate(suite.num_tasks, model.experts)
        self.feature_size = int(self.encoder.feature_size)  # type: ignore[arg-type]
        self._mix = mix if model.orthogonal else mix_plain

    def forward(self, rows: Rows) -> Float[Tensor, "N D"]:
        """The feature that heads read."""
        return torch.tanh(self._mix(self.encoder(rows.obs), self.gate(rows.task_ids)))


class Actor(nn.Module):
    """Maps rows to the parameters of the action distribution. All that a runner needs."""

    def __init__(self, model: ModelConfig, suite: TaskSuite):
        super().__init__()
        self.num_tasks = suite.num_tasks
        self.share_repeats = model.share_repeats
        self.distribution: Distribution = make_distribution(suite.action_space)
        self.trunk = Trunk(model, suite)
        # Near-uniform actions at the start.
        self.head = _make_head(model, suite, self.trunk.feature_size, self.distribution.num_parameters, output_gain=0.01)

    def forward(self, rows: Rows) -> Float[Tensor, "N P"]:
        """Parameters of the action distribution."""
        return self.head(self.trunk(rows), rows.counts)


class Critic(nn.Module):
    """Maps rows to values, through a trunk of its own unless it is given the features of another."""

    def __init__(self, model: ModelConfig, suite: TaskSuite, shared: Trunk | None):
        super().__init__()
        self.trunk = Trunk(model, suite) if shared is None else None
        feature_size = self.trunk.feature_size if shared is None else shared.feature_size  # type: ignore[union-attr]
        self.head = _make_head(model, suite, feature_size, 1, output_gain=1.0)

    def forward(self, rows: Rows, shared_features: Float[Tensor, "N D"] | None) -> Float[Tensor, " N"]:
        """Values, from the shared trunk's features where there is one."""
        features = self.trunk(rows) if self.trunk is not None else shared_features
        return self.head(features, rows.counts).squeeze(-1)


class PolicyOutput(NamedTuple):
    """What the learner reads off N rows."""

    parameters: Float[Tensor, "N P"]  # of the action distribution
    values: Float[Tensor, " N"]


class Policy(nn.Module):
    """Actor and critic of one learner."""

    def __init__(self, model: ModelConfig, suite: TaskSuite):
        super().__init__()
        self.actor = Actor(model, suite)
        self.critic = Critic(model, suite, shared=self.actor.trunk if model.trunks == "shared" else None)

    def forward(self, rows: Rows) -> PolicyOutput:
        """Both outputs; a shared trunk is traversed once."""
        features = self.actor.trunk(rows)
        parameters = self.actor.head(features, rows.counts)
        return PolicyOutput(parameters=parameters.float(), values=self.critic(rows, features).float())


def build_policy(model: ModelConfig, suite: TaskSuite, seed: int) -> Policy:
    """A policy for the suite's spaces and tasks whose initial weights depend on `seed` alone.

    Raises:
        ValueError: no encoder or distribution fits the suite's spaces, or there are more experts than feature dimensions.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Policy(model, suite)


def _make_head(model: ModelConfig, suite: TaskSuite, inputs: int, outputs: int, *, output_gain: float) -> nn.Module:
    kind = MultiHead if model.heads == "multi" else SingleHead
    return kind(suite.num_tasks, inputs, model.head_width, outputs, output_gain=output_gain)
