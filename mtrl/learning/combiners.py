"""Ways to combine the tasks' gradients into one for the trunk.

Combiners act where the heads meet the trunk. A row of the mixed feature belongs to one task, so the gradient that arrives there, summed
over the task's rows, is the task's gradient. A combiner turns the scalar products of these gradients into a weight for each task, and each
row goes back through the trunk, once, with its task's weight. The rules themselves are torchjd's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mtrl.config import ConfigError
from mtrl.parallel import Total, alone


def task_gradients(
    gradients: Float[Tensor, "N D"], row_tasks: Int[Tensor, " N"], num_tasks: int, total: Total = alone
) -> Float[Tensor, "tasks D"]:
    """The gradient at the mixed feature, summed over each task's rows, of all learners."""
    return total(torch.zeros(num_tasks, gradients.shape[1], device=gradients.device).index_add_(0, row_tasks, gradients.float()))


class Combiner:
    """Weights of tasks from the scalar products of their gradients, by one of torchjd's rules; `sum` leaves all as they are.

    Rules whose weights add up to 1 are scaled to add up to the number of tasks, so that tasks which agree move the trunk as far as under
    `sum`.

    Raises:
        ConfigError: no such rule, or torchjd lacks a package for it.
    """

    def __init__(self, name: str):
        if name not in COMBINERS:
            raise ConfigError(f"learner.combiner: no rule {name!r}; known are {', '.join(COMBINERS)}")
        try:
            self._rule = COMBINERS[name]()
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

    def scale(
        self, gradients: Float[Tensor, "N D"], row_tasks: Int[Tensor, " N"], num_tasks: int, seed: int, total: Total = alone
    ) -> Float[Tensor, "N D"]:
        """The gradient at the mixed feature with each row times its task's weight."""
        weights = self.weights(task_gradients(gradients, row_tasks, num_tasks, total), seed)
        return gradients * weights[row_tasks].unsqueeze(1).to(gradients.dtype)

    def attach(self, features: Iterable[Tensor], row_tasks: Int[Tensor, " N"], num_tasks: int, seed: int, total: Total = alone) -> None:
        """Scales the gradients that will arrive at mixed features [N, D]; arguments as of `scale`."""
        for feature in features:
            if feature.requires_grad:
                feature.register_hook(lambda gradients: self.scale(gradients, row_tasks, num_tasks, seed, total))


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
