"""Chooses the distribution of an action space."""

from __future__ import annotations

import gymnasium
import numpy as np

from envs.actions import HybridSpace
from envs.mixed import EitherSpace
from mtrl.config import ConfigError
from mtrl.models.distributions.categorical import Categorical, MultiCategorical
from mtrl.models.distributions.joined import Either, Factored
from mtrl.models.distributions.normal import Normal, TanhNormal
from mtrl.models.distributions.protocol import Distribution


def make_distribution(action_space: gymnasium.Space, *, squashed: bool = False) -> Distribution:
    """The distribution over `action_space`.

    Raises:
        ConfigError: no distribution fits the space.
    """
    if isinstance(action_space, EitherSpace):
        return Either([make_distribution(kind, squashed=squashed) for kind in action_space.kinds], int(action_space.shape[0]))  # type: ignore[index]
    if isinstance(action_space, HybridSpace):
        return Factored([make_distribution(part, squashed=squashed) for part in (action_space.choices, action_space.numbers)])
    if isinstance(action_space, gymnasium.spaces.MultiDiscrete) and action_space.nvec.ndim == 1 and not action_space.start.any():
        return MultiCategorical(action_space.nvec.tolist())
    if isinstance(action_space, gymnasium.spaces.Discrete) and action_space.start == 0:
        return Categorical(int(action_space.n))
    if isinstance(action_space, gymnasium.spaces.Box) and len(action_space.shape) == 1 and np.issubdtype(action_space.dtype, np.floating):
        if squashed and not (np.all(action_space.low == -1) and np.all(action_space.high == 1)):
            raise ConfigError(f"model.squashed_actions gives actions between -1 and 1, which {action_space} does not ask for")
        return (TanhNormal if squashed else Normal)(action_space.shape[0])
    raise ConfigError(
        f"no action distribution for {action_space}; Discrete and MultiDiscrete spaces that start at 0, vectors of floats, and both "
        "side by side are supported"
    )
