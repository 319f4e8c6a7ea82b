"""Masks of actions: the parameters of choices that an environment forbids."""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from envs.mixed import KIND
from envs.observations import MASK
from mtrl.models.distributions import FORBIDDEN


class ActionMask:
    """Forbids what the array `action_mask` of an observation has zeros for, or that of the observation's own kind.

    Args:
        masks: for each array, its name, the number of the observations' kind that it belongs to or None for all, and its size.
        first: the place of an action's parameters among those of the distribution.
        num_parameters: of the distribution (P).
    """

    def __init__(self, masks: Sequence[tuple[str, int | None, int]], first: int, num_parameters: int):
        self._masks, self._first, self._num_parameters = tuple(masks), first, num_parameters

    def allowed(self, obs: dict[str, Tensor]) -> Bool[Tensor, "N P"]:
        """Which parameters stay as they are, for observations of N rows."""
        allowed = None
        for name, kind, size in self._masks:
            own = obs[name] != 0
            if kind is not None:
                own = own | (obs[KIND] != kind).unsqueeze(1)
            behind = self._num_parameters - self._first - size
            own = torch.nn.functional.pad(own, (self._first, behind), value=True)
            allowed = own if allowed is None else allowed & own
        assert allowed is not None
        return allowed

    def of_kind(self, kind: int) -> ActionMask | None:
        """The mask of observations of one kind, which are given by their own names; None where that kind has none."""
        own = [(name.removeprefix(f"{kind}."), None, size) for name, number, size in self._masks if number == kind]
        return ActionMask(own, self._first, self._num_parameters) if own else None


def forbid(parameters: Float[Tensor, "*N P"], allowed: Bool[Tensor, "*N P"]) -> Float[Tensor, "*N P"]:
    """The parameters with those that are not allowed so low that their actions have probability 0."""
    return parameters.masked_fill(~allowed, FORBIDDEN)


def make_mask(space: gymnasium.spaces.Dict, num_parameters: int, *, several_kinds: bool) -> ActionMask | None:
    """The mask of observations of `space`; None where they have none.

    Args:
        space: of the observations.
        num_parameters: of the distribution of the actions.
        several_kinds: whether the first parameter is the number of the action's kind.
    """
    masks = []
    for name, part in space.items():
        kind, _, own_name = name.rpartition(".") if KIND in space.spaces else ("", "", name)
        if own_name == MASK:
            masks.append((name, int(kind) if kind else None, int((part.shape or (0,))[0])))
    return ActionMask(masks, int(several_kinds), num_parameters) if masks else None
