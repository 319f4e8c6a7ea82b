"""What a step of the optimisers minimises: V-trace's targets, the actor's and the critic's losses, and what is reported of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs import TaskSuite
from mtrl.config import ExperimentConfig
from mtrl.learning.balancers import Balancer, make_balancer, task_losses
from mtrl.learning.batch import Batch
from mtrl.learning.combiners import Combiner, make_combiner, task_gradients
from mtrl.learning.losses import (
    Moments,
    clipped_surrogate_loss,
    distance_moved,
    entropy_loss,
    normalize_per_task,
    policy_gradient_loss,
    task_moments,
    value_loss,
)
from mtrl.learning.vtrace import VTrace, td_errors, vtrace
from mtrl.models.policy import Policy
from mtrl.parallel import Total, add_up

SCHEDULERS_THAT_COMPARE_TASKS = ("camrl",)


class Targets(NamedTuple):
    """What a batch's actions and values should have been, [T, B]; without gradient."""

    vs: Tensor
    advantages: Tensor  # weighted by min(ρ̄, ρ)
    moments: Moments | None  # of the whole batch's advantages, where they are to be normalised


class Look(NamedTuple):
    """A batch before its first step."""

    log_probs: Tensor  # [T, B], of the actions
    values: Tensor  # [T + 1, B]


class Part(NamedTuple):
    """What one step of the optimisers looks at."""

    batch: Batch
    targets: Targets | None  # None: computed from the current weights
    values: Tensor | None  # [T + 1, B], what targets are computed from; None: from the critic as it is
    moments: Moments | None
    actor: bool  # whose optimiser steps
    critic: bool


class Objectives:
    """The losses of one policy, over the batches of one update at a time.

    Args:
        policy: whose losses.
        config: the experiment.
        suite: its tasks.
        device: where the policy is.
        precision: of the networks' products.
        total: adds up over all learners.
    """

    def __init__(
        self, policy: Policy, config: ExperimentConfig, suite: TaskSuite, *, device: torch.device, precision: torch.dtype, total: Total
    ):
        self.similarity: np.ndarray | None = None  # cosines of the tasks' gradients in this update, where they were looked at
        self.task_values: dict[str, float] = {}  # by metric, of this update's first targets
        self.balancer = make_balancer(config.learner.balancing, suite.num_tasks, device)
        self._policy, self._suite, self._total = policy, suite, total
        self._config = config.learner
        self._shared = config.model.trunks == "shared"
        self._device, self._precision = device, precision
        self._combiner = make_combiner(config.learner.combiner)
        self._compares_tasks = config.curriculum.scheduler in SCHEDULERS_THAT_COMPARE_TASKS
        self._entropy_cost = config.learner.entropy_cost
        self._update = 0

    def begin(self, update: int, progress: float) -> None:
        """The next batch is that of update number `update`, with the share `progress` of the training done."""
        self._update = update
        self._entropy_cost = self._config.entropy_cost * ((1.0 - progress) if self._config.entropy_decay else 1.0)
        self.task_values = {}
        self.similarity = None

    @torch.no_grad()
    def look_at(self, batch: Batch) -> Look:
        """A whole batch by the current weights."""
        with self._autocast():
            acted, valued = self._policy(batch.observations)
        return Look(self._policy.actor.distribution.log_prob(acted.parameters[:-1], batch.actions), valued.values)

    def rescale_values(self, batch: Batch, looked: Look) -> None:
        """PopArt's statistics follow the batch before anything is learned from it; no value changes by that.

        Afterwards would be too late for the first batch: an error in the task's own scale stays in Adam's second moments for 1000 steps.
        """
        popart = self._policy.critic.popart
        if popart is not None:
            head: Any = self._policy.critic.head
            vs = self._correct(batch, looked.log_probs - batch.behaviour_log_probs, looked.values).vs
            popart.update(vs, batch.valid, batch.observations.task_ids, head, self._config.popart_rate, self._total)

    def targets(self, batch: Batch, log_rhos: Tensor, values: Tensor, moments: Moments | None) -> Targets:
        """By V-trace from importance weights and `values` [T + 1, B].

        Args:
            batch: T steps of B slots.
            log_rhos: log-ratios of current and behaviour policy, [T, B].
            values: of all observations, the ones after the last step included.
            moments: by which advantages are to be normalised; None: by this batch's own, if the experiment wants it.
        """
        config = self._config
        corrected = self._correct(batch, log_rhos, values)
        advantages = corrected.advantages
        if config.surrogate == "clipped":
            # Its ratio leads from the anchor to the current weights; what leads from the weights that acted to the anchor is V-trace's.
            proximal_rhos = (batch.proximal_log_probs - batch.behaviour_log_probs).exp().clamp(max=config.rho_bar)
            advantages = proximal_rhos * td_errors(corrected.vs, *_known(batch, values))
        popart = self._policy.critic.popart
        if popart is not None:
            advantages = advantages / popart.scale[batch.observations.task_ids]
        if not self.task_values:
            self.task_values = self._look_at_values(batch, advantages, values)
        if config.normalize_advantages and moments is None:
            moments = task_moments(advantages, batch.valid, batch.observations.task_ids, self._suite.num_tasks, self._total)
            moments = moments._replace(deviation=moments.deviation.clamp(min=config.advantage_floor))
        return Targets(corrected.vs, advantages, moments)

    def losses(self, part: Part) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The objectives of those who step, and what to report of them."""
        batch, observations = part.batch, part.batch.observations
        distribution = self._policy.actor.distribution
        with self._autocast():
            with torch.set_grad_enabled(part.actor or self._shared):
                acted = self._policy.act(observations)
            valued: Any = None
            if part.critic or (part.targets is None and part.values is None):
                with torch.set_grad_enabled(part.critic):
                    valued = self._policy.value(observations, acted)
        steps = len(batch.actions)
        log_probs = distribution.log_prob(acted.parameters[:steps], batch.actions)
        targets = part.targets
        if targets is None:
            values = valued.values.detach() if part.values is None else part.values
            targets = self.targets(batch, (log_probs - batch.behaviour_log_probs).detach(), values, part.moments)

        losses: dict[str, Tensor] = {}
        numbers: dict[str, Tensor] = {}
        if part.actor:
            losses["actor"], numbers = self._actor_loss(batch, targets, log_probs, distribution.entropy(acted.parameters[:steps]))
            if self._compares_tasks and self.similarity is None:
                self.similarity = self._compare_tasks(losses["actor"], acted.features, observations.rows.task_ids)
        if part.critic:
            losses["critic"], numbers["learner/value_loss"] = self._critic_loss(batch, targets, valued.normalized[:steps], valued.features)
        if self._combiner is not None:
            # The same tensor where the trunk is shared: both objectives' gradients have met when its hook is called.
            of_trunks = {id(features): features for features in (acted.features, valued.features if part.critic else acted.features)}
            for features in of_trunks.values():
                if features.requires_grad:
                    features.register_hook(self._combine(self._combiner, observations.rows.task_ids))
        read = self._total(torch.stack([number.detach() for number in numbers.values()])).tolist()
        return losses, dict(zip(numbers, read, strict=True))

    def _actor_loss(self, batch: Batch, targets: Targets, log_probs: Tensor, entropies: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        config, weights = self._config, batch.weights
        advantages = targets.advantages
        if targets.moments is not None:
            advantages = normalize_per_task(advantages, batch.observations.task_ids, targets.moments)
        if config.surrogate == "clipped":
            policy_loss = clipped_surrogate_loss(log_probs - batch.proximal_log_probs, advantages, weights, config.clip)
        else:
            policy_loss = policy_gradient_loss(log_probs, advantages, weights)
        negative_entropy = entropy_loss(entropies, weights)
        rhos, total = (log_probs.detach() - batch.behaviour_log_probs).exp(), self._total(weights.sum())
        numbers = {
            "learner/policy_loss": policy_loss,
            "learner/entropy": -negative_entropy,
            "vtrace/rho_mean": (weights * rhos).sum() / total,
            "vtrace/rho_clipped_fraction": (weights * (rhos > config.rho_bar)).sum() / total,
        }
        if config.surrogate == "clipped":
            kl, beyond = distance_moved(log_probs.detach() - batch.proximal_log_probs, weights, config.clip)
            numbers |= {"learner/kl": kl / total, "learner/clip_fraction": beyond / total}
        return policy_loss + self._entropy_cost * negative_entropy, numbers

    def _critic_loss(self, batch: Batch, targets: Targets, outputs: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        popart, task_ids = self._policy.critic.popart, batch.observations.task_ids
        wanted = targets.vs if popart is None else popart.normalize(targets.vs, task_ids.expand_as(targets.vs))
        loss = value_loss(outputs, wanted, batch.weights)
        if self.balancer is None:
            return self._config.value_cost * loss, loss
        weights = self._balance(self.balancer, batch, outputs, wanted, loss, features)
        return self._config.value_cost * value_loss(outputs, wanted, batch.weights * weights[task_ids]), loss

    def _balance(self, balancer: Balancer, batch: Batch, outputs: Tensor, wanted: Tensor, loss: Tensor, features: Tensor) -> Tensor:
        """The weight of each task's value loss in this step."""
        tasks = self._suite.num_tasks
        losses, present = task_losses(outputs.detach(), wanted, batch.weights, batch.observations.task_ids, tasks, self._total)
        norms = None
        if balancer.needs_gradients:
            (gradients,) = torch.autograd.grad(loss, features, retain_graph=True)
            norms = task_gradients(gradients, batch.observations.rows.task_ids, tasks, self._total).norm(dim=1)
        return balancer.weigh(losses, present, norms)

    def _combine(self, combiner: Combiner, row_tasks: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda gradients: combiner.scale(gradients, row_tasks, self._suite.num_tasks, self._update, self._total)

    def _compare_tasks(self, loss: Tensor, features: Tensor, row_tasks: Tensor) -> np.ndarray:
        """Cosines of the tasks' gradients at the mixed feature; the way back from there goes through the heads alone."""
        (gradients,) = torch.autograd.grad(loss, features, retain_graph=True)
        sums = task_gradients(gradients, row_tasks, self._suite.num_tasks, self._total)
        lengths = sums.norm(dim=1, keepdim=True)
        cosines = (sums @ sums.T) / (lengths * lengths.T).clamp(min=1e-30)
        unknown = (lengths == 0).squeeze(1)
        cosines[unknown] = cosines[:, unknown] = torch.nan
        return cosines.cpu().numpy().astype(np.float64)

    def _correct(self, batch: Batch, log_rhos: Tensor, values: Tensor) -> VTrace:
        config = self._config
        return vtrace(log_rhos, *_known(batch, values), rho_bar=config.rho_bar, c_bar=config.c_bar, lambda_=config.lambda_)

    def _look_at_values(self, batch: Batch, advantages: Tensor, values: Tensor) -> dict[str, float]:
        """By task, the mean size of the advantages, and the value of the observations that episodes have begun with."""
        tasks, n = batch.observations.task_ids, self._suite.num_tasks
        sizes = task_moments(advantages.abs(), batch.valid, tasks, n, self._total).mean.tolist()
        first = ~batch.valid  # a step that was a reset shows a first observation after it
        added = (torch.ones_like(tasks), first.sum(0), (values[1:] * first).sum(0))
        slots, counts, sums = add_up([torch.bincount(tasks, weights=each.float(), minlength=n) for each in added], self._total)
        found = {f"tasks/{self._suite.names[task]}/value_error": sizes[task] for task in slots.nonzero().flatten().tolist()}
        for task in counts.nonzero().flatten().tolist():
            found[f"tasks/{self._suite.names[task]}/initial_value"] = float(sums[task] / counts[task])
        return found

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == torch.bfloat16)


def _known(batch: Batch, values: Tensor) -> tuple[Tensor, ...]:
    """What V-trace reads besides the importance weights."""
    return batch.rewards, batch.discounts, batch.continues, values[:-1], values[1:]
