"""The optimisers of a policy's parts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtrl.config import ExperimentConfig, OptimizerConfig
from mtrl.models.policy import Policy


def make_optimizers(policy: Policy, config: ExperimentConfig) -> dict[str, torch.optim.Optimizer]:
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


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """What it optimises, in its order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
