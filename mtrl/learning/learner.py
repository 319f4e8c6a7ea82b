"""The learner: a rollout in, updated weights and statistics out. Knows no Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from envs import TaskSuite
from envs.vector import Arrays
from mtrl.config import ConfigError, ExperimentConfig
from mtrl.curriculum import needs_similarity
from mtrl.learning.balancers import balanced_value_loss, make_balancer
from mtrl.learning.batch import Batch, make_batch
from mtrl.learning.combiners import SharedLayer, make_combiner, task_similarity
from mtrl.learning.cuda_graphs import GraphedUpdates, can_record
from mtrl.learning.devices import pick_device, pick_precision
from mtrl.learning.diagnosis import expert_statistics, task_at_fault
from mtrl.learning.entropy_costs import make_entropy_costs, task_entropies
from mtrl.learning.interface import NonFiniteError, TaskEntropies, UpdateResult
from mtrl.learning.level_signals import level_signals
from mtrl.learning.minibatches import Minibatch, make_plan, minibatches
from mtrl.learning.novelty import make_novelty
from mtrl.learning.objectives import Coefficients, Evaluation, Losses, coefficients_at, compute_losses, evaluate
from mtrl.learning.optimizers import Optimizers, in_order_of, learning_rate_at, load_state, parameters_of, set_learning_rate
from mtrl.learning.proximal import AverageActor
from mtrl.learning.report import Report
from mtrl.learning.self_imitation import imitation_losses, make_self_imitation
from mtrl.learning.surrogates import make_surrogate
from mtrl.learning.targets import Targets, compute_targets, correct_off_policy, task_values
from mtrl.models.encoders.patches import keep_operations
from mtrl.models.policy import Policy, build_policy, is_expert, load_weights, seed_gates
from mtrl.parallel import Total, add_up, alone
from mtrl.rollouts.rollout import Rollout

DIAGNOSIS_UPDATES = 16  # updates between two statistics of experts and gradients, which cost a twentieth of an update on a small batch
MAX_SKIPPED = 20  # updates in a row in which an optimiser may make no step since loss or gradient were not finite


class Learner:
    """Trains one policy on all tasks.

    Args:
        config: the experiment.
        suite: its tasks.
        device: where to compute; by default what `config.learner.device` says.
        rank: the number of this learner among several, each of which has a part of every batch.
        total: adds up over all learners. They start with equal weights, and make equal steps.
    """

    def __init__(
        self, config: ExperimentConfig, suite: TaskSuite, *, device: torch.device | None = None, rank: int = 0, total: Total = alone
    ):
        self.version = 0  # updates made so far
        self.interrupted: Callable[[], bool] = lambda: False  # asked after each minibatch: once it is, the update leaves out the others
        self.rank = rank
        self.device = device or torch.device(pick_device(config.learner.device))
        self.policy: Policy = build_policy(config.model, suite, config.seed).to(self.device)
        if config.model.freeze_experts:
            for parameter in self.policy.expert_parameters().values():
                parameter.requires_grad_(False)
        self.optimizers = Optimizers.make(self.policy, config)
        self._config, self._share_repeats, self._seed = config.learner, config.model.share_repeats, config.seed
        self._suite, self._total = suite, total
        self._precision = pick_precision(config.learner.precision, self.device)
        self._shared_trunk = config.model.trunks == "shared"
        self._plan = make_plan(config.learner, shared_trunk=self._shared_trunk)
        self._balancer = make_balancer(config.learner.balancing, suite.num_tasks, self.device)
        self._entropy_costs = make_entropy_costs(config.learner, suite.num_tasks, self.device)
        self._novelty = make_novelty(config.learner.novelty, config.model, suite, self.device, config.seed)
        own = config.learner.self_imitation
        self._imitation = make_self_imitation(own, config.learner.discount, config.learner.clip_rewards, suite.num_tasks)
        self._combiner = make_combiner(config.learner.combiner)
        self._compares_tasks = needs_similarity(config.curriculum)
        # Plain V-trace with one step needs no pass over the batch before its first step: it computes targets and losses in one.
        proximal = make_surrogate(config.learner).needs_proximal_policy
        self._evaluates_first = config.model.popart or proximal or config.learner.minibatches > 1
        average = proximal and config.learner.proximal == "average"
        self._average = AverageActor(self.policy.actor, config.learner.proximal_decay) if average else None
        self.skipped_steps = 0
        self._skipped_in_a_row = 0  # updates
        self._graphs: GraphedUpdates | None = None
        if self.device.type == "cuda" and config.learner.cuda_graphs and total is alone and can_record(config, self.policy):
            self.use_graphs(record=True)

    def update(self, rollout: Rollout, progress: float) -> UpdateResult:
        """Trains on one batch.

        Args:
            rollout: T steps of B slots, this learner's part of the batch.
            progress: share of the training already done, 0 to 1; what decays follows it.

        Raises:
            NonFiniteError: in the twentieth update in a row in which an optimiser could not make a single step.
        """
        coefficients = self._coefficients(progress)
        batch = self.make_batch(rollout)
        batch, bonus = self._with_bonuses(batch, rollout, progress)
        learns = rollout.levels is None or bool(self._total(batch.weights.sum()) > 0)  # not from levels that are only rated
        if self._graphs is None or not learns:
            batch, targets, report = self._make_steps(batch, coefficients, progress, learns=learns)
        else:
            targets, report = self._graphs.run(batch, coefficients, progress, self._seed_of(self.rank, self.version))
        imitated = self._imitate(rollout, targets, coefficients, progress)
        self.skipped_steps += report.skipped_steps
        self._raise_after_too_many_skipped(report, coefficients)
        self.policy.observe(batch.observations, batch.weights, self._total)
        self.version += 1
        return UpdateResult(
            means=report.means() | bonus | imitated | {"learning_rate": learning_rate_at(self._config.actor, progress)},
            task_values=task_values(batch, targets, self._suite.num_tasks, self._total),
            similarity=report.similarity,
            experts=expert_statistics(self.policy, batch) if self.version % DIAGNOSIS_UPDATES == 1 else None,
            distinct_rows=int(self._total(batch.observations.inverse.max() + 1)),
            skipped_steps=self.skipped_steps,
            entropies=self._entropies(report),
            levels=None if rollout.levels is None else level_signals(batch, targets),
        )

    def use_graphs(self, *, record: bool) -> None:
        """Makes updates by operations that do not depend on the data, see `mtrl.learning.cuda_graphs`.

        Args:
            record: whether they are recorded as CUDA graphs, which the learner does by itself on a GPU.
        """
        self._share_repeats = False
        keep_operations(self.policy)
        self._graphs = GraphedUpdates(
            self.policy,
            self.optimizers,
            self._config,
            self._plan,
            num_tasks=self._suite.num_tasks,
            precision=self._precision,
            record=record,
        )

    def _make_steps(self, batch: Batch, coefficients: Coefficients, progress: float, *, learns: bool) -> tuple[Batch, Targets, Report]:
        """The optimiser steps of one update.

        Args:
            batch: what to learn from.
            coefficients: of this update.
            progress: share of the training already done.
            learns: whether a step of the batch counts; else optimisers stay as they are, which would go on with their momentum.

        Returns:
            the batch with the proximal policy, the targets of the weights before the update, and the report.
        """
        seed = self._seed_of(self.version)  # the same for all learners
        seed_gates(self.policy, seed)
        targets = None
        if self._evaluates_first:
            before = self.evaluate(batch)
            batch = batch._replace(proximal_log_probs=self._proximal_log_probs(batch, before, seed))
            self._rescale_values(batch, before, coefficients)
            if self._plan.minibatches > 1:
                targets = self.compute_targets(batch, before, coefficients)

        report, stopped = Report(), False
        for minibatch in self._until_interrupted(self.minibatches(batch, targets), report):
            if stopped:
                minibatch = self._without_actor(minibatch)
            losses = self.losses(minibatch, coefficients) if minibatch.updates_actor or minibatch.updates_critic else None
            if targets is None and losses is not None:
                targets = losses.targets  # every step reads the whole batch, and the first one's are those of the weights before it
            if losses is not None and minibatch.updates_actor and self._has_moved_far(losses):
                stopped, minibatch = True, self._without_actor(minibatch)
                losses = self.losses(minibatch, coefficients) if minibatch.updates_critic else None
            if losses is None:
                continue
            if report.similarity is None:
                report.similarity = self._similarity(minibatch, losses)
            norm = self._step(minibatch, losses, progress) if learns else 0.0
            report.add(minibatch, losses, norm, self._total)
            if losses.entropies is not None:
                self._follow_entropies(losses.entropies, minibatch.batch, made=norm is not None, report=report)
        assert targets is not None
        return batch, targets, report

    def _until_interrupted(self, minibatches: Iterator[Minibatch], report: Report) -> Iterator[Minibatch]:
        """At least those of the first step. Several learners make all steps, since each waits for the others."""
        for minibatch in minibatches:
            if report.begun and self._total is alone and self.interrupted():
                return
            yield minibatch

    def make_batch(self, rollout: Rollout) -> Batch:
        """The rollout as tensors on this learner's device, with the weight of each step."""
        return make_batch(
            rollout,
            self._suite.num_tasks,
            discount=self._config.discount,
            share_power=self._config.share_power,
            share_repeats=self._share_repeats,
            device=self.device,
            clip_rewards=self._config.clip_rewards,
            total=self._total,
        )

    def _with_bonuses(self, batch: Batch, rollout: Rollout, progress: float) -> tuple[Batch, dict[str, float]]:
        """The batch with bonuses for novelty in its rewards, and their figures."""
        if self._novelty is None:
            return batch, {}
        weight = self._novelty.weight_at(progress)
        bonuses = weight * self._novelty.bonuses(batch, rollout.first_visits, self._total)
        mean = float(self._total((bonuses * batch.weights).sum()))
        figures = {"novelty_bonus": mean, "novelty_error": self._novelty.learn(batch, self._total)}
        return batch._replace(rewards=batch.rewards + bonuses), figures

    def _imitate(self, rollout: Rollout, targets: Targets, coefficients: Coefficients, progress: float) -> dict[str, float]:
        """Keeps the rollout's best traces, makes a step that imitates kept ones, and gives the figures of it."""
        if self._imitation is None:
            return {}
        assert targets.values is not None
        self._imitation.add(rollout, targets.values.cpu().numpy())
        replayed = self._imitation.sample(np.random.default_rng((self._seed, self.version)))
        figures = {"imitation_traces": float(len(self._imitation))}
        if replayed is None:
            return figures
        batch = self.make_batch(replayed.rollout)
        returns, known = (torch.from_numpy(array).to(self.device) for array in (replayed.returns, replayed.known))
        losses, gaps = imitation_losses(
            self.policy, batch, returns, known, coefficients, num_tasks=self._suite.num_tasks, precision=self._precision
        )
        self._imitation.rate(replayed, gaps.cpu().numpy())
        assert losses.actor is not None and losses.critic is not None
        settings = self._config.self_imitation
        loss = settings.weight * losses.actor + settings.value_weight * losses.critic.loss
        if self._descend(self.optimizers.named(), lambda: _backward(loss), progress) is None:
            self._imitation.rate(replayed, np.zeros_like(replayed.returns))  # else they would be drawn for ever, and make no step
        return figures | {"imitation_gap": float((gaps * batch.weights).sum())}

    def evaluate(self, batch: Batch) -> Evaluation:
        """Log-probabilities and values of the batch under the current weights."""
        return evaluate(self.policy, batch, self._precision)

    def compute_targets(self, batch: Batch, evaluation: Evaluation, coefficients: Coefficients | None = None) -> Targets:
        """The targets of a whole batch."""
        coefficients = coefficients or self._coefficients(0.0)
        return compute_targets(
            batch,
            evaluation.log_probs,
            evaluation.values,
            coefficients.targets,
            self.policy.critic.popart,
            num_tasks=self._suite.num_tasks,
            total=self._total,
        )

    def minibatches(self, batch: Batch, targets: Targets | None) -> Iterator[Minibatch]:
        """The minibatches of this update, in the order of its optimiser steps."""
        generator = torch.Generator().manual_seed(self._seed_of(self.rank, self.version))
        return minibatches(batch, targets, self._plan, generator, self._total)

    def losses(self, minibatch: Minibatch, coefficients: Coefficients | None = None) -> Losses:
        """The objective under the current weights."""
        coefficients = coefficients or self._coefficients(0.0)
        tasks = self._suite.num_tasks
        return compute_losses(self.policy, minibatch, coefficients, num_tasks=tasks, precision=self._precision, total=self._total)

    def backward(self, minibatch: Minibatch, losses: Losses) -> Tensor:
        """Adds the gradient of this learner's part to the parameters, with the weights of balancer and combiner. Returns the loss."""
        parts = [] if losses.actor is None else [losses.actor]
        if losses.critic is not None:
            critic = losses.critic.loss
            if self._balancer is not None:
                critic = balanced_value_loss(self._balancer, losses.critic, minibatch.batch, self._suite.num_tasks, self._total)
                critic = critic + losses.critic.gate_loss
            parts.append(self._config.value_cost * critic)
        loss = torch.stack(parts).sum()
        if self._combiner is not None:
            row_tasks = minibatch.batch.observations.rows.task_ids
            for shared in self._shared_layers(losses):
                self._combiner.attach(loss, shared, row_tasks, self._suite.num_tasks, self.version, self._total)
        loss.backward()
        return loss.detach()

    def _similarity(self, minibatch: Minibatch, losses: Losses) -> np.ndarray | None:
        """The cosines of the tasks' gradients: in every update for a scheduler that reads them, else now and then for the metrics."""
        wanted = self._compares_tasks or (self._suite.num_tasks > 1 and self.version % DIAGNOSIS_UPDATES == 0)
        if not wanted or losses.actor is None or not losses.actor_features.requires_grad:
            return None
        row_tasks = minibatch.batch.observations.rows.task_ids
        return task_similarity(losses.actor, losses.actor_features, row_tasks, self._suite.num_tasks, self._total)

    def _shared_layers(self, losses: Losses) -> list[SharedLayer]:
        """Where the tasks' gradients meet: the trunks' features. With a shared trunk both objectives' gradients have met there."""
        trunks = {losses.actor_features: self.policy.actor.trunk}
        if losses.critic is not None and self.policy.critic.trunk is not None:
            trunks[losses.critic.features] = self.policy.critic.trunk
        compared = self._config.combiner_space == "trunk"
        return [
            SharedLayer(feature, tuple(p for p in trunk.encoder.parameters() if p.requires_grad) if compared else ())
            for feature, trunk in trunks.items()
        ]

    def actor_weights(self) -> Arrays:
        """The actor's weights as copied arrays: what runners act with."""
        return _to_arrays(self.policy.actor)

    def policy_weights(self) -> Arrays:
        """Actor and critic."""
        return _to_arrays(self.policy)

    def load_experts(self, weights: Arrays) -> None:
        """Takes the experts of another policy and whatever they read through, such as its words; gates and heads stay as they are.

        Raises:
            ConfigError: they are not of this policy's number or shape.
        """
        expected = {name: tensor for name, tensor in self.policy.state_dict().items() if is_expert(name)}
        given = {name: array for name, array in weights.items() if is_expert(name)}
        differing = [name for name in expected if name not in given or given[name].shape != tuple(expected[name].shape)]
        if differing or len(given) != len(expected):
            place = differing[0] if differing else next(name for name in given if name not in expected)
            raise ConfigError(
                f"the experts do not fit: {place} is not of the same shape in both; model.experts, width and trunks must agree, "
                "and the tasks' observations"
            )
        self.policy.load_state_dict({name: torch.from_numpy(np.array(given[name])) for name in expected}, strict=False)

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimisers and counters. Of several learners any one's is everybody's, whatever their number was."""
        return {
            "policy": self.policy.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.named()},
            "version": self.version,
            "skipped": self.skipped_steps,
            "skipped_in_a_row": self._skipped_in_a_row,
            "balancer": self._balancer.state_dict() if self._balancer is not None else {},
            **({"proximal": self._average.state_dict()} if self._average is not None else {}),
            **({"entropy_costs": self._entropy_costs.state_dict()} if self._entropy_costs is not None else {}),
            **({"novelty": self._novelty.state_dict()} if self._novelty is not None else {}),
            **({"imitation": self._imitation.state_dict()} if self._imitation is not None else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on exactly where a `state_dict` of the same configuration was taken.

        Raises:
            ConfigError: the weights are of another shape.
        """
        load_weights(self.policy, state["policy"])
        for name, optimizer in self.optimizers.named():
            load_state(optimizer, state["optimizers"][name])
        if self._graphs is not None:
            self._graphs.forget()
        self.version, self.skipped_steps = state["version"], state["skipped"]
        self._skipped_in_a_row = state["skipped_in_a_row"]
        # Another rule than the state's begins anew.
        if self._balancer is not None and state.get("balancer", {}).keys() == self._balancer.state_dict().keys():
            self._balancer.load_state_dict(state["balancer"])
        if self._average is not None and "proximal" in state:  # without one it begins anew
            self._average.load_state_dict(state["proximal"])
        if self._entropy_costs is not None and "entropy_costs" in state:
            self._entropy_costs.load_state_dict(state["entropy_costs"])
        if self._novelty is not None and "novelty" in state:
            self._novelty.load_state_dict(state["novelty"])
        if self._imitation is not None and "imitation" in state:
            self._imitation.load_state_dict(state["imitation"])

    def _seed_of(self, *numbers: int) -> int:
        """A seed of the experiment's own for what these numbers name."""
        return int(np.random.SeedSequence((self._seed, *numbers)).generate_state(1)[0])

    def _coefficients(self, progress: float) -> Coefficients:
        return coefficients_at(self._config, progress, shared_trunk=self._shared_trunk)._replace(entropy_costs=self._entropy_costs)

    def _follow_entropies(self, entropies: Tensor, batch: Batch, *, made: bool, report: Report) -> None:
        """Takes in the policy's entropies [T, B] of a step of the actor."""
        report.newest_entropies = (entropies, batch)
        if self._entropy_costs is not None and made:
            self._entropy_costs.update(entropies, batch.weights, batch.observations.task_ids, total=self._total)

    def _entropies(self, report: Report) -> TaskEntropies | None:
        costs = self._entropy_costs
        if costs is not None:
            return TaskEntropies(costs.entropies.cpu().numpy().copy(), costs.costs.cpu().numpy())
        if report.newest_entropies is None:
            return None
        entropies, batch = report.newest_entropies
        means = task_entropies(entropies, batch.weights, batch.observations.task_ids, self._suite.num_tasks, self._total)
        return TaskEntropies(means.cpu().numpy(), None)

    def _without_actor(self, minibatch: Minibatch) -> Minibatch:
        """The minibatch for a critic of its own alone; for nobody where actor and critic share a trunk."""
        return minibatch._replace(updates_actor=False, updates_critic=minibatch.updates_critic and not self._shared_trunk)

    def _has_moved_far(self, losses: Losses) -> bool:
        """Whether the actor has left the proximal policy further behind than `learner.target_kl` allows."""
        limit = self._config.target_kl
        return limit is not None and "kl" in losses.metrics and float(self._total(losses.metrics["kl"])) > limit

    def _proximal_log_probs(self, batch: Batch, before: Evaluation, seed: int) -> Tensor:
        """Those of the weights at the start of the update, or of an average of them."""
        if self._average is None:
            return before.log_probs
        self._average.add(self.policy.actor)
        return self._average.log_probs(batch, self._precision, seed)

    def _rescale_values(self, batch: Batch, before: Evaluation, coefficients: Coefficients) -> None:
        """PopArt's statistics follow the batch before anything is learned from it; no value changes by that.

        Afterwards would be too late for the first batch: an error in the task's own scale stays in Adam's second moments for 1000 steps.
        """
        popart = self.policy.critic.popart
        if popart is not None:
            head: Any = self.policy.critic.head
            vs = correct_off_policy(batch, before.log_probs, before.values, coefficients.targets).vs
            popart.update(vs, batch.weights > 0, batch.observations.task_ids, head, self._config.popart_rate, self._total)

    def _step(self, minibatch: Minibatch, losses: Losses, progress: float) -> float | None:
        """One step of the optimisers concerned.

        Returns:
            the norm of the gradient; None if it or the loss was not finite, and no step was made.
        """
        return self._descend(self.optimizers.due(minibatch), lambda: self.backward(minibatch, losses), progress)

    def _descend(
        self, optimizers: Sequence[tuple[str, torch.optim.Optimizer]], backward: Callable[[], Tensor], progress: float
    ) -> float | None:
        """One step of these optimisers with the gradients that `backward` adds; returns as `_step`."""
        for _, optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss = backward()
        loss = self._exchange(loss, [parameter for _, optimizer in optimizers for parameter in parameters_of(optimizer)])
        norms = [nn.utils.get_total_norm([p.grad for p in parameters_of(o) if p.grad is not None]) for _, o in optimizers]
        total_norm = torch.stack(norms).square().sum().sqrt()
        if not torch.isfinite(loss + total_norm):
            return None
        for (name, optimizer), norm in zip(optimizers, norms, strict=True):
            settings = getattr(self._config, name)
            if settings.max_grad_norm is not None:
                nn.utils.clip_grads_with_norm_(parameters_of(optimizer), settings.max_grad_norm, norm)
            set_learning_rate(optimizer, learning_rate_at(settings, progress))
            optimizer.step()
        return float(total_norm)

    def _exchange(self, loss: Tensor, parameters: list[Tensor]) -> Tensor:
        """Puts all learners' gradients in the place of this one's. Returns the loss of all."""
        if self._total is alone:
            return loss
        gradients = [parameter.grad if parameter.grad is not None else torch.zeros_like(parameter) for parameter in parameters]
        loss, *gradients = add_up([loss, *gradients], self._total)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = in_order_of(gradient, parameter)
        return loss

    def _raise_after_too_many_skipped(self, report: Report, coefficients: Coefficients) -> None:
        """Gives up after `MAX_SKIPPED` updates in a row in which an optimiser made no step."""
        lost = report.without_a_step()
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if lost else 0
        if self._skipped_in_a_row < MAX_SKIPPED:
            return
        parameters = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        task = task_at_fault(lost[0], lambda minibatch: self.losses(minibatch, coefficients), parameters, self._suite.names, self._total)
        raise NonFiniteError(
            f"the loss or its gradient was not finite in {MAX_SKIPPED} updates in a row; the task at fault is {task or 'unknown'}"
        )


def _backward(loss: Tensor) -> Tensor:
    loss.backward()
    return loss.detach()


def _to_arrays(module: nn.Module) -> Arrays:
    """Copies in the CPU's memory. From a GPU all numbers of a type come at once, since the CPU waits for each copy."""
    state = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    if all(tensor.device.type == "cpu" for tensor in state.values()):
        return {name: tensor.to("cpu", copy=True).numpy() for name, tensor in state.items()}
    arrays: Arrays = {}
    for dtype in {tensor.dtype for tensor in state.values()}:
        names = [name for name, tensor in state.items() if tensor.dtype == dtype]
        flat = torch.cat([state[name].reshape(-1) for name in names]).cpu()
        for name, part in zip(names, flat.split([state[name].numel() for name in names]), strict=True):
            arrays[name] = part.view(state[name].shape).numpy()
    return {name: arrays[name] for name in state}
