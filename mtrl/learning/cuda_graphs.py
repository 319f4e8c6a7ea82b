"""Updates by CUDA graphs: the operations of an optimiser step are recorded once for each shape of batch, and replayed by one call.

On a GPU the operations of a small network take less time than the CPU needs to launch them one by one, and every number that the CPU reads
makes it wait for the GPU. So that a step can be recorded, nothing in it may depend on the data: all observations are evaluated instead of
the distinct ones, minibatches have the same number of steps of each task, steps that do not count have weight 0, and whether a step is made
is decided on the GPU. The numbers of an update are read once, at its end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mtrl.config import ExperimentConfig, LearnerConfig
from mtrl.curriculum import needs_similarity
from mtrl.learning.batch import STEP_FIELDS, Batch
from mtrl.learning.division import Division
from mtrl.learning.losses import Moments
from mtrl.learning.minibatches import Minibatch, Plan
from mtrl.learning.objectives import Coefficients, compute_losses, evaluate
from mtrl.learning.optimizers import Optimizers, learning_rate_at, parameters_of
from mtrl.learning.report import Report
from mtrl.learning.targets import Targets, compute_targets, correct_off_policy
from mtrl.models.gates import Gate
from mtrl.models.policy import Policy

MOST_SHAPES = 4  # of batches, whose graphs are kept

logger = logging.getLogger("mtrl")


def can_record(config: ExperimentConfig, policy: Policy) -> bool:
    """Whether updates of this experiment do the same operations whatever the data is."""
    learner = config.learner
    trunks = [trunk for trunk in (policy.actor.trunk, policy.critic.trunk) if trunk is not None]
    return (
        all(getattr(trunk.encoder, "same_operations", False) and type(trunk.gate).seed is Gate.seed for trunk in trunks)
        and all(trunk.private is None or trunk.private.same_operations for trunk in trunks)
        and not config.model.memory
        and config.model.heads == "multi"
        and (learner.balancing, learner.combiner) == ("equal", "sum")
        and learner.target_kl is None
        and learner.novelty.weight == 0
        and learner.self_imitation.weight == 0
        and learner.proximal == "start"
        and (learner.minibatches == 1 or learner.minibatch_of != "traces")
        and not needs_similarity(config.curriculum)
        and {learner.actor.name, learner.critic.name} == {"adam"}
    )


class _Part(NamedTuple):
    """The data that a step reads, and the parts of the policy that it updates."""

    minibatch: bool  # or else the whole batch
    actor: bool
    critic: bool


class GraphedUpdates:
    """Makes the updates of one learner on batches as `make_batch` makes them without shared repeats.

    Args:
        policy: the policy to be trained, with `can_record`.
        optimizers: of its parts.
        config: of the learner.
        plan: how a batch is divided.
        num_tasks: tasks of the suite.
        precision: of the networks' products.
        record: whether graphs are recorded; without, the same operations are started one by one, on any device.
    """

    def __init__(
        self,
        policy: Policy,
        optimizers: Optimizers,
        config: LearnerConfig,
        plan: Plan,
        *,
        num_tasks: int,
        precision: torch.dtype,
        record: bool,
    ):
        self._policy, self._optimizers, self._config, self._plan = policy, optimizers, config, plan
        self._num_tasks, self._precision, self._record = num_tasks, precision, record
        self._shapes: dict[Any, _Shape] = {}
        self._pool = torch.cuda.graph_pool_handle() if record else None

    def forget(self) -> None:
        """Drops all graphs; to be called when optimisers were given another state, since graphs know only the old one's memory."""
        self._shapes.clear()

    def run(self, batch: Batch, coefficients: Coefficients, progress: float, seed: int) -> tuple[Targets, Report]:
        """The optimiser steps of one update.

        Args:
            batch: T steps of B slots.
            coefficients: of this update.
            progress: share of the training already done.
            seed: of the division into minibatches.

        Returns:
            the targets of the weights before the update, to be read before the next one, and the report.
        """
        key = _shape_of(batch)
        if key not in self._shapes:
            while len(self._shapes) >= MOST_SHAPES:
                del self._shapes[next(iter(self._shapes))]
            self._shapes[key] = _Shape(self, batch, coefficients)
        shape = self._shapes[key]
        shape.load(batch, coefficients, progress)
        return shape.update(seed)


class _Shape:
    """The memory that graphs of one shape of batch read and write, and the graphs."""

    def __init__(self, owner: GraphedUpdates, batch: Batch, coefficients: Coefficients):
        self.policy, self.optimizers, self.config, self.plan = owner._policy, owner._optimizers, owner._config, owner._plan
        self.num_tasks, self.precision, self.record = owner._num_tasks, owner._precision, owner._record
        self.device = batch.valid.device
        rows = batch.observations.rows
        observations = batch.observations._replace(rows=rows._replace(obs={name: array.clone() for name, array in rows.obs.items()}))
        self.batch = batch._replace(observations=observations, **{name: getattr(batch, name).clone() for name in STEP_FIELDS})
        self.entropy_cost = torch.zeros((), device=self.device)
        self.coefficients = coefficients._replace(entropy_cost=self.entropy_cost)
        self.rates = {name: torch.zeros((), device=self.device) for name, _ in self.optimizers.named()}
        self.targets: Targets | None = None
        self.divided = owner._plan.minibatches > 1
        self.division = Division(batch, self.plan.minibatches, self.num_tasks) if self.divided else None
        self.pool = owner._pool
        self.prepared = _Operations(self.prepare, self.record, self.pool)
        self.steps: dict[_Part, _Step] = {}

    def load(self, batch: Batch, coefficients: Coefficients, progress: float) -> None:
        """Copies what differs from update to update."""
        for name, array in batch.observations.rows.obs.items():
            self.batch.observations.rows.obs[name].copy_(array)
        for name in STEP_FIELDS:
            getattr(self.batch, name).copy_(getattr(batch, name))
        self.entropy_cost.fill_(coefficients.entropy_cost)
        for name, rate in self.rates.items():
            rate.fill_(learning_rate_at(getattr(self.config, name), progress))

    def update(self, seed: int) -> tuple[Targets, Report]:
        for step in self.steps.values():
            step.begin()
        if self.divided or self.coefficients.surrogate.needs_proximal_policy or self.policy.critic.popart is not None:
            self.prepared()
        if self.division is None:
            self._steps_of_the_batch()
        else:
            self._steps_of_minibatches(self.division, seed)
        report = Report()
        for part, step in self.steps.items():
            made, skipped, *sums = step.numbers.tolist()
            parts = [name for name in ("actor", "critic") if getattr(part, name)]
            report.add_steps(step.names, sums, round(made), round(skipped), parts, self._minibatch(part) if skipped else None)
        assert self.targets is not None
        return self.targets, report

    def _steps_of_the_batch(self) -> None:
        """Each step computes its own targets, of which the first one's are those of the weights before the update."""
        plan = self.plan
        for number in range(max(plan.actor_steps, plan.critic_steps)):
            step = self._step(_Part(False, number < plan.actor_steps, number < plan.critic_steps))
            step.operations()
            if number == 0:
                assert step.targets is not None
                self.targets = _clone(step.targets)

    def _steps_of_minibatches(self, division: Division, seed: int) -> None:
        plan = self.plan
        if not plan.shared_trunk:
            for _ in range(plan.critic_steps):
                self._step(_Part(False, False, True)).operations()
        generator = torch.Generator(self.device).manual_seed(seed)
        made = 0
        while made < plan.actor_steps:
            order = division.draw(generator)
            for number in range(min(plan.minibatches, plan.actor_steps - made)):
                division.select(order, number)
                self._step(_Part(True, True, plan.shared_trunk)).operations()
                made += 1

    def prepare(self) -> None:
        """What is computed from the weights before the update: the proximal policy, the scale of values, the targets."""
        batch, coefficients, popart = self.batch, self.coefficients, self.policy.critic.popart
        before = evaluate(self.policy, batch, self.precision)
        batch.proximal_log_probs.copy_(before.log_probs)
        if popart is not None:
            head: Any = self.policy.critic.head
            vs = correct_off_policy(batch, before.log_probs, before.values, coefficients.targets).vs
            popart.update(vs, batch.weights > 0, batch.observations.task_ids, head, self.config.popart_rate)
        if self.divided:
            targets = compute_targets(batch, before.log_probs, before.values, coefficients.targets, popart, num_tasks=self.num_tasks)
            if self.targets is None:
                self.targets = _clone(targets)
            else:
                _copy(self.targets, targets)

    def _step(self, part: _Part) -> _Step:
        if part not in self.steps:
            self.steps[part] = _Step(self, part)
        return self.steps[part]

    def _minibatch(self, part: _Part) -> Minibatch:
        if part.minibatch:
            assert self.division is not None and self.targets is not None
            return self.division.minibatch(self.batch, self.targets, updates_critic=part.critic)
        targets = self.targets if self.divided else None
        return Minibatch(self.batch, targets, None, targets.moments if targets else None, part.actor, part.critic)


class _Step:
    """One kind of optimiser step, and the sums of its figures over an update."""

    def __init__(self, shape: _Shape, part: _Part):
        self._shape, self._part = shape, part
        self.names: list[str] = []  # of the figures
        self.numbers = torch.zeros(0, device=shape.device)  # steps made, steps not made, and each figure's sum over those made
        self.targets: Targets | None = None  # of the newest step
        self.operations = _Operations(self._run, shape.record, shape.pool)

    def begin(self) -> None:
        """Begins an update."""
        self.numbers.zero_()

    def _run(self) -> None:
        shape = self._shape
        minibatch = shape._minibatch(self._part)
        due = shape.optimizers.due(minibatch)
        for _, optimizer in due:
            optimizer.zero_grad(set_to_none=True)
        losses = compute_losses(shape.policy, minibatch, shape.coefficients, num_tasks=shape.num_tasks, precision=shape.precision)
        parts = [] if losses.actor is None else [losses.actor]
        if losses.critic is not None:
            parts.append(shape.config.value_cost * losses.critic.loss)
        loss = torch.stack(parts).sum()
        loss.backward()
        norms = [nn.utils.get_total_norm([p.grad for p in parameters_of(o) if p.grad is not None]) for _, o in due]
        norm = torch.stack(norms).square().sum().sqrt()
        failed = (~torch.isfinite(loss.detach() + norm)).float()
        costs, batch = shape.coefficients.entropy_costs, minibatch.batch
        if costs is not None and losses.entropies is not None:
            costs.update(losses.entropies, batch.weights, batch.observations.task_ids, 1 - failed)
        for (name, optimizer), own_norm in zip(due, norms, strict=True):
            limit = getattr(shape.config, name).max_grad_norm
            if limit is not None:
                nn.utils.clip_grads_with_norm_(parameters_of(optimizer), limit, own_norm)
            _step_unless(optimizer, failed, shape.rates[name])
        figures = losses.metrics | {"grad_norm": norm}
        self.targets = losses.targets
        if not self.names:
            self.names = list(figures)
            self.numbers = torch.zeros(2 + len(figures), device=shape.device)
        of_step = torch.stack(list(figures.values()))
        self.numbers += torch.cat([torch.stack([1 - failed, failed]), torch.where(failed > 0, torch.zeros_like(of_step), of_step)])


def _step_unless(optimizer: torch.optim.Optimizer, failed: Float[Tensor, ""], learning_rate: Float[Tensor, ""]) -> None:
    """A step of Adam that changes nothing where `failed` is 1, at a learning rate that is read when the step is made."""
    usual = [{name: group[name] for name in ("lr", "capturable")} for group in optimizer.param_groups]
    fused: Any = optimizer
    fused.grad_scale, fused.found_inf = None, failed  # what PyTorch's own scaling of gradients sets
    for group in optimizer.param_groups:
        group |= {"lr": learning_rate, "capturable": failed.device.type == "cuda"}
    try:
        optimizer.step()
    finally:
        del fused.grad_scale, fused.found_inf
        for group, options in zip(optimizer.param_groups, usual, strict=True):
            group |= options


class _Operations:
    """A function of operations on fixed memory: called the first time, recorded the second time, and replayed from then on."""

    def __init__(self, function: Callable[[], None], record: bool, pool: Any):
        self._function, self._record, self._pool = function, record, pool
        self._called = False
        self._graph: Any = None

    def __call__(self) -> None:
        if self._graph is None and self._record and self._called:
            self._graph = _recorded(self._function, self._pool)
            self._record = self._graph is not None
        if self._graph is not None:
            self._graph.replay()
        else:
            self._function()
        self._called = True


def _recorded(function: Callable[[], None], pool: Any) -> Any:
    """The graph of a function's operations, none of which is done yet; None where they cannot be recorded."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            function()
    except RuntimeError as error:
        logger.warning("updates are not recorded as CUDA graphs: %s", str(error).partition("\n")[0])
        return None
    return graph


def _shape_of(batch: Batch) -> Any:
    """Equal for batches that the same operations can work on: those with the same sizes, and as many slots of each task."""
    rows = batch.observations.rows
    arrays = {**rows.obs, **{name: getattr(batch, name) for name in STEP_FIELDS}}
    return rows.counts, tuple((name, array.shape, array.dtype) for name, array in arrays.items())


def _tensors(targets: Targets) -> list[Tensor]:
    return [each for each in (*targets[:4], *(targets.moments or ())) if each is not None]


def _clone(targets: Targets) -> Targets:
    copies = {name: array.clone() for name, array in targets._asdict().items() if isinstance(array, Tensor)}
    moments = None if targets.moments is None else Moments(*(moment.clone() for moment in targets.moments))
    return targets._replace(**copies, moments=moments)


def _copy(into: Targets, targets: Targets) -> None:
    for mine, other in zip(_tensors(into), _tensors(targets), strict=True):
        mine.copy_(other)
