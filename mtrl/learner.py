"""The learner: a rollout in, updated weights and statistics out. Knows no Ray."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from envs import TaskSuite
from mtrl.balancing import Balancer, Combiner, make_balancer, make_combiner, task_gradients, task_losses
from mtrl.batch import Batch, make_batch, select_slots, select_steps, split_observations, split_slots, split_steps
from mtrl.config import ConfigError, ExperimentConfig, OptimizerConfig
from mtrl.losses import (
    Moments,
    clipped_surrogate_loss,
    entropy_loss,
    normalize_per_task,
    policy_gradient_loss,
    task_moments,
    value_loss,
)
from mtrl.models.experts import health
from mtrl.models.policy import Policy, build_policy, load_weights
from mtrl.parallel import Total, add_up, alone
from mtrl.rollout import Arrays, Rollout
from mtrl.vtrace import VTrace, td_errors, vtrace

HEALTH_ROWS = 64  # whose experts' features are compared
HEALTH_UPDATES = 16  # of which one looks at the experts
SCHEDULERS_THAT_COMPARE_TASKS = ("camrl",)
MAX_SKIPPED = 20  # updates in a row that may be skipped for a non-finite loss or gradient


class NonFiniteError(RuntimeError):
    """The loss or its gradient was not finite in too many updates in a row. The message names the task."""


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


class Learner:
    """Trains one policy on all tasks with V-trace.

    Args:
        config: the experiment.
        suite: its tasks.
        device: where to compute; by default what `config.learner.device` says.
        rank: which of several learners this is, each with a part of every batch.
        total: adds up over all of them. They start with equal weights, and make equal steps.
    """

    def __init__(
        self, config: ExperimentConfig, suite: TaskSuite, *, device: torch.device | None = None, rank: int = 0, total: Total = alone
    ):
        self.version = 0  # updates made so far
        self.similarity: np.ndarray | None = None  # cosines of the tasks' gradients in the newest update, where it was looked at
        self.skipped = 0  # optimiser steps not made since the loss or gradient was not finite
        self._config = config.learner
        self._suite = suite
        self._shared = config.model.trunks == "shared"
        self._share_repeats = config.model.share_repeats
        self.device = device or torch.device(_pick_device(config.learner.device))
        self.rank = rank
        self._seed, self._total = config.seed, total
        self._precision = _pick_precision(config.learner.precision, self.device)
        self.policy: Policy = build_policy(config.model, suite, config.seed).to(self.device)
        if config.model.freeze_experts:
            for name, parameter in self.policy.named_parameters():
                parameter.requires_grad_(".encoder.experts." not in name)
        self._optimizers = _make_optimizers(self.policy, config)
        self._wants_look = config.model.popart or config.learner.surrogate == "clipped" or config.learner.minibatches > 1
        self._balancer = make_balancer(config.learner.balancing, suite.num_tasks, self.device)
        self._combiner = make_combiner(config.learner.combiner)
        self._compares_tasks = config.curriculum.scheduler in SCHEDULERS_THAT_COMPARE_TASKS
        self._skipped_in_a_row = 0
        self._task_values: dict[str, float] = {}  # of the batch's first look, by metric
        self._entropy_cost = config.learner.entropy_cost

    def update(self, rollout: Rollout, progress: float) -> dict[str, float]:
        """One batch's optimiser steps.

        Args:
            rollout: T steps of B slots, this learner's part of the batch.
            progress: share of the training already done, 0 to 1; what decays follows it.

        Returns:
            means over the batch's steps, named as the metrics of the run are, and the number of distinct `rows`.

        Raises:
            NonFiniteError: in the twentieth update in a row an optimiser could not make a single step.
        """
        batch = self._batch(rollout)
        statistics = _Means()
        self._entropy_cost = self._config.entropy_cost * ((1.0 - progress) if self._config.entropy_decay else 1.0)
        self._task_values = {}
        self.similarity = None
        looked = self._look_at(batch) if self._wants_look else None
        if looked is not None:
            batch = batch._replace(anchor_log_probs=looked.log_probs)
            self._rescale_values(batch, looked)
        waiting: dict[str, Part] = {}  # optimisers that have not made a step yet
        made: set[str] = set()
        for part in self._parts(batch, looked):
            due = [name for name in self._optimizers if getattr(part, name)]
            if self._step(part, progress, statistics):
                made.update(due)
            else:
                waiting |= dict.fromkeys(due, part)
        self._check_steps([part for name, part in waiting.items() if name not in made])
        self.policy.observe(batch.seen, batch.weights, self._total)
        rows = self._total(batch.seen.inverse.max() + 1)
        self.version += 1
        return (
            statistics.means()
            | self._task_values
            # A look at the experts costs as much as a twentieth of a small batch.
            | (self._expert_health(batch) if self.version % HEALTH_UPDATES == 1 else {})
            | {"rows": float(rows), "skipped": float(self.skipped)}
        )

    @torch.no_grad()
    def _expert_health(self, batch: Batch) -> dict[str, float]:
        """Of the actor's experts, on a few of the batch's rows, and what each task takes of each."""
        trunk, rows = self.policy.actor.trunk, batch.seen.rows
        chosen = torch.linspace(0, len(rows.task_ids) - 1, HEALTH_ROWS, device=self.device).long()
        found = health(trunk.encoder({name: array[chosen] for name, array in rows.obs.items()}, rows.task_ids[chosen]))
        weights = trunk.gate.table().tolist()  # type: ignore[operator]
        return {f"experts/{name}": float(value) for name, value in found._asdict().items()} | {
            f"experts/{name}/weight_{k}": weight
            for name, row in zip(self._suite.names, weights, strict=True)
            for k, weight in enumerate(row)
        }

    def actor_weights(self) -> Arrays:
        """The actor's weights as copied arrays: what runners act with."""
        return _to_arrays(self.policy.actor)

    def policy_weights(self) -> Arrays:
        """Actor and critic."""
        return _to_arrays(self.policy)

    def load_experts(self, weights: Arrays) -> None:
        """Takes the experts of another policy, actor's and critic's; gates, heads and everything else stay as they are.

        Raises:
            ConfigError: they are not of this policy's number or shape.
        """
        own = {name: tensor for name, tensor in self.policy.state_dict().items() if ".encoder.experts." in name}
        given = {name: array for name, array in weights.items() if ".encoder.experts." in name}
        differing = [name for name in own if name not in given or given[name].shape != tuple(own[name].shape)]
        if differing or len(given) != len(own):
            place = differing[0] if differing else next(name for name in given if name not in own)
            raise ConfigError(
                f"the experts do not fit: {place} is not of the same shape in both; model.experts, width and trunks must agree"
            )
        self.policy.load_state_dict({name: torch.from_numpy(np.array(given[name])) for name in own}, strict=False)

    def optimized(self) -> dict[str, list[Tensor]]:
        """The parameters of each optimiser, in its order."""
        return {name: [parameter.detach() for parameter in _parameters(optimizer)] for name, optimizer in self._optimizers.items()}

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimisers and counters. Of several learners any one's is everybody's, whatever their number was."""
        return {
            "policy": self.policy.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()},
            "version": self.version,
            "skipped": self.skipped,
            "skipped_in_a_row": self._skipped_in_a_row,
            "balancer": self._balancer.state_dict() if self._balancer is not None else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on exactly where a `state_dict` of the same configuration was taken.

        Raises:
            ConfigError: the weights are of another shape.
        """
        load_weights(self.policy, state["policy"])
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.version, self.skipped = state["version"], state["skipped"]
        self._skipped_in_a_row = state["skipped_in_a_row"]
        if self._balancer is not None and state.get("balancer"):
            self._balancer.load_state_dict(state["balancer"])

    def restart(self) -> None:
        """Never needed: who lives in the driver's process dies with it."""
        raise RuntimeError("a learner in this process cannot have been lost")

    def _batch(self, rollout: Rollout) -> Batch:
        return make_batch(
            rollout,
            self._suite.num_tasks,
            discount=self._config.discount,
            equal_tasks=self._config.task_weighting == "tasks",
            share_repeats=self._share_repeats,
            device=self.device,
            clip_rewards=self._config.clip_rewards,
            total=self._total,
        )

    def _parts(self, batch: Batch, looked: Look | None) -> Iterator[Part]:
        """What the batch's optimiser steps look at, in order. Each is drawn up when the one before it has been made."""
        config = self._config
        steps = config.actor_updates or config.epochs * config.minibatches
        if looked is None or config.minibatches == 1:
            # A separate critic that steps more often than the actor, or less, goes on alone, or stands still.
            critic_steps = steps if self._shared else config.critic_updates
            for step in range(max(steps, critic_steps)):
                yield Part(batch, None, None, None, actor=step < steps, critic=step < critic_steps)
            return
        values = looked.values
        targets = self._targets(batch, looked.log_probs - batch.behaviour_log_probs, values, None)
        if not self._shared:
            for _ in range(config.critic_updates):
                yield Part(batch, targets, None, None, actor=False, critic=True)
        for selection in self._selections(batch, steps):
            if config.minibatch_of == "traces":
                known = None if self._shared else values[:, selection]
                yield Part(select_slots(batch, selection, self._total), None, known, targets.moments, actor=True, critic=self._shared)
            else:
                own = targets._replace(vs=_at(targets.vs, selection), advantages=_at(targets.advantages, selection))
                yield Part(select_steps(batch, selection, self._total), own, None, None, actor=True, critic=self._shared)

    def _selections(self, batch: Batch, steps: int) -> Iterator[Tensor]:
        """Slots or steps of `steps` minibatches; the batch is divided anew for each pass. One that is empty for any learner is left out."""
        split = {"traces": split_slots, "steps": split_steps, "observations": split_observations}[self._config.minibatch_of]
        seed = int(np.random.SeedSequence((self._seed, self.rank, self.version)).generate_state(1)[0])
        generator = torch.Generator().manual_seed(seed)
        made = 0
        for _ in range(steps):  # passes; each has a minibatch at least
            parts = split(batch, self._config.minibatches, generator)
            empty = self._total(torch.tensor([not len(part) for part in parts], dtype=torch.int64, device=self.device)).tolist()
            for selection in [part for part, lacking in zip(parts, empty, strict=True) if not lacking][: steps - made]:
                yield selection
                made += 1

    @torch.no_grad()
    def _look_at(self, batch: Batch) -> Look:
        """A whole batch by the current weights."""
        with self._autocast():
            acted, valued = self.policy(batch.seen)
        return Look(self.policy.actor.distribution.log_prob(acted.parameters[:-1], batch.actions), valued.values)

    def _step(self, part: Part, progress: float, statistics: _Means) -> bool:
        """One step of the optimisers concerned. It is skipped if loss or gradient is not finite; returns whether it was made."""
        losses, numbers = self._losses(part)
        optimizers = {name: optimizer for name, optimizer in self._optimizers.items() if getattr(part, name)}
        loss = torch.stack(list(losses.values())).sum()
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        loss = self._exchange(loss.detach(), [parameter for optimizer in optimizers.values() for parameter in _parameters(optimizer)])
        norms = {name: nn.utils.get_total_norm([p.grad for p in _parameters(o) if p.grad is not None]) for name, o in optimizers.items()}
        total_norm = torch.stack(list(norms.values())).square().sum().sqrt()
        if not torch.isfinite(loss + total_norm):
            self.skipped += 1
            return False
        for name, optimizer in optimizers.items():
            self._apply(optimizer, getattr(self._config, name), norms[name], progress)
        statistics.add(numbers | {"learner/grad_norm": float(total_norm)})
        return True

    def _exchange(self, loss: Tensor, parameters: list[Tensor]) -> Tensor:
        """Puts all learners' gradients in the place of this one's. Returns the loss of all."""
        if self._total is alone:
            return loss
        own = [parameter.grad if parameter.grad is not None else torch.zeros_like(parameter) for parameter in parameters]
        loss, *gradients = add_up([loss, *own], self._total)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        return loss

    def _rescale_values(self, batch: Batch, looked: Look) -> None:
        """PopArt's statistics follow the batch before anything is learned from it; no value changes by that.

        Afterwards would be too late for the first batch: an error in the task's own scale stays in Adam's second moments for 1000 steps.
        """
        popart = self.policy.critic.popart
        if popart is not None:
            head: Any = self.policy.critic.head
            vs = self._correct(batch, looked.log_probs - batch.behaviour_log_probs, looked.values).vs
            popart.update(vs, batch.valid, batch.seen.task_ids, head, self._config.popart_rate, self._total)

    def _losses(self, part: Part) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The objectives of those who step, and what to report of them."""
        batch, seen = part.batch, part.batch.seen
        distribution = self.policy.actor.distribution
        with self._autocast():
            with torch.set_grad_enabled(part.actor or self._shared):
                acted = self.policy.act(seen)
            valued: Any = None
            if part.critic or (part.targets is None and part.values is None):
                with torch.set_grad_enabled(part.critic):
                    valued = self.policy.value(seen, acted)
        steps = len(batch.actions)
        log_probs = distribution.log_prob(acted.parameters[:steps], batch.actions)
        targets = part.targets
        if targets is None:
            values = valued.values.detach() if part.values is None else part.values
            targets = self._targets(batch, (log_probs - batch.behaviour_log_probs).detach(), values, part.moments)

        losses: dict[str, Tensor] = {}
        numbers: dict[str, Tensor] = {}
        if part.actor:
            losses["actor"], numbers = self._actor_loss(batch, targets, log_probs, distribution.entropy(acted.parameters[:steps]))
            if self._compares_tasks and self.similarity is None:
                self.similarity = self._compare_tasks(losses["actor"], acted.features, seen.rows.task_ids)
        if part.critic:
            losses["critic"], numbers["learner/value_loss"] = self._critic_loss(batch, targets, valued.normalized[:steps], valued.features)
        if self._combiner is not None:
            # The same tensor where the trunk is shared: both objectives' gradients have met when its hook is called.
            of_trunks = {id(features): features for features in (acted.features, valued.features if part.critic else acted.features)}
            for features in of_trunks.values():
                if features.requires_grad:
                    features.register_hook(self._combine(self._combiner, seen.rows.task_ids))
        read = self._total(torch.stack([number.detach() for number in numbers.values()])).tolist()
        return losses, dict(zip(numbers, read, strict=True))

    def _actor_loss(self, batch: Batch, targets: Targets, log_probs: Tensor, entropies: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        config, weights = self._config, batch.weights
        advantages = targets.advantages
        if targets.moments is not None:
            advantages = normalize_per_task(advantages, batch.seen.task_ids, targets.moments)
        if config.surrogate == "clipped":
            policy_loss = clipped_surrogate_loss(log_probs - batch.anchor_log_probs, advantages, weights, config.clip)
        else:
            policy_loss = policy_gradient_loss(log_probs, advantages, weights)
        negative_entropy = entropy_loss(entropies, weights)
        rhos, total = (log_probs.detach() - batch.behaviour_log_probs).exp(), self._total(weights.sum())
        return policy_loss + self._entropy_cost * negative_entropy, {
            "learner/policy_loss": policy_loss,
            "learner/entropy": -negative_entropy,
            "vtrace/rho_mean": (weights * rhos).sum() / total,
            "vtrace/rho_clipped_fraction": (weights * (rhos > config.rho_bar)).sum() / total,
        }

    def _compare_tasks(self, loss: Tensor, features: Tensor, row_tasks: Tensor) -> np.ndarray:
        """Cosines of the tasks' gradients at the mixed feature; the way back from there goes through the heads alone."""
        (gradients,) = torch.autograd.grad(loss, features, retain_graph=True)
        sums = task_gradients(gradients, row_tasks, self._suite.num_tasks, self._total)
        lengths = sums.norm(dim=1, keepdim=True)
        cosines = (sums @ sums.T) / (lengths * lengths.T).clamp(min=1e-30)
        unknown = (lengths == 0).squeeze(1)
        cosines[unknown] = cosines[:, unknown] = torch.nan
        return cosines.cpu().numpy().astype(np.float64)

    def _critic_loss(self, batch: Batch, targets: Targets, outputs: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        popart, task_ids = self.policy.critic.popart, batch.seen.task_ids
        wanted = targets.vs if popart is None else popart.normalize(targets.vs, task_ids.expand_as(targets.vs))
        loss = value_loss(outputs, wanted, batch.weights)
        if self._balancer is None:
            return self._config.value_cost * loss, loss
        weights = self._balance(self._balancer, batch, outputs, wanted, loss, features)
        return self._config.value_cost * value_loss(outputs, wanted, batch.weights * weights[task_ids]), loss

    def _balance(self, balancer: Balancer, batch: Batch, outputs: Tensor, wanted: Tensor, loss: Tensor, features: Tensor) -> Tensor:
        """The weight of each task's value loss in this step."""
        tasks = self._suite.num_tasks
        losses, present = task_losses(outputs.detach(), wanted, batch.weights, batch.seen.task_ids, tasks, self._total)
        norms = None
        if balancer.needs_gradients:
            (gradients,) = torch.autograd.grad(loss, features, retain_graph=True)
            norms = task_gradients(gradients, batch.seen.rows.task_ids, tasks, self._total).norm(dim=1)
        return balancer.weigh(losses, present, norms)

    def _combine(self, combiner: Combiner, row_tasks: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda gradients: combiner.scale(gradients, row_tasks, self._suite.num_tasks, self.version, self._total)

    def _targets(self, batch: Batch, log_rhos: Tensor, values: Tensor, moments: Moments | None) -> Targets:
        config = self._config
        corrected = self._correct(batch, log_rhos, values)
        advantages = corrected.advantages
        if config.surrogate == "clipped":
            # Its ratio leads from the anchor to the current weights; what leads from the weights that acted to the anchor is V-trace's.
            anchor_rhos = (batch.anchor_log_probs - batch.behaviour_log_probs).exp().clamp(max=config.rho_bar)
            advantages = anchor_rhos * td_errors(corrected.vs, *_known(batch, values))
        popart = self.policy.critic.popart
        if popart is not None:
            advantages = advantages / popart.scale[batch.seen.task_ids]
        if not self._task_values:
            self._task_values = self._look_at_values(batch, advantages, values)
        if config.normalize_advantages and moments is None:
            moments = task_moments(advantages, batch.valid, batch.seen.task_ids, self._suite.num_tasks, self._total)
        return Targets(corrected.vs, advantages, moments)

    def _correct(self, batch: Batch, log_rhos: Tensor, values: Tensor) -> VTrace:
        config = self._config
        return vtrace(log_rhos, *_known(batch, values), rho_bar=config.rho_bar, c_bar=config.c_bar, lambda_=config.lambda_)

    def _look_at_values(self, batch: Batch, advantages: Tensor, values: Tensor) -> dict[str, float]:
        """By task, the mean size of the advantages, and the value of the observations that episodes have begun with."""
        tasks, n = batch.seen.task_ids, self._suite.num_tasks
        sizes = task_moments(advantages.abs(), batch.valid, tasks, n, self._total).mean.tolist()
        first = ~batch.valid  # a step that was a reset shows a first observation after it
        added = (torch.ones_like(tasks), first.sum(0), (values[1:] * first).sum(0))
        slots, counts, sums = add_up([torch.bincount(tasks, weights=each.float(), minlength=n) for each in added], self._total)
        found = {f"tasks/{self._suite.names[task]}/value_error": sizes[task] for task in slots.nonzero().flatten().tolist()}
        for task in counts.nonzero().flatten().tolist():
            found[f"tasks/{self._suite.names[task]}/initial_value"] = float(sums[task] / counts[task])
        return found

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._precision == torch.bfloat16)

    def _apply(self, optimizer: torch.optim.Optimizer, settings: OptimizerConfig, norm: Tensor, progress: float) -> None:
        if settings.max_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(_parameters(optimizer), settings.max_grad_norm, norm)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * (max(0.0, 1.0 - progress) if settings.decay else 1.0)
        optimizer.step()

    def _check_steps(self, lost: list[Part]) -> None:
        """Gives up after too many updates in a row in which somebody could not make a single step; `lost` are their parts of this one."""
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if lost else 0
        if self._skipped_in_a_row >= MAX_SKIPPED:
            raise NonFiniteError(
                f"the loss or its gradient was not finite in {MAX_SKIPPED} updates in a row; "
                f"the task at fault is {self._task_at_fault(lost[0]) or 'unknown'}"
            )

    def _task_at_fault(self, part: Part) -> str | None:
        """The first task whose steps alone give a loss or gradient that is not finite."""
        parameters = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        batch = part.batch
        for task, name in enumerate(self._suite.names):
            own = batch.seen.task_ids == task
            # The others' rewards and probabilities are left out, too: 0 · NaN would be NaN.
            of_task = batch._replace(
                weights=torch.where(own, batch.weights, 0.0),
                rewards=torch.where(own, batch.rewards, 0.0),
                behaviour_log_probs=torch.where(own, batch.behaviour_log_probs, 0.0),
            )
            targets = part.targets
            if targets is not None:
                targets = targets._replace(vs=torch.where(own, targets.vs, 0.0), advantages=torch.where(own, targets.advantages, 0.0))
                if targets.moments is not None:
                    only = torch.arange(self._suite.num_tasks, device=own.device) == task
                    targets = targets._replace(moments=Moments(*(torch.where(only, m, 0.0) for m in targets.moments)))
            loss = torch.stack(list(self._losses(part._replace(batch=of_task, targets=targets))[0].values())).sum()
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            finite = [torch.isfinite(loss), *(torch.isfinite(gradient).all() for gradient in gradients if gradient is not None)]
            if self._total((~torch.stack(finite)).sum()):  # somebody's is not
                return name
        return None


class _Means:
    """Means of numbers that come up different numbers of times."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, numbers: dict[str, float]) -> None:
        for name, number in numbers.items():
            self._sums[name] += number
            self._counts[name] += 1

    def means(self) -> dict[str, float]:
        return {name: total / self._counts[name] for name, total in self._sums.items()}


def _known(batch: Batch, values: Tensor) -> tuple[Tensor, ...]:
    """What V-trace reads besides the importance weights."""
    return batch.rewards, batch.discounts, batch.continues, values[:-1], values[1:]


def _at(x: Tensor, steps: Tensor) -> Tensor:
    """The given positions of the flattened [T, B], as [1, S]."""
    return x.flatten()[steps].unsqueeze(0)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 natively; emulation is hundreds of times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def _pick_device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def _pick_precision(wanted: str, device: torch.device) -> torch.dtype:
    if wanted == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    return torch.bfloat16 if wanted == "bfloat16" else torch.float32


def _make_optimizers(policy: Policy, config: ExperimentConfig) -> dict[str, torch.optim.Optimizer]:
    """One for each trunk: of the actor and of the critic, or of both together where they share it."""
    if config.model.trunks == "shared":
        return {"actor": _make_optimizer(policy, config.learner.actor)}
    return {name: _make_optimizer(getattr(policy, name), getattr(config.learner, name)) for name in ("actor", "critic")}


def _make_optimizer(module: nn.Module, settings: OptimizerConfig) -> torch.optim.Optimizer:
    # One fused call for all parameters instead of several small operations for each.
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if settings.name == "adam":
        return torch.optim.Adam(learned, lr=settings.learning_rate, eps=settings.epsilon, fused=True)
    return torch.optim.RMSprop(learned, lr=settings.learning_rate, eps=settings.epsilon, alpha=0.99, foreach=True)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _to_arrays(module: nn.Module) -> Arrays:
    return {name: tensor.detach().to("cpu", copy=True).numpy() for name, tensor in module.state_dict().items()}
