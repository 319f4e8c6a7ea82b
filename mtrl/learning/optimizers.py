"""The optimisers of a policy's parts."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mtrl.config import ExperimentConfig, OptimizerConfig
from mtrl.learning.minibatches import Minibatch
from mtrl.models.policy import Policy, is_memory


class Optimizers(NamedTuple):
    """One optimiser for each trunk: actor's and critic's, or one for both where they share it."""

    actor: torch.optim.Optimizer
    critic: torch.optim.Optimizer | None

    @classmethod
    def make(cls, policy: Policy, config: ExperimentConfig) -> Optimizers:
        """The optimisers that the experiment describes."""
        settings, factor = config.learner, config.learner.memory_learning_rate_factor
        if config.model.trunks == "shared":
            return cls(_make_optimizer(policy, settings.actor, factor), None)
        return cls(_make_optimizer(policy.actor, settings.actor, factor), _make_optimizer(policy.critic, settings.critic, factor))

    def named(self) -> list[tuple[str, torch.optim.Optimizer]]:
        """Pairs of name and optimiser; the names are those of the settings and of checkpoints."""
        return [(name, optimizer) for name, optimizer in self._asdict().items() if optimizer is not None]

    def parameters(self) -> dict[str, list[Tensor]]:
        """The parameters of each optimiser, in its order; without gradient."""
        return {name: [parameter.detach() for parameter in parameters_of(optimizer)] for name, optimizer in self.named()}

    def due(self, minibatch: Minibatch) -> list[tuple[str, torch.optim.Optimizer]]:
        """The optimisers that make a step with the minibatch."""
        updates = {"actor": minibatch.updates_actor, "critic": minibatch.updates_critic}
        return [(name, optimizer) for name, optimizer in self.named() if updates[name]]


def learning_rate_at(settings: OptimizerConfig, progress: float) -> float:
    """The step size after the share `progress` of the training, which is past 1 for frames beyond `total_frames`."""
    if not settings.decay:
        return settings.learning_rate
    return settings.learning_rate * min(1.0, max(0.0, 1.0 - progress) / (1.0 - settings.decay_from))


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Sets the learning rate of all weights; those of a memory get a multiple of it."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("rate", 1.0)


def _make_optimizer(module: nn.Module, settings: OptimizerConfig, memory_learning_rate_factor: float) -> torch.optim.Optimizer:
    _leave_out_compiler()
    learned = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    memory = {name for name in learned if is_memory(name)}
    groups: list[dict[str, Any]] = [{"params": [parameter for name, parameter in learned.items() if name not in memory]}]
    if memory:
        factor = memory_learning_rate_factor
        groups.append(
            {"params": [learned[name] for name in learned if name in memory], "rate": factor, "lr": factor * settings.learning_rate}
        )
    # One fused call for all parameters instead of several small operations for each.
    if settings.name == "adam":
        return torch.optim.Adam(groups, lr=settings.learning_rate, eps=settings.epsilon, fused=True)
    return RMSProp(groups, learning_rate=settings.learning_rate, epsilon=settings.epsilon)


def _leave_out_compiler() -> None:
    """Keeps PyTorch from importing its compiler, which takes a second: these methods ask at their first call how to be left out of compiled
    code, and here nothing is compiled. Where PyTorch asks in another way, the compiler is imported as ever.
    """
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        method = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if method is not None and not hasattr(method, "__dynamo_disable"):
            method.__dynamo_disable = method


class RMSProp(torch.optim.Optimizer):
    """RMSProp as TensorFlow has it, and so IMPALA: x -= η g / √(ν + ε) with ν ← 0.99 ν + 0.01 g², and ν = 1 at the start.

    PyTorch's adds ε to the root and starts at ν = 0. With IMPALA's ε of 0.1 and gradients of 0.02 its first step is ten times as long, so
    that published learning rates would not carry over.
    """

    DECAY = 0.99

    def __init__(self, groups: list[dict[str, Any]], *, learning_rate: float, epsilon: float):
        super().__init__(groups, {"lr": learning_rate, "eps": epsilon})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step along the gradients."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            gradients = [parameter.grad for parameter in parameters]
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter]["square_avg"] = torch.ones_like(parameter)
            squares = [self.state[parameter]["square_avg"] for parameter in parameters]
            torch._foreach_mul_(squares, self.DECAY)
            torch._foreach_addcmul_(squares, gradients, gradients, value=1 - self.DECAY)
            roots = torch._foreach_sqrt(torch._foreach_add(squares, group["eps"]))
            torch._foreach_addcdiv_(parameters, gradients, roots, value=-group["lr"])


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The parameters of an optimiser, in its order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def load_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Goes on from a `state_dict`, on whatever device and in whatever memory order its moments are.

    Only the moments are taken: PyTorch would also take back the state's learning rates and epsilons, whatever the experiment says now.
    """
    options = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, of_experiment in zip(optimizer.param_groups, options, strict=True):
        group.update(of_experiment)
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                entries[name] = in_order_of(value, parameter)


def in_order_of(tensor: Tensor, parameter: Tensor) -> Tensor:
    """`tensor` with its numbers in memory in the order of `parameter`, which has the same shape.

    The fused Adam walks through a parameter, its gradient and its moments in the order of memory. On a CPU it does not compare their
    strides: a gradient in another order changes other weights than its own, without an error. Convolutions in `channels_last` have such
    weights, and files and exchanges between learners give tensors back in the order of their axes.
    """
    return tensor if tensor.stride() == parameter.stride() else torch.empty_like(parameter).copy_(tensor)
