"""Layers of tasks side by side: outputs and gradients of each task's own linear layer."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from mtrl.models.heads import _by_task


@pytest.mark.parametrize("counts", [(3, 0, 4, 1), (0, 0, 0, 5), (0, 0, 0, 0), (8, 0, 0, 0)])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("needed", ["all", "weights", "rows"])
def test_each_task_has_a_linear_layer_of_its_own(counts, has_bias, needed):
    torch.manual_seed(0)
    rows = torch.randn(sum(counts), 6, dtype=torch.float64, requires_grad=needed != "weights")
    weight = torch.randn(4, 5, 6, dtype=torch.float64, requires_grad=needed != "rows")
    bias = torch.randn(4, 5, dtype=torch.float64, requires_grad=needed != "rows") if has_bias else None
    inputs = [tensor for tensor in (rows, weight, bias) if tensor is not None and tensor.requires_grad]
    tasks = [task for task, count in enumerate(counts) for _ in range(count)]
    slow = [functional.linear(row, weight[task], None if bias is None else bias[task]) for row, task in zip(rows, tasks, strict=True)]
    expected = torch.stack(slow) if slow else weight.new_zeros(0, 5)
    found = _by_task(rows, weight, bias, counts)
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        torch.testing.assert_close(_by_task(rows, weight, bias, counts), expected)
    gradient = torch.randn(found.shape, dtype=torch.float64)
    ours = torch.autograd.grad(found, inputs, gradient)
    if not slow:
        assert all(not each.any() for each in ours)
        return
    theirs = torch.autograd.grad(expected, inputs, gradient, allow_unused=True)
    for one, other, of in zip(ours, theirs, inputs, strict=True):
        torch.testing.assert_close(one, torch.zeros_like(of) if other is None else other)
