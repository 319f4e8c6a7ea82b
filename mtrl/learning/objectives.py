"""The losses of one minibatch, as a function of policy, minibatch and coefficients. Nothing here keeps a state."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mtrl.config import LearnerConfig
from mtrl.learning.batch import Batch
from mtrl.learning.entropy_costs import EntropyCosts
from mtrl.learning.losses import entropy_loss, value_loss
from mtrl.learning.minibatches import Minibatch
from mtrl.learning.surrogates import Surrogate, make_surrogate
from mtrl.learning.targets import Targets, TargetSettings, compute_targets
from mtrl.models.policy import Actor, Policy, Trunk
from mtrl.parallel import Total, alone


class Coefficients(NamedTuple):
    """Hyper-parameters of the objective in one update."""

    targets: TargetSettings
    surrogate: Surrogate
    entropy_cost: float | Float[Tensor, ""]  # a tensor where operations are recorded once for many updates
    gate_cost: float  # weight of the gates' own loss
    shared_trunk: bool  # whether actor and critic read one trunk, so that the critic's loss reaches it
    entropy_costs: EntropyCosts | None = None  # the tasks' own weights, which replace `entropy_cost`


class Evaluation(NamedTuple):
    """A batch under the weights at the start of an update; without gradient."""

    log_probs: Float[Tensor, "T B"]
    values: Float[Tensor, "T1 B"]  # T1 = T + 1


class CriticLoss(NamedTuple):
    """The value loss, and what a balancer of tasks needs besides."""

    loss: Float[Tensor, ""]
    outputs: Float[Tensor, "T B"]  # of the critic's head: values in units of PopArt's scale, if there is one
    targets: Float[Tensor, "T B"]  # in the same units
    features: Float[Tensor, "N D"]  # the mixed feature that the head read, of each row
    gate_loss: Float[Tensor, ""] | float  # of the critic's gate; part of `loss`


class Losses(NamedTuple):
    """The losses of a minibatch."""

    actor: Float[Tensor, ""] | None  # with the entropy bonus; None where the actor makes no step
    critic: CriticLoss | None  # None where the critic makes no step
    actor_features: Float[Tensor, "N D"]  # the mixed feature that the actor's head read
    targets: Targets  # those that were used
    metrics: dict[str, Float[Tensor, ""]]  # sums over this learner's steps, by each step's weight
    entropies: Float[Tensor, "T B"] | None = None  # of the policy at each step; None where the actor makes no step


def coefficients_at(config: LearnerConfig, progress: float, *, shared_trunk: bool) -> Coefficients:
    """The coefficients when the share `progress` of the training, 0 to 1, is done."""
    surrogate = make_surrogate(config)
    return Coefficients(
        targets=TargetSettings(
            config.rho_bar, config.c_bar, config.lambda_, surrogate, config.normalize_advantages, config.advantage_floor
        ),
        surrogate=surrogate,
        entropy_cost=config.entropy_cost * ((1.0 - progress) if config.entropy_decay else 1.0),
        gate_cost=config.gate_cost,
        shared_trunk=shared_trunk,
    )


@torch.no_grad()
def evaluate(policy: Policy, batch: Batch, precision: torch.dtype) -> Evaluation:
    """Log-probabilities of the batch's actions and values of its observations under the current weights."""
    with _autocast(batch, precision):
        acted, valued = policy(batch.observations)
    return Evaluation(policy.actor.distribution.log_prob(acted.parameters[:-1], batch.actions), valued.values)


@torch.no_grad()
def log_probs_of(actor: Actor, batch: Batch, precision: torch.dtype) -> Float[Tensor, "T B"]:
    """Log-probabilities of the batch's actions under an actor."""
    with _autocast(batch, precision):
        acted = actor.act(batch.observations)
    return actor.distribution.log_prob(acted.parameters[: len(batch.actions)], batch.actions)


def compute_losses(
    policy: Policy, minibatch: Minibatch, coefficients: Coefficients, *, num_tasks: int, precision: torch.dtype, total: Total = alone
) -> Losses:
    """The objectives of those parts of the policy that the minibatch updates.

    Args:
        policy: the policy to be trained.
        minibatch: its data. Without targets they are computed from the current weights.
        coefficients: of this update.
        num_tasks: tasks of the suite.
        precision: of the networks' products.
        total: adds up over all learners.
    """
    batch, updates_actor, updates_critic = minibatch.batch, minibatch.updates_actor, minibatch.updates_critic
    with _autocast(batch, precision):
        with torch.set_grad_enabled(updates_actor or coefficients.shared_trunk):
            acted = policy.act(batch.observations)
        valued = None
        if updates_critic or (minibatch.targets is None and minibatch.values is None):
            with torch.set_grad_enabled(updates_critic):
                valued = policy.value(batch.observations, acted)
    steps = len(batch.actions)
    distribution, parameters = policy.actor.distribution, acted.parameters[:steps]
    log_probs = distribution.log_prob(parameters, batch.actions)

    targets, values, popart = minibatch.targets, minibatch.values, policy.critic.popart
    if targets is None:
        if values is None:
            assert valued is not None
            values = valued.values.detach()
        settings, moments = coefficients.targets, minibatch.moments
        targets = compute_targets(batch, log_probs.detach(), values, settings, popart, num_tasks=num_tasks, moments=moments, total=total)

    actor, critic, entropies, metrics = None, None, None, {}
    if updates_actor:
        advantages = targets.weighted_advantages(batch.observations.task_ids)
        policy_loss = coefficients.surrogate.loss(log_probs, batch, advantages)
        entropies = distribution.entropy(parameters)
        negative_entropy = entropy_loss(entropies, batch.weights)
        if coefficients.entropy_costs is None:
            bonus_loss = coefficients.entropy_cost * negative_entropy
        else:
            bonus_loss = entropy_loss(entropies, batch.weights * coefficients.entropy_costs.costs[batch.observations.task_ids])
        actor = policy_loss + bonus_loss + _gate_loss(policy.actor.trunk, coefficients, total)
        metrics = {"policy_loss": policy_loss.detach(), "entropy": -negative_entropy.detach()}
        metrics |= _step_metrics(log_probs.detach(), batch, coefficients, total)
    if updates_critic:
        assert valued is not None
        task_ids = batch.observations.task_ids
        wanted = targets.vs if popart is None else popart.normalize(targets.vs, task_ids.expand_as(targets.vs))
        outputs = valued.normalized[:steps]
        gate_loss = _gate_loss(policy.critic.trunk, coefficients, total)
        critic = CriticLoss(value_loss(outputs, wanted, batch.weights) + gate_loss, outputs, wanted, valued.features, gate_loss)
        metrics["value_loss"] = critic.loss.detach()
    return Losses(actor, critic, acted.features, targets, metrics, None if entropies is None else entropies.detach())


def _gate_loss(trunk: Trunk | None, coefficients: Coefficients, total: Total) -> Float[Tensor, ""] | float:
    """The loss of a trunk's gate, of which this learner has its part; 0 where there is none."""
    if coefficients.gate_cost == 0 or trunk is None or (regularizer := trunk.gate.regularizer()) is None:
        return 0.0
    return coefficients.gate_cost * regularizer / total(torch.ones((), device=regularizer.device))


def _step_metrics(log_probs: Float[Tensor, "T B"], batch: Batch, coefficients: Coefficients, total: Total) -> dict[str, Float[Tensor, ""]]:
    """Means over the steps of all learners: importance weights, and what the surrogate reports."""
    rhos, of_all = (log_probs - batch.behaviour_log_probs).exp(), total(batch.weights.sum()).clamp(min=torch.finfo(torch.float32).tiny)
    sums = {
        "rho_mean": (batch.weights * rhos).sum(),
        "rho_clipped_fraction": (batch.weights * (rhos > coefficients.targets.rho_bar)).sum(),
        **coefficients.surrogate.metrics(log_probs, batch),
    }
    return {name: value / of_all for name, value in sums.items()}


def _autocast(batch: Batch, precision: torch.dtype) -> torch.autocast:
    return torch.autocast(batch.rewards.device.type, torch.bfloat16, enabled=precision == torch.bfloat16)
