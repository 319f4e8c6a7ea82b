"""PopArt: each task's values learned at unit scale, whatever the scale of its rewards (van Hasselt et al. 2016, Hessel et al. 2018)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mtrl.models.heads import MultiHead
from mtrl.parallel import Total, add_up, alone

MAX_SCALE = 1e6


class PopArt(nn.Module):
    """Running mean μ and deviation σ of each task's value targets. The critic's head learns n(x), and the value is V(x) = σ n(x) + μ.

    Args:
        num_tasks: tasks with a scale of their own.
        min_scale: the least σ, in units of the task's rewards. The targets of a task that was never paid differ by the critic's errors
            alone; at their scale the first reward would be an outlier of a thousand deviations.
    """

    def __init__(self, num_tasks: int, min_scale: float):
        super().__init__()
        self._min_scale = min_scale
        self.mean: Tensor
        self.mean_square: Tensor
        self.updates: Tensor
        # In float64: of values that are large against their spread, hardly a digit of the variance would be left.
        self.register_buffer("mean", torch.zeros(num_tasks, dtype=torch.float64))
        self.register_buffer("mean_square", torch.ones(num_tasks, dtype=torch.float64))
        self.register_buffer("updates", torch.zeros(num_tasks))

    @property
    def scale(self) -> Float[Tensor, " tasks"]:
        """The deviation σ of each task's targets."""
        return (self.mean_square - self.mean.square()).clamp(self._min_scale**2, MAX_SCALE**2).sqrt().float()

    def denormalize(self, outputs: Float[Tensor, "*N"], task_ids: Int[Tensor, "*N"]) -> Float[Tensor, "*N"]:
        """The values `V = σ n + μ`."""
        return self.scale[task_ids] * outputs + self.mean.float()[task_ids]

    def normalize(self, values: Float[Tensor, "*N"], task_ids: Int[Tensor, "*N"]) -> Float[Tensor, "*N"]:
        """The head's scale: `n = (V - μ) / σ`."""
        return (values - self.mean.float()[task_ids]) / self.scale[task_ids]

    @torch.no_grad()
    def update(
        self,
        targets: Float[Tensor, "T B"],
        valid: Tensor,
        task_ids: Int[Tensor, " B"],
        head: MultiHead,
        rate: float,
        total: Total = alone,
    ) -> None:
        """Moves μ and σ towards the batch's targets, and rescales the head's last layer so that no value changes.

        Args:
            targets: v_t of each step.
            valid: whether a step counts, [T, B] bool.
            task_ids: each slot's task.
            head: the critic's head, with outputs n(x); its weights for each task are scaled by σ / σ'.
            rate: step of the moving average (β). The first steps are larger, so that the start does not linger: the n-th is at least 1/n.
            total: adds up over all learners.
        """
        mask, targets = valid.double(), targets.double()
        zeros = torch.zeros_like(self.mean)
        added = (mask, targets * mask, targets.square() * mask)
        counts, sums, squares = add_up([zeros.index_add(0, task_ids, each.sum(0)) for each in added], total)
        # A target that is not finite belongs to an update that is skipped; it must not stay in the averages.
        seen = (counts > 0) & sums.isfinite() & squares.isfinite()
        self.updates += seen
        step = torch.where(seen, self.updates.clamp(min=1).reciprocal().clamp(min=rate), zeros)
        old_mean, old_scale = self.mean.clone(), self.scale
        self.mean += step * (torch.where(seen, sums / counts.clamp(min=1), self.mean) - self.mean)
        self.mean_square += step * (torch.where(seen, squares / counts.clamp(min=1), self.mean_square) - self.mean_square)
        ratio = old_scale / self.scale
        head.output_weight.mul_(ratio[:, None, None])
        head.output_bias.copy_((ratio[:, None] * head.output_bias) + ((old_mean - self.mean).float() / self.scale)[:, None])
