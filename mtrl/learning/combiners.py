"""Ways to combine the tasks' gradients into one for the trunk.

A combiner turns the scalar products of the tasks' gradients into a weight for each task, and each row of the mixed feature, which belongs
to one task, sends its gradient back through the trunk with its task's weight. The rules themselves are torchjd's. `learner.combiner_space`
says which gradients are compared:

- `trunk`: those of the trunk's shared parameters, as in the papers. It costs a pass back through the trunk for each task.
- `feature`: those at the mixed feature, summed over each task's rows. They cost nothing and are a heuristic: rows of different tasks go
  through different mixtures of experts, so cosines at the feature need not be those of the parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mtrl.config import ConfigError, look_up
from mtrl.parallel import Total, alone


def task_gradients(
    gradients: Float[Tensor, "N D"], row_tasks: Int[Tensor, " N"], num_tasks: int, total: Total = alone
) -> Float[Tensor, "tasks D"]:
    """The gradient at the mixed feature, summed over each task's rows, of all learners."""
    return total(torch.zeros(num_tasks, gradients.shape[1], device=gradients.device).index_add_(0, row_tasks, gradients.float()))


class SharedLayer(NamedTuple):
    """The place where the tasks' gradients meet."""

    feature: Float[Tensor, "N D"]  # the mixed feature of each row
    parameters: tuple[Tensor, ...]  # of the trunk, whose gradients are compared; none: the gradients at the feature are


def parameter_gradients(
    shared: SharedLayer, gradients: Float[Tensor, "N D"], row_tasks: Int[Tensor, " N"], num_tasks: int, total: Total = alone
) -> Float[Tensor, "tasks P"]:
    """The gradient of each task's rows by the shared parameters, of all learners; one pass back through the trunk for each task.

    Args:
        shared: feature and parameters.
        gradients: that arrive at the feature.
        row_tasks: the task of each row.
        num_tasks: tasks of the suite.
        total: adds up over all learners.
    """
    sums = torch.zeros(num_tasks, sum(parameter.numel() for parameter in shared.parameters), device=gradients.device)
    for task in row_tasks.unique().tolist():
        own = gradients * (row_tasks == task).unsqueeze(1)
        parts = torch.autograd.grad(shared.feature, shared.parameters, own, retain_graph=True, allow_unused=True)
        filled = [part if part is not None else torch.zeros_like(of) for part, of in zip(parts, shared.parameters, strict=True)]
        sums[task] = torch.cat([part.float().flatten() for part in filled])
    return total(sums)


class Combiner:
    """Weights of tasks from the scalar products of their gradients, by one of torchjd's rules; `sum` leaves all as they are.

    Rules whose weights add up to 1 are scaled to add up to the number of tasks, so that tasks which agree move the trunk as far as under
    `sum`.

    Raises:
        ConfigError: no such rule, or torchjd lacks a package for it.
    """

    def __init__(self, name: str):
        try:
            self._rule = look_up(name, COMBINERS, "learner.combiner", "rule", ["sum"])()
        except ImportError as error:
            raise ConfigError(f"learner.combiner {name!r} needs more than torchjd itself ({error})") from None
        self._adds_up_to_tasks = name == "pcgrad"

    def weights(self, gradients: Float[Tensor, "tasks D"], seed: int = 0) -> Float[Tensor, " tasks"]:
        """The weight of each task; 1 for tasks without a gradient. What a rule draws depends on `seed` alone."""
        present = gradients.norm(dim=1) > 0
        weights = torch.ones(len(gradients), device=gradients.device)
        rows = gradients[present]
        # The longest at length 1, since the rules compare with constants.
        rows = rows / rows.norm(dim=1).max() if len(rows) else rows
        if len(rows) > 1 and rows.isfinite().all():
            # On the CPU in double precision: matrices of a few tasks, and solvers that want it.
            # Some rules draw an order of the tasks from PyTorch's global generator.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                found = self._rule((rows @ rows.T).double().cpu()).to(gradients.device, torch.float32)
            weights[present] = found if self._adds_up_to_tasks else found * len(rows)
        return weights

    def attach(
        self,
        loss: Float[Tensor, ""],
        shared: SharedLayer,
        row_tasks: Int[Tensor, " N"],
        num_tasks: int,
        seed: int,
        total: Total = alone,
    ) -> None:
        """Scales the gradient of a loss that will arrive at a mixed feature: each row by its task's weight.

        Args:
            loss: the loss that goes back next.
            shared: the feature, and the parameters behind it if their gradients are to be compared.
            row_tasks: the task of each row.
            num_tasks: tasks of the suite.
            seed: of what a rule draws.
            total: adds up over all learners.
        """
        if not shared.feature.requires_grad:
            return
        of_parameters = None
        if shared.parameters:
            # Before the loss goes back: inside a hook, a pass through the same graph would wait for itself.
            (at_feature,) = torch.autograd.grad(loss, shared.feature, retain_graph=True)
            of_parameters = self.weights(parameter_gradients(shared, at_feature, row_tasks, num_tasks, total), seed)

        def scale(gradients: Tensor) -> Tensor:
            weights = of_parameters
            if weights is None:
                weights = self.weights(task_gradients(gradients, row_tasks, num_tasks, total), seed)
            return gradients * weights[row_tasks].unsqueeze(1).to(gradients.dtype)

        shared.feature.register_hook(scale)


def task_similarity(
    loss: Float[Tensor, ""], features: Float[Tensor, "N D"], row_tasks: Int[Tensor, " N"], num_tasks: int, total: Total = alone
) -> np.ndarray:
    """Cosines of the tasks' gradients at the mixed feature, [tasks, tasks]; NaN for tasks without one.

    The way back from the loss to the feature goes through the heads alone, so that this costs little.
    """
    (gradients,) = torch.autograd.grad(loss, features, retain_graph=True)
    sums = task_gradients(gradients, row_tasks, num_tasks, total)
    lengths = sums.norm(dim=1, keepdim=True)
    cosines = (sums @ sums.T) / (lengths * lengths.T).clamp(min=1e-30)
    unknown = (lengths == 0).squeeze(1)
    cosines[unknown] = cosines[:, unknown] = torch.nan
    return cosines.cpu().numpy().astype(np.float64)


def _of_torchjd(name: str, **options: Any) -> Callable[[], Any]:
    def build() -> Any:
        import torchjd.aggregation

        return getattr(torchjd.aggregation, name)(**options)

    return build


COMBINERS: dict[str, Callable[[], Any]] = {
    "pcgrad": _of_torchjd("PCGradWeighting"),
    "cagrad": _of_torchjd("CAGradWeighting", c=0.5),
    "aligned_mtl": _of_torchjd("AlignedMTLWeighting"),
    "upgrad": _of_torchjd("UPGradWeighting"),
    "mgda": _of_torchjd("MGDAWeighting"),
    "imtl_g": _of_torchjd("IMTLGWeighting"),
}


def make_combiner(name: str) -> Combiner | None:
    """The combiner that the experiment names; None for `sum`.

    Raises:
        ConfigError: see `Combiner`.
    """
    return None if name == "sum" else Combiner(name)
