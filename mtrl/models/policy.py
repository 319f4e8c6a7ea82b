"""The multi-task policy: an actor for rollouts, and a critic beside it for learning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from envs import TaskSuite
from envs.mixed import MixedSuite
from envs.observations import MASK
from mtrl.config import ConfigError, ModelConfig
from mtrl.models.activations import tanh
from mtrl.models.branches import PrivateBranches
from mtrl.models.conditioning import make_task_vectors
from mtrl.models.distributions import Distribution, Either, make_distribution
from mtrl.models.encoders import make_encoder
from mtrl.models.experts import mix, mix_plain
from mtrl.models.gates import Gate, make_gate
from mtrl.models.heads import Head, KindHead, MultiHead, make_head
from mtrl.models.masks import forbid, make_mask
from mtrl.models.memory import Memory
from mtrl.models.normalization import ObservationScale
from mtrl.models.popart import PopArt
from mtrl.models.rows import IndexedObservations, Rows, rows_at
from mtrl.models.view import View, make_view
from mtrl.parallel import Total, alone


class Trunk(nn.Module):
    """Experts' features, mixed with the task's weights and squashed: tanh(w · V). Under a gate with private branches this is averaged with
    the squashed feature of the task's branch, by the task's share. Where tasks have vectors, the task's is appended.
    """

    def __init__(self, model: ModelConfig, suite: TaskSuite):
        super().__init__()
        self.encoder = make_encoder(suite.observation_space, model, suite.num_tasks)
        vectors = make_task_vectors(model, suite)
        self.gate = make_gate(model, suite.num_tasks, vectors)
        self.feature_size = int(self.encoder.feature_size) + (vectors.size if vectors is not None else 0)  # type: ignore[arg-type]
        self.orthogonal = model.orthogonal
        self._mix = mix if model.orthogonal else mix_plain
        self.private = None
        if self.gate.private_share() is not None:
            self.private = _make_branches(model, suite, int(self.encoder.feature_size))  # type: ignore[arg-type]

    def forward(self, rows: Rows) -> Float[Tensor, "N D"]:
        """The feature that heads or a memory read."""
        obs = {name: array for name, array in rows.obs.items() if name != MASK}
        mixed = tanh(self._mix(self.encoder(obs, rows.task_ids), self.gate(rows.task_ids)))
        shares = self.gate.private_share()
        if self.private is not None and shares is not None:
            share = shares[rows.task_ids].unsqueeze(1)
            mixed = share * tanh(self.private(obs, rows.task_ids, rows.counts)) + (1 - share) * mixed
        if self.gate.vectors is None:
            return mixed
        return torch.cat([mixed, self.gate.vectors()[rows.task_ids]], dim=-1)


class MemoryStep(NamedTuple):
    """One step of an actor with a memory."""

    parameters: Float[Tensor, "B P"]
    hidden: Float[Tensor, "B H"]
    cell: Float[Tensor, "B H"]


class Actor(nn.Module):
    """Maps observations to the parameters of the action distribution. All that a runner needs."""

    def __init__(self, model: ModelConfig, suite: TaskSuite):
        super().__init__()
        self.num_tasks = suite.num_tasks
        self.share_repeats = model.share_repeats
        self.distribution: Distribution = make_distribution(suite.action_space, squashed=model.squashed_actions)
        self.trunk = Trunk(model, suite)
        self.memory = None
        if model.memory:
            view = make_view(suite.observation_space, suite.num_tasks)
            self.memory = Memory(self.trunk.feature_size, model.memory_size, self.distribution, model.memory_t_max, view)
        # Near-uniform actions at the start.
        self.head = make_head(model, suite.num_tasks, self.trunk.feature_size, self.distribution.num_parameters, output_gain=0.01)
        several_kinds = isinstance(self.distribution, Either)
        self.mask = make_mask(suite.observation_space, self.distribution.num_parameters, several_kinds=several_kinds)
        if isinstance(suite, MixedSuite) and several_kinds:
            self.head = KindHead(self.head, suite.action_kinds)

    def forward(self, rows: Rows) -> Float[Tensor, "N E"]:
        """The part that depends on each observation alone: the distribution's parameters, or the inputs of memory and head, and behind
        them which parameters are allowed where actions are masked.
        """
        features = self.trunk(rows)
        allowed = None if self.mask is None else self.mask.allowed(rows.obs)
        if self.memory is None:
            parameters = self.head(features, rows.counts)
            return parameters if allowed is None else forbid(parameters, allowed)
        parts = [self.memory.project(features, rows.obs, rows.task_ids), self.head.project_features(features, rows.counts)]
        return torch.cat(parts if allowed is None else [*parts, allowed.to(features.dtype)], dim=-1)

    def act(self, observations: IndexedObservations) -> ActorOutput:
        """Outputs for slots over time."""
        features = self.trunk(observations.rows)
        hidden = None
        if self.memory is not None:
            assert observations.recurrence is not None
            projected = self.memory.project(features, observations.rows.obs, observations.rows.task_ids)
            hidden = self.memory.unroll(rows_at(projected, observations.inverse), observations.recurrence)
        parameters = _head_outputs(self.head, features, hidden, observations).float()
        if self.mask is not None:
            parameters = forbid(parameters, rows_at(self.mask.allowed(observations.rows.obs), observations.inverse))
        return ActorOutput(parameters, features, hidden)

    def remember(self, evaluated: Float[Tensor, "B E"], memory: dict[str, Tensor], counts: tuple[int, ...]) -> MemoryStep:
        """With a memory: one step of slots whose memory is `memory`, `counts[task]` slots of each task."""
        assert self.memory is not None
        masked = 0 if self.mask is None else self.distribution.num_parameters
        projected, read, allowed = evaluated.tensor_split([4 * self.memory.hidden_size, evaluated.shape[-1] - masked], dim=-1)
        hidden, cell = self.memory.step(projected, memory)
        parameters = self.head.outputs(read + self.head.project_memory(hidden, counts), counts)
        return MemoryStep(forbid(parameters, allowed > 0) if masked else parameters, hidden, cell)


class Critic(nn.Module):
    """Maps observations to values, through a trunk of its own or, where it has none, from the actor's features.

    The critic reads the actor's memory. It has none of its own: runners carry memory from unroll to unroll, and they hold no critic.
    """

    def __init__(self, model: ModelConfig, suite: TaskSuite, actor: Actor):
        super().__init__()
        shared = model.trunks == "shared"
        self.trunk = None if shared else Trunk(model, suite)
        # Without a memory values begin at some tenths, and one step per batch takes a hundred batches to unlearn them. Until then what
        # ends an episode costs its value, and policies with one learned to leave RedBlueDoors' doors alone (docs/results.md).
        self.head = make_head(model, suite.num_tasks, actor.trunk.feature_size, 1, output_gain=0.01 if model.memory else 1.0)
        if model.popart and not isinstance(self.head, MultiHead):
            raise ConfigError("model.popart scales each task's own output: it needs model.heads 'multi'")
        self.popart = PopArt(suite.num_tasks, model.popart_min_scale) if model.popart else None


class ActorOutput(NamedTuple):
    """The actor's outputs for a batch of observations."""

    parameters: Float[Tensor, "T1 B P"]  # of the action distribution
    features: Float[Tensor, "N D"]  # of each row
    hidden: Float[Tensor, "T1 B H"] | None  # of the memory


class CriticOutput(NamedTuple):
    """The critic's outputs for a batch of observations."""

    values: Float[Tensor, "T1 B"]
    normalized: Float[Tensor, "T1 B"]  # as the head gives them; the same without PopArt
    features: Float[Tensor, "N D"]  # of each row


class Policy(nn.Module):
    """Actor and critic of one learner."""

    def __init__(self, model: ModelConfig, suite: TaskSuite):
        super().__init__()
        self.actor = Actor(model, suite)
        self.critic = Critic(model, suite, self.actor)

    def memory_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of the LSTM and of the layers that read it, by their names in the state dict."""
        return {name: parameter for name, parameter in self.named_parameters() if is_memory(name)}

    def expert_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of the experts and of what they read through, by their names in the state dict."""
        return {name: parameter for name, parameter in self.named_parameters() if is_expert(name)}

    def forward(self, observations: IndexedObservations) -> tuple[ActorOutput, CriticOutput]:
        """Outputs of actor and critic; a shared trunk is evaluated once."""
        acted = self.act(observations)
        return acted, self.value(observations, acted)

    def act(self, observations: IndexedObservations) -> ActorOutput:
        """The actor's outputs."""
        return self.actor.act(observations)

    def observe(self, observations: IndexedObservations, weights: Float[Tensor, "T B"], total: Total = alone) -> None:
        """Updates the statistics of observations with those of all learners; `weights` are 0 where a step does not count."""
        steps = len(weights)
        counts = torch.zeros(len(observations.rows.task_ids), device=weights.device)
        counts.index_add_(0, observations.inverse[:steps].flatten(), (weights > 0).float().flatten())
        for module in self.modules():
            if isinstance(module, ObservationScale | View):
                module.observe(observations.rows.obs, observations.rows.task_ids, counts, total)

    def value(self, observations: IndexedObservations, acted: ActorOutput) -> CriticOutput:
        """The critic's outputs; with a shared trunk or a memory they build on the actor's."""
        critic = self.critic
        features = acted.features if critic.trunk is None else critic.trunk(observations.rows)
        # With a shared trunk both losses train the trunk and the memory; with separate trunks the critic reads the actor's memory without
        # training it.
        hidden = acted.hidden if critic.trunk is None or acted.hidden is None else acted.hidden.detach()
        outputs = _head_outputs(critic.head, features, hidden, observations)
        normalized = outputs.squeeze(-1).float()
        if critic.popart is None:
            return CriticOutput(normalized, normalized, features)
        return CriticOutput(critic.popart.denormalize(normalized, observations.task_ids.expand_as(normalized)), normalized, features)


def build_policy(model: ModelConfig, suite: TaskSuite, seed: int) -> Policy:
    """A policy for the suite's spaces and tasks whose initial weights depend on `seed` alone.

    Raises:
        ValueError: no encoder or distribution fits the suite's spaces, or there are more experts than feature dimensions.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Policy(model, suite)


def load_weights(policy: Policy, weights: Mapping[str, Tensor]) -> None:
    """Gives a policy the weights of another of the same shape.

    Raises:
        ConfigError: they are of another shape, since the tasks' observations or actions, or the model, are not what they were.
    """
    present = policy.state_dict()
    for name in sorted({*present, *weights}):
        shapes = [list(of[name].shape) if name in of else None for of in (weights, present)]
        if shapes[0] != shapes[1]:
            there, here = ("missing" if shape is None else f"of shape {shape}" for shape in shapes)
            raise ConfigError(
                f"the weights do not fit these tasks and this model: {name} is {there} in the file and {here} here; "
                "have the tasks' observations or actions changed since?"
            )
    policy.load_state_dict(weights)


def seed_gates(network: nn.Module, seed: int) -> None:
    """Begins the random numbers of a network's gates that draw some while learning."""
    for module in network.modules():
        if isinstance(module, Gate):
            module.seed(seed)


def is_expert(name: str) -> bool:
    """Whether an entry of the policy's state dict belongs to an expert, or to what all experts read through: words, a reader of sentences,
    the stems of several kinds of observations. The statistics of observations do not: they have a row for each task.
    """
    return ".trunk.encoder." in name and ".scale." not in name


def is_memory(name: str) -> bool:
    """Whether an entry of the policy's, the actor's or the critic's state dict belongs to the LSTM or to a layer that reads it."""
    return "memory." in name or name.endswith("recall_weight")


def _make_branches(model: ModelConfig, suite: TaskSuite, feature_size: int) -> PrivateBranches:
    """Private branches with random numbers of their own: the other weights are those of the same policy without branches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, ())))
        return PrivateBranches(suite.observation_space, model, suite.num_tasks, feature_size)


def _head_outputs(
    head: Head, features: Float[Tensor, "N D"], hidden: Float[Tensor, "T1 B H"] | None, observations: IndexedObservations
) -> Float[Tensor, "T1 B O"]:
    """A head's outputs for slots over time, from the rows' features and the memory's hidden state at each step.

    In float32 throughout: log-probabilities of narrow Gaussians and values of large scale do not survive eight bits.
    """
    with torch.autocast(features.device.type, enabled=False):
        return _outputs_in_time(head, features.float(), None if hidden is None else hidden.float(), observations)


def _outputs_in_time(
    head: Head, features: Float[Tensor, "N D"], hidden: Float[Tensor, "T1 B H"] | None, observations: IndexedObservations
) -> Float[Tensor, "T1 B O"]:
    if hidden is None:
        return rows_at(head(features, observations.rows.counts), observations.inverse)
    steps, slots = observations.inverse.shape
    # Heads want their rows sorted by task, which slots are. A minibatch may lack tasks, the last one too: the rows' counts know how many
    # there are.
    counts = tuple(steps * n for n in observations.task_ids.bincount(minlength=len(observations.rows.counts)).tolist())
    read = rows_at(head.project_features(features, observations.rows.counts), observations.inverse.T.flatten())
    recalled = head.project_memory(hidden.transpose(0, 1).flatten(0, 1), counts)
    return head.outputs(read + recalled, counts).unflatten(0, (slots, steps)).transpose(0, 1)
