"""The learner: a rollout in, updated weights and statistics out. Knows no Ray."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from envs import TaskSuite
from mtrl.config import ExperimentConfig, OptimizerConfig
from mtrl.losses import entropy_loss, normalize_per_task, policy_gradient_loss, step_weights, value_loss
from mtrl.models.policy import Policy, build_policy
from mtrl.models.rows import Rows, arrange, make_rows
from mtrl.rollout import Arrays, Rollout
from mtrl.vtrace import VTrace, vtrace

MAX_SKIPPED = 20  # updates in a row that may be skipped for a non-finite loss or gradient


class NonFiniteError(RuntimeError):
    """The loss or its gradient was not finite in too many updates in a row. The message names the task."""


class Batch(NamedTuple):
    """A rollout as tensors on the learner's device."""

    rows: Rows  # the N inputs the networks look at
    inverse: Tensor  # [T + 1, B] int64, the row of each observation
    actions: Tensor  # [T, B, ...]
    behaviour_log_probs: Tensor  # [T, B]
    rewards: Tensor  # [T, B]
    discounts: Tensor  # [T, B], γ (1 - terminated)
    continues: Tensor  # [T, B], whether the next row is the same episode
    valid: Tensor  # [T, B] bool
    task_ids: Tensor  # [B] int64
    weights: Tensor  # [T, B], how much each step counts


class Learner:
    """Trains one policy on all tasks with V-trace."""

    def __init__(self, config: ExperimentConfig, suite: TaskSuite):
        self.version = 0  # updates made so far
        self.skipped = 0  # updates not applied since their loss or gradient was not finite
        self._config = config.learner
        self._suite = suite
        self._share_repeats = config.model.share_repeats
        self.device = torch.device(_pick_device(config.learner.device))
        self._precision = _pick_precision(config.learner.precision, self.device)
        if config.learner.threads is not None:
            torch.set_num_threads(config.learner.threads)
        self.policy: Policy = build_policy(config.model, suite, config.seed).to(self.device)
        self._optimizers = _make_optimizers(self.policy, config)
        self._skipped_in_a_row = 0

    def update(self, rollout: Rollout, progress: float) -> dict[str, float]:
        """One batch's optimiser steps.

        Args:
            rollout: T steps of B slots.
            progress: share of the training already done, 0 to 1; the learning rate's decay follows it.

        Returns:
            means over the batch, named as the metrics of the run are, and the number of distinct `rows`.

        Raises:
            NonFiniteError: the twentieth update in a row had to be skipped.
        """
        batch = self._to_batch(rollout)
        statistics: dict[str, float] = {}
        for step in range(max(self._config.actor_updates, self._config.critic_updates)):
            statistics = self._step(batch, progress, actor=step < self._config.actor_updates, critic=step < self._config.critic_updates)
        self.version += 1
        return statistics | {"rows": len(batch.rows.task_ids), "skipped": self.skipped}

    def actor_weights(self) -> Arrays:
        """The actor's weights as copied arrays: what runners act with."""
        return _to_arrays(self.policy.actor)

    def policy_weights(self) -> Arrays:
        """Actor and critic."""
        return _to_arrays(self.policy)

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimisers and counters."""
        return {
            "policy": self.policy.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()},
            "version": self.version,
            "skipped": self.skipped,
            "skipped_in_a_row": self._skipped_in_a_row,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on exactly where a `state_dict` of the same configuration was taken."""
        self.policy.load_state_dict(state["policy"])
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.version, self.skipped = state["version"], state["skipped"]
        self._skipped_in_a_row = state["skipped_in_a_row"]

    def _to_batch(self, rollout: Rollout) -> Batch:
        def move(array: np.ndarray, dtype: torch.dtype | None = None) -> Tensor:
            tensor = torch.from_numpy(array if array.flags.writeable else array.copy()).to(dtype)
            return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

        obs, row_tasks, inverse = arrange(rollout.obs, rollout.task_ids, share_repeats=self._share_repeats)
        valid, task_ids = move(rollout.valid), move(rollout.task_ids)
        terminated = move(rollout.terminated)
        return Batch(
            rows=make_rows(obs, row_tasks, self._suite.num_tasks, self.device),
            inverse=move(np.ascontiguousarray(inverse)),
            actions=move(rollout.actions),
            behaviour_log_probs=move(rollout.behaviour_log_probs),
            rewards=move(rollout.rewards),
            discounts=self._config.discount * (~terminated).float(),
            continues=(valid & ~terminated & ~move(rollout.truncated)).float(),
            valid=valid,
            task_ids=task_ids,
            weights=step_weights(valid, task_ids, self._suite.num_tasks, equal_tasks=self._config.task_weighting == "tasks"),
        )

    def _step(self, batch: Batch, progress: float, *, actor: bool, critic: bool) -> dict[str, float]:
        losses, statistics = self._losses(batch)
        optimizers = self._optimizers_of(actor=actor, critic=critic)
        shared = len(self._optimizers) == 1
        loss = torch.stack([losses[name] for name in (losses if shared else optimizers)]).sum()
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norms = {name: nn.utils.get_total_norm([p.grad for p in _parameters(o) if p.grad is not None]) for name, o in optimizers.items()}
        total_norm = torch.stack(list(norms.values())).square().sum().sqrt()
        if not torch.isfinite(loss + total_norm):
            self._skip(batch)
            return statistics
        self._skipped_in_a_row = 0
        for name, optimizer in optimizers.items():
            self._apply(optimizer, getattr(self._config, name), norms[name], progress)
        return statistics | {"learner/grad_norm": float(total_norm)}

    def _losses(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The objectives of actor and critic, and what to report of them."""
        config = self._config
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._precision == torch.bfloat16):
            output = self.policy(batch.rows)
        parameters = output.parameters[batch.inverse[:-1]]
        values = output.values[batch.inverse]
        distribution = self.policy.actor.distribution
        log_probs = distribution.log_prob(parameters, batch.actions)
        log_rhos = (log_probs - batch.behaviour_log_probs).detach()
        corrected = self._vtrace(batch, log_rhos, values.detach())

        advantages = corrected.advantages
        if config.normalize_advantages:
            advantages = normalize_per_task(advantages, batch.valid, batch.task_ids, self._suite.num_tasks)
        policy_loss = policy_gradient_loss(log_probs, advantages, batch.weights)
        negative_entropy = entropy_loss(distribution.entropy(parameters), batch.weights)
        critic_loss = value_loss(values[:-1], corrected.vs, batch.weights)
        losses = {"actor": policy_loss + config.entropy_cost * negative_entropy, "critic": config.value_cost * critic_loss}
        rhos = log_rhos.exp()
        statistics = torch.stack(
            [
                policy_loss.detach(),
                critic_loss.detach(),
                -negative_entropy.detach(),
                (batch.weights * rhos).sum(),
                (batch.weights * (rhos > config.rho_bar)).sum(),
            ]
        ).tolist()
        return losses, dict(zip(_STATISTICS, statistics, strict=True))

    def _vtrace(self, batch: Batch, log_rhos: Tensor, values: Tensor) -> VTrace:
        return vtrace(
            log_rhos,
            batch.rewards,
            batch.discounts,
            batch.continues,
            values[:-1],
            values[1:],
            rho_bar=self._config.rho_bar,
            c_bar=self._config.c_bar,
            lambda_=self._config.lambda_,
        )

    def _optimizers_of(self, *, actor: bool, critic: bool) -> dict[str, torch.optim.Optimizer]:
        wanted = {"actor": actor, "critic": critic}
        return {name: optimizer for name, optimizer in self._optimizers.items() if wanted[name]}

    def _apply(self, optimizer: torch.optim.Optimizer, settings: OptimizerConfig, norm: Tensor, progress: float) -> None:
        if settings.max_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(_parameters(optimizer), settings.max_grad_norm, norm)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * (max(0.0, 1.0 - progress) if settings.decay else 1.0)
        optimizer.step()

    def _skip(self, batch: Batch) -> None:
        self.skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MAX_SKIPPED:
            raise NonFiniteError(
                f"the loss or its gradient was not finite in {MAX_SKIPPED} updates in a row; "
                f"the task at fault is {self._task_at_fault(batch) or 'unknown'}"
            )

    def _task_at_fault(self, batch: Batch) -> str | None:
        """The first task whose steps alone give a loss or gradient that is not finite."""
        parameters = list(self.policy.parameters())
        for task, name in enumerate(self._suite.names):
            own = batch.task_ids == task
            # The others' rewards and probabilities are left out, too: 0 · NaN would be NaN.
            alone = batch._replace(
                weights=torch.where(own, batch.weights, 0.0),
                rewards=torch.where(own, batch.rewards, 0.0),
                behaviour_log_probs=torch.where(own, batch.behaviour_log_probs, 0.0),
            )
            loss = torch.stack(list(self._losses(alone)[0].values())).sum()
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            if not torch.isfinite(loss) or not all(torch.isfinite(g).all() for g in gradients if g is not None):
                return name
        return None


_STATISTICS = ("learner/policy_loss", "learner/value_loss", "learner/entropy", "vtrace/rho_mean", "vtrace/rho_clipped_fraction")


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
    if settings.name == "adam":
        return torch.optim.Adam(module.parameters(), lr=settings.learning_rate, eps=settings.epsilon, fused=True)
    return torch.optim.RMSprop(module.parameters(), lr=settings.learning_rate, eps=settings.epsilon, alpha=0.99, foreach=True)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _to_arrays(module: nn.Module) -> Arrays:
    return {name: tensor.detach().to("cpu", copy=True).numpy() for name, tensor in module.state_dict().items()}
