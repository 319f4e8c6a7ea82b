"""Actions of any space: what a policy does is an action of the environment's own type, and its distribution is that of torch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from foreign import action_spaces
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, Independent, Normal, TanhTransform, TransformedDistribution

from envs import SuiteError
from envs.actions import HybridSpace, action_rule, canonical_actions, size_of, values_of
from envs.mixed import EitherSpace
from mtrl.config import ConfigError
from mtrl.models.distributions import make_distribution


def assert_same_type(action, sample):
    """Nested alike, with arrays of the same shape and type. Gymnasium's samples of one number are arrays of floats, but no arrays of
    integers.
    """
    assert type(action) is type(sample) or np.shape(sample) == ()
    if isinstance(sample, dict):
        assert list(action) == list(sample)
        for name in sample:
            assert_same_type(action[name], sample[name])
    elif isinstance(sample, tuple):
        for ours, theirs in zip(action, sample, strict=True):
            assert_same_type(ours, theirs)
    else:
        assert (action.dtype, action.shape) == (sample.dtype, sample.shape)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(action_spaces(), st.integers(0, 2**31))
def test_whatever_a_policy_does_is_an_action_of_the_environment(space, seed):
    try:
        canonical, to_environment = canonical_actions(space)
    except SuiteError as error:
        assert "\n" not in str(error) and any(word in str(error) for word in ("wrap it in", "only one value"))
        return
    canonical.seed(seed)
    space.seed(seed)
    distribution, generator = make_distribution(canonical), torch.Generator().manual_seed(seed)
    for _ in range(3):
        assert canonical.contains(canonical.sample())
        assert space.contains(to_environment(canonical.sample()))
        # Far out of the bounds, too.
        drawn = distribution.sample(5 * torch.randn(4, distribution.num_parameters, generator=generator), generator)
        vectors = drawn.numpy().reshape(4, -1)
        for action in values_of(canonical, distribution.to_environment(vectors.astype(np.float32))):
            assert canonical.contains(action)
            acted = to_environment(action)
            assert space.contains(acted)
            assert_same_type(acted, space.sample())


@pytest.mark.parametrize(
    ("space", "canonical", "pairs"),
    [
        (MultiDiscrete([[2, 3]], start=[[5, -1]], dtype=np.int8), MultiDiscrete([2, 3]), [([1, 0], [[6, -1]])]),
        (MultiBinary((2, 1)), MultiDiscrete([2, 2]), [([1, 0], [[1], [0]])]),
        (Box(-1, 1, (2,), np.int64), MultiDiscrete([3, 3]), [([0, 2], [-1, 1])]),
        (Box(0, 255, (3,), np.uint8), Box(-1, 1, (3,)), [([-1.0, 0.003, 9.0], [0, 128, 255])]),
        (Box(-100, 100, (1,), np.int8), Box(-1, 1, (1,)), [([1.0], [100]), ([-0.004], [0]), ([-1.0], [-100])]),
        (Box(np.int64(2**62), np.int64(2**62 + 2), (1,), np.int64), MultiDiscrete([3]), [([1], [2**62 + 1])]),
        (Box(np.int64(2**62), np.int64(2**62 + 100), (1,), np.int64), Box(-1, 1, (1,)), [([1.0], [2**62 + 100])]),
    ],
)
def test_where_actions_go(space, canonical, pairs):
    ours, to_environment = canonical_actions(space)
    assert ours == canonical
    for action, expected in pairs:
        given_action = to_environment(np.array(action, np.float32 if isinstance(canonical, Box) else np.int64))
        np.testing.assert_array_equal(given_action, expected)
        assert space.contains(given_action)


def test_choices_come_first_and_numbers_behind_them():
    space = Dict({"a": Box(0, 10, (2,)), "b": Tuple((Discrete(3, start=4), MultiBinary(2), Box(-np.inf, np.inf, (1,))))})
    canonical, to_environment = canonical_actions(space)
    bounds = np.array([1, 1, np.inf], np.float32)
    assert canonical == HybridSpace(MultiDiscrete([3, 2, 2]), Box(-bounds, bounds))
    action = to_environment(np.array([2, 0, 1, -1, 0, 7.5], np.float32))
    np.testing.assert_array_equal(action["a"], [0, 5])
    assert action["b"][0] == 6 and action["b"][1].tolist() == [0, 1] and action["b"][2].tolist() == [7.5]
    assert action_rule(space).startswith("from -1 … 1 to the bounds of Dict('a'")
    assert action_rule(MultiDiscrete([2])) is None
    all_choices, _ = canonical_actions(Tuple((Discrete(3), MultiBinary(2))))
    assert all_choices == MultiDiscrete([3, 2, 2])
    all_numbers, _ = canonical_actions(Tuple((Box(0, 10, (2,)), Box(0, np.inf, (1,)))))
    assert all_numbers == Box(np.array([-1, -1, 0], np.float32), np.array([1, 1, np.inf], np.float32))


def test_integer_boxes_with_too_many_values_are_refused():
    with pytest.raises(SuiteError, match=r"has 1,099,511,627,777 values, more than the 16,777,216 that a policy tells apart"):
        canonical_actions(Box(0, 2**40, (2,), np.int64))


KINDS = [
    Discrete(3),
    MultiDiscrete([2, 5, 3]),
    MultiDiscrete([4, 4]),
    Box(-1, 1, (2,)),
    HybridSpace(MultiDiscrete([2, 3]), Box(-1, 1, (2,))),
]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 2**31))
def test_every_kind_survives_the_form_that_all_kinds_share(seed):
    space = EitherSpace(KINDS)
    for kind, own in enumerate(KINDS):
        own.seed(seed)
        action = np.asarray(own.sample())
        vector = space.join(kind, action)
        assert space.contains(vector) and len(vector) == 1 + max(map(size_of, KINDS))
        np.testing.assert_array_equal(space.split(kind, vector), action)
    assert not space.contains(space.join(1, np.array([1, 5, 1])))


def torch_parts(space, parameters, squashed):
    """Torch's distributions of a space's choices and numbers, one after the other."""
    parts = []
    if isinstance(space, Discrete):
        return [Categorical(logits=parameters)]
    choices = space.choices if isinstance(space, HybridSpace) else space if isinstance(space, MultiDiscrete) else None
    numbers = space.numbers if isinstance(space, HybridSpace) else space if isinstance(space, Box) else None
    if choices is not None:
        parts += [Categorical(logits=logits) for logits in parameters[..., : choices.nvec.sum()].split(choices.nvec.tolist(), -1)]
        parameters = parameters[..., choices.nvec.sum() :]
    if numbers is not None:
        mean, offset = parameters.chunk(2, -1)
        normal = Normal(mean, (offset - 0.3).exp())
        parts.append(Independent(TransformedDistribution(normal, TanhTransform(cache_size=1)) if squashed else normal, 1))
    return parts


def torch_log_prob(space, parts, actions, squashed):
    """Torch's log-probability of our actions, which are stored before they are squashed."""
    vectors = actions.unsqueeze(-1) if isinstance(space, Discrete) else actions
    total, start = torch.zeros(vectors.shape[:-1]), 0
    for part in parts:
        size = part.event_shape[0] if part.event_shape else 1
        own = vectors[..., start : start + size]
        start += size
        total = total + part.log_prob((own.tanh() if squashed else own) if part.event_shape else own[..., 0])
    return total


@pytest.mark.parametrize("squashed", [False, True])
@pytest.mark.parametrize("space", KINDS, ids=str)
def test_log_probabilities_entropies_and_modes_are_those_of_torch(space, squashed):
    distribution, generator = make_distribution(space, squashed=squashed), torch.Generator().manual_seed(0)
    # Small offsets: near its bounds the log-scale bends.
    parameters = torch.randn(7, 11, distribution.num_parameters, generator=generator)
    has_numbers = isinstance(space, Box | HybridSpace)
    if has_numbers:
        parameters[..., -2:] *= 0.2
    parts = torch_parts(space, parameters, squashed)
    actions = distribution.sample(parameters.flatten(0, 1), generator).unflatten(0, (7, 11))
    expected = torch_log_prob(space, parts, actions, squashed)
    torch.testing.assert_close(distribution.log_prob(parameters, actions), expected, rtol=2e-3, atol=2e-3)
    if squashed and has_numbers:  # torch has no entropy of a squashed Gaussian: the mean of many samples
        many = parameters[0, :1].expand(200_000, -1)
        found = -distribution.log_prob(many, distribution.sample(many, generator)).mean()
        torch.testing.assert_close(distribution.entropy(many[:1])[0], found, rtol=0.01, atol=0.02)
    else:
        entropies = torch.stack([part.entropy() for part in parts]).sum(0)
        torch.testing.assert_close(distribution.entropy(parameters), entropies, rtol=1e-3, atol=1e-3)
    modes = [part.base_dist.mean if part.event_shape and not squashed else None for part in parts]
    vectors = distribution.mode(parameters).reshape(7, 11, -1).float()
    for place, part in enumerate(parts):
        if not part.event_shape:
            torch.testing.assert_close(vectors[..., place], part.mode.float())
        elif not squashed:
            torch.testing.assert_close(vectors[..., place:], modes[place])


@pytest.mark.parametrize("space", [MultiDiscrete([2, 3]), HybridSpace(MultiDiscrete([2, 3]), Box(-1, 1, (1,)))], ids=str)
def test_samples_are_as_frequent_as_their_probabilities(space):
    distribution, generator = make_distribution(space), torch.Generator().manual_seed(1)
    row = torch.randn(distribution.num_parameters, generator=generator)
    drawn = distribution.sample(row.expand(40_000, -1), generator)[:, :2].long()
    for first, second in itertools.product(range(2), range(3)):
        expected = row[:2].softmax(0)[first] * row[2:5].softmax(0)[second]
        found = ((drawn[:, 0] == first) & (drawn[:, 1] == second)).float().mean()
        assert abs(found - expected) < 0.01
    encoded = distribution.encode(distribution.sample(row.expand(5, -1), generator))
    assert encoded.shape == (5, distribution.num_features) and (encoded[:, :2].sum(1) == 1).all() and (encoded[:, 2:5].sum(1) == 1).all()


def test_spaces_without_a_distribution():
    for space in (MultiDiscrete([2], start=[1]), MultiDiscrete([[2]]), MultiBinary(2), Box(0, 3, (2,), np.int64)):
        with pytest.raises(ConfigError, match="no action distribution"):
            make_distribution(space)
    with pytest.raises(ConfigError, match="squashed_actions"):
        make_distribution(HybridSpace(MultiDiscrete([2]), Box(-2, 2, (1,))), squashed=True)
