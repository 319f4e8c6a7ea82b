"""Ways to combine the tasks' gradients into one for the trunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
            self._weigh = COMBINERS[name]()
        except ImportError as error:
            raise ConfigError(f"learner.combiner {name!r} needs more than torchjd itself ({error})") from None
        self._adds_up_to_tasks = name == "pcgrad"

    def weights(self, gradients: Float[Tensor, "tasks D"], seed: int = 0) -> Float[Tensor, " tasks"]:
        """The weight of each task; 1 for tasks without a gradient. What a rule draws depends on `seed` alone."""
        wishes = gradients.norm(dim=1) > 0
        weights = torch.ones(len(gradients), device=gradients.device)
        own = gradients[wishes]
        # The longest at length 1: rules compare with constants.
        own = own / own.norm(dim=1).max() if len(own) else own
        if len(own) > 1 and own.isfinite().all():
            # On the CPU in double precision: matrices of a few tasks, and solvers that want it.
            # Some rules draw an order of the tasks from PyTorch's global generator.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                found = self._weigh((own @ own.T).double().cpu()).to(gradients.device, torch.float32)
            weights[wishes] = found if self._adds_up_to_tasks else found * len(own)
        return weights

    def scale(
        self, gradients: Float[Tensor, "N D"], row_tasks: Int[Tensor, " N"], num_tasks: int, seed: int, total: Total = alone
    ) -> Float[Tensor, "N D"]:
        """The gradient at the mixed feature with each row times its task's weight."""
        weights = self.weights(task_gradients(gradients, row_tasks, num_tasks, total), seed)
        return gradients * weights[row_tasks].unsqueeze(1).to(gradients.dtype)


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
