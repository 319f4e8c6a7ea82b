"""The learner: a rollout in, updated weights and statistics out. Knows no Ray."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from envs import TaskSuite
from envs.vector import Arrays
from mtrl.config import ConfigError, ExperimentConfig, OptimizerConfig
from mtrl.learning.batch import Batch, make_batch
from mtrl.learning.devices import pick_device, pick_precision
from mtrl.learning.losses import Moments
from mtrl.learning.minibatches import select_slots, select_steps, split_observations, split_slots, split_steps
from mtrl.learning.objectives import Look, Objectives, Part
from mtrl.learning.optimizers import in_order_of, learning_rate_at, load_state, make_optimizers, parameters_of, set_learning_rate
from mtrl.models.experts import health
from mtrl.models.policy import Policy, build_policy, load_weights
from mtrl.parallel import Total, add_up, alone
from mtrl.rollouts.rollout import Rollout

HEALTH_ROWS = 64  # whose experts' features are compared
HEALTH_UPDATES = 16  # of which one looks at the experts
MAX_SKIPPED = 20  # updates in a row that may be skipped for a non-finite loss or gradient


class NonFiniteError(RuntimeError):
    """The loss or its gradient was not finite in too many updates in a row. The message names the task."""


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
        self.device = device or torch.device(pick_device(config.learner.device))
        self.rank = rank
        self._seed, self._total = config.seed, total
        self.policy: Policy = build_policy(config.model, suite, config.seed).to(self.device)
        if config.model.freeze_experts:
            for name, parameter in self.policy.named_parameters():
                parameter.requires_grad_(".encoder.experts." not in name)
        self._optimizers = make_optimizers(self.policy, config)
        self._wants_look = config.model.popart or config.learner.surrogate == "clipped" or config.learner.minibatches > 1
        self.objectives = Objectives(
            self.policy,
            config,
            suite,
            device=self.device,
            precision=pick_precision(config.learner.precision, self.device),
            total=total,
        )
        self._skipped_in_a_row = 0

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
        self.objectives.begin(self.version, progress)
        looked = self.objectives.look_at(batch) if self._wants_look else None
        if looked is not None:
            batch = batch._replace(proximal_log_probs=looked.log_probs)
            self.objectives.rescale_values(batch, looked)
        waiting: dict[str, Part] = {}  # optimisers that have not made a step yet
        made: set[str] = set()
        for part in self._parts(batch, looked):
            due = [name for name in self._optimizers if getattr(part, name)]
            if self._step(part, progress, statistics):
                made.update(due)
            else:
                waiting |= dict.fromkeys(due, part)
        self._check_steps([part for name, part in waiting.items() if name not in made])
        self.policy.observe(batch.observations, batch.weights, self._total)
        rows = self._total(batch.observations.inverse.max() + 1)
        self.version += 1
        self.similarity = self.objectives.similarity
        return (
            statistics.means()
            | self.objectives.task_values
            # A look at the experts costs as much as a twentieth of a small batch.
            | (self._expert_health(batch) if self.version % HEALTH_UPDATES == 1 else {})
            | {"rows": float(rows), "skipped": float(self.skipped)}
        )

    @torch.no_grad()
    def _expert_health(self, batch: Batch) -> dict[str, float]:
        """Of the actor's experts, on a few of the batch's rows, and what each task takes of each."""
        trunk, rows = self.policy.actor.trunk, batch.observations.rows
        chosen = torch.linspace(0, len(rows.task_ids) - 1, HEALTH_ROWS, device=self.device).long()
        found = health(trunk.encoder({name: array[chosen] for name, array in rows.obs.items()}, rows.task_ids[chosen]))
        weights = trunk.gate.task_weights().tolist()  # type: ignore[operator]
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
        return {name: [parameter.detach() for parameter in parameters_of(optimizer)] for name, optimizer in self._optimizers.items()}

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimisers and counters. Of several learners any one's is everybody's, whatever their number was."""
        return {
            "policy": self.policy.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()},
            "version": self.version,
            "skipped": self.skipped,
            "skipped_in_a_row": self._skipped_in_a_row,
            "balancer": self.objectives.balancer.state_dict() if self.objectives.balancer is not None else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on exactly where a `state_dict` of the same configuration was taken.

        Raises:
            ConfigError: the weights are of another shape.
        """
        load_weights(self.policy, state["policy"])
        for name, optimizer in self._optimizers.items():
            load_state(optimizer, state["optimizers"][name])
        self.version, self.skipped = state["version"], state["skipped"]
        self._skipped_in_a_row = state["skipped_in_a_row"]
        if self.objectives.balancer is not None and state.get("balancer"):
            self.objectives.balancer.load_state_dict(state["balancer"])

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
        anew = config.recompute_targets
        if anew is None:
            anew = config.surrogate == "vtrace" and config.minibatch_of == "traces"
        values = looked.values
        targets = self.objectives.targets(batch, looked.log_probs - batch.behaviour_log_probs, values, None)
        if not self._shared:
            for _ in range(config.critic_updates):
                yield Part(batch, targets, None, None, actor=False, critic=True)
        for selection in self._selections(batch, steps):
            if config.minibatch_of == "traces":
                part, pick = select_slots(batch, selection, self._total), _slots_of
            else:
                part, pick = select_steps(batch, selection, self._total), _at
            if anew:
                known = None if self._shared else values[:, selection]
                yield Part(part, None, known, targets.moments, actor=True, critic=self._shared)
            else:
                own = targets._replace(vs=pick(targets.vs, selection), advantages=pick(targets.advantages, selection))
                yield Part(part, own, None, None, actor=True, critic=self._shared)

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

    def _step(self, part: Part, progress: float, statistics: _Means) -> bool:
        """One step of the optimisers concerned. It is skipped if loss or gradient is not finite; returns whether it was made."""
        losses, numbers = self.objectives.losses(part)
        optimizers = {name: optimizer for name, optimizer in self._optimizers.items() if getattr(part, name)}
        loss = torch.stack(list(losses.values())).sum()
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        loss = self._exchange(loss.detach(), [parameter for optimizer in optimizers.values() for parameter in parameters_of(optimizer)])
        norms = {name: nn.utils.get_total_norm([p.grad for p in parameters_of(o) if p.grad is not None]) for name, o in optimizers.items()}
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
            parameter.grad = in_order_of(gradient, parameter)
        return loss

    def _apply(self, optimizer: torch.optim.Optimizer, settings: OptimizerConfig, norm: Tensor, progress: float) -> None:
        if settings.max_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters_of(optimizer), settings.max_grad_norm, norm)
        set_learning_rate(optimizer, learning_rate_at(settings, progress))
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
            own = batch.observations.task_ids == task
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
            loss = torch.stack(list(self.objectives.losses(part._replace(batch=of_task, targets=targets))[0].values())).sum()
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


def _slots_of(x: Tensor, chosen: Tensor) -> Tensor:
    """The given slots of [T, B]."""
    return x[:, chosen]


def _at(x: Tensor, chosen: Tensor) -> Tensor:
    """The given positions of the flattened [T, B], as [1, S]."""
    return x.flatten()[chosen].unsqueeze(0)


def _to_arrays(module: nn.Module) -> Arrays:
    return {name: tensor.detach().to("cpu", copy=True).numpy() for name, tensor in module.state_dict().items()}


class LearnerLostError(RuntimeError):
    """A learner in another process died, and what it has learned since the newest checkpoint with it. The message says how."""


class LearnerProtocol(Protocol):
    """What the loop needs of a learner; `mtrl.learning.learner.Learner` is one."""

    version: int
    similarity: np.ndarray | None
    """Cosines of the tasks' gradients at the mixed feature in the newest update, [num_tasks, num_tasks]; None if nobody looked."""

    def update(self, rollout: Rollout, progress: float) -> dict[str, float]:
        """Statistics of one batch's optimiser steps."""

    def actor_weights(self) -> Arrays:
        """What runners act with."""

    def policy_weights(self) -> Arrays:
        """Actor and critic."""

    def load_experts(self, weights: Arrays) -> None:
        """Begins with the experts of another policy."""

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`."""

    def restart(self) -> None:
        """After `LearnerLostError`: begins anew, with initial weights."""
