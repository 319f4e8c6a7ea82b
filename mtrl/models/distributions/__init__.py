"""Action distributions: how a head's output becomes actions, log-probabilities and entropy."""

from mtrl.models.distributions.categorical import FORBIDDEN, Categorical, MultiCategorical
from mtrl.models.distributions.joined import Either, Factored
from mtrl.models.distributions.making import make_distribution
from mtrl.models.distributions.normal import Normal, TanhNormal, softly_bounded
from mtrl.models.distributions.protocol import Distribution

__all__ = [
    "FORBIDDEN",
    "Categorical",
    "Distribution",
    "Either",
    "Factored",
    "MultiCategorical",
    "Normal",
    "TanhNormal",
    "make_distribution",
    "softly_bounded",
]
