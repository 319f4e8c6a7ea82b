"""Convolutions of 2x2 cells over many views of grids, evaluated once for each distinct patch.

The views of a batch are different ones, and their parts are not: in a minibatch of MiniGrid MT7 one of thirty patches of 2x2 cells is
distinct, one of seven of 3x3 cells, and one of three of 4x4 cells. These are what three convolutions one after the other read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

MOST = 2**16  # patches of a level: four of them make a key of 64 bits


class Patches(NamedTuple):
    """The distinct patches of views, of 2x2, 3x3, … cells."""

    cells: UInt8[Tensor, "C 3"]
    """The numbers of distinct cells."""
    levels: tuple[Int[Tensor, "P 4"], ...]
    """For each size the places of a patch's four parts among those of the size before; the first ones' parts are cells."""
    views: Int[Tensor, "N S"]
    """The places of each view's largest patches, row by row."""


def distinct_patches(images: UInt8[Tensor, "N H W 3"], sizes: int) -> Patches | None:
    """The patches of so many sizes; None where there are more than `MOST` of one, and little would be gained."""
    numbers = images.long()
    keys, places = torch.unique((numbers[..., 0] << 16) | (numbers[..., 1] << 8) | numbers[..., 2], return_inverse=True)
    cells = torch.stack([keys >> 16, (keys >> 8) & 255, keys & 255], dim=1).to(images.dtype)
    levels: list[Tensor] = []
    for _ in range(sizes):
        if len(keys) >= MOST:
            return None
        keys = (places[:, :-1, :-1] << 48) | (places[:, :-1, 1:] << 32) | (places[:, 1:, :-1] << 16) | places[:, 1:, 1:]
        keys, places = torch.unique(keys, return_inverse=True)
        levels.append(torch.stack([(keys >> shift) & (MOST - 1) for shift in (48, 32, 16, 0)], dim=1))
    return Patches(cells, tuple(levels), places.flatten(1))


def convolve(layers: Sequence[Sequence[nn.Conv2d]], cells: Float[Tensor, "C I"], patches: Patches) -> Float[Tensor, "N K D"]:
    """What K experts' 2x2 convolutions with ReLUs between them give for the views, flattened in the order (height, width, channel).

    All is computed in float32, which is as fast for products this small, and the result is in the precision of the surroundings.

    Args:
        layers: for each size of patches the convolutions of all experts.
        cells: the input channels of the distinct cells.
        patches: of the views.
    """
    reduced = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
    experts = len(layers[0])
    rank = torch.arange(experts)[:, None, None]
    with torch.autocast("cpu", enabled=False):
        hidden = cells[patches.levels[0]].flatten(1).expand(experts, -1, -1)
        for size, convolutions in enumerate(layers):
            if size:
                rows = patches.levels[size] + rank * hidden.shape[1]
                hidden = rows_of(hidden.relu().flatten(0, 1), rows.flatten()).view(experts, -1, 4 * hidden.shape[2])
            weights = torch.stack([layer.weight.permute(2, 3, 1, 0).flatten(0, 2) for layer in convolutions])
            biases = torch.stack([layer.bias for layer in convolutions])  # type: ignore[misc]
            hidden = torch.baddbmm(biases.unsqueeze(1), hidden, weights)
    rows = patches.views[:, None] + rank[:, 0] * hidden.shape[1]
    return rows_of(hidden.flatten(0, 1).to(reduced), rows.flatten()).view(len(patches.views), experts, -1)


def keep_operations(module: nn.Module) -> None:
    """Makes the encoders in a module use the same operations whatever they read, for what records or exports them."""
    for part in module.modules():
        if hasattr(part, "share_patches"):
            part.share_patches = False  # type: ignore[assignment]


def rows_of(x: Float[Tensor, "N D"], places: Int[Tensor, " M"]) -> Float[Tensor, "M D"]:
    """The rows at these places. Their gradients are added up in float32, where one row may be that of a thousand places."""
    return _RowsOf.apply(x, places) if torch.is_grad_enabled() and x.requires_grad else x.index_select(0, places)  # type: ignore[no-any-return, no-untyped-call]


class _RowsOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.rows = len(x)
        return x.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        total = torch.zeros(ctx.rows, gradient.shape[1])
        return total.index_add_(0, places, gradient.float()).to(gradient.dtype), None
