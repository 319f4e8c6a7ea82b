"""Several learners that make the same update, each from a part of the batch.

A loss is a sum over steps whose weights come from the whole batch, so its gradient is the sum of the parts' gradients. The other statistics
of the batch (frames of a task, moments of advantages, PopArt's and the observations' statistics) are sums as well. One function that
adds a tensor up over all learners is therefore the only link between learners in an update, and equal states stay equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Total = Callable[[Tensor], Tensor]
"""A tensor added up over all learners. Each of them has to call it as often and in the same order as the others."""


def alone(tensor: Tensor) -> Tensor:
    """The total of a single learner: the tensor itself."""
    return tensor


def over_process_group(tensor: Tensor) -> Tensor:
    """The total over torch's default process group."""
    total = tensor.detach().clone()
    torch.distributed.all_reduce(total)
    return total


def add_up(tensors: Sequence[Tensor], total: Total) -> list[Tensor]:
    """The totals of several tensors of one type in one exchange."""
    if total is alone:
        return list(tensors)
    summed = total(torch.cat([tensor.detach().reshape(-1) for tensor in tensors]))
    return [part.view_as(tensor) for part, tensor in zip(summed.split([t.numel() for t in tensors]), tensors, strict=True)]
