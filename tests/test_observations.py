"""Whatever an environment observes becomes arrays of known spaces, and what is not of its own space is named in a sentence."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from foreign import observation_spaces
from gymnasium.spaces import Box, Dict, Discrete, Graph, MultiBinary, MultiDiscrete, OneOf, Sequence, Text, Tuple
from gymnasium.spaces.utils import flatten, flatten_space
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import SuiteError
from envs.adapter import Adapted, StackedImages
from envs.errors import MisfitError
from envs.observations import leaf_kind, read_observations, readable


class Shows(gymnasium.Env):
    """An environment that observes what it is told to."""

    action_space = Discrete(2)

    def __init__(self, space, observations):
        self.observation_space, self._observations = space, iter(observations)

    def reset(self, *, seed=None, options=None):
        return next(self._observations), {}

    def step(self, action):
        return next(self._observations), 0.0, False, False, {}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(observation_spaces(), st.integers(0, 2**31))
def test_samples_of_any_space_become_arrays_of_the_leaves(space, seed):
    if not readable(space):
        with pytest.raises(SuiteError, match=r"^it observes .* wrap it in [^\n]*$"):
            read_observations(space)
        return
    leaves, read, left_out, _ = read_observations(space)
    assert len(leaves) > 0 and all("Sequence" in str(space) or "Graph" in str(space) for _ in left_out)
    space.seed(seed)
    for _ in range(3):
        arrays = read(space.sample())
        assert set(arrays) == set(leaves)
        for name, part in leaves.items():
            array = arrays[name]
            # An unbounded float64 may not have a float32.
            assert array.shape == part.shape and array.dtype == part.dtype
            assert part.contains(array) or (leaf_kind(part) != "choices" and not np.isfinite(array).all())


NUMBERS = [
    Box(-2, 7, (3,), np.float64),
    Box(0, 100, (), np.int64),
    Box(-1, 1, (2, 2), np.float16),
    Discrete(4, start=-3),
    MultiDiscrete([[2, 3], [4, 5]], start=[[1, 0], [-2, 7]]),
    MultiBinary((2, 3)),
]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=3), st.booleans(), st.integers(0, 2**31))
def test_numbers_are_joined_as_gymnasium_flattens_them(parts, as_tuple, seed):
    inner = Tuple(tuple(parts)) if as_tuple else Dict({str(place): part for place, part in enumerate(parts)})
    space = Dict({"state": inner, "goal": Box(0, np.inf, (2,))})
    leaves, read, *_ = read_observations(space)
    flat = flatten_space(space)
    assert leaves == Dict({"vector": Box(flat.low.astype(np.float32), flat.high.astype(np.float32))})
    space.seed(seed)
    observation = space.sample()
    np.testing.assert_array_equal(read(observation)["vector"], flatten(space, observation).astype(np.float32))


@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        ((84, 84, 3), -1),
        ((3, 84, 84), 0),
        ((210, 160, 3), -1),
        ((3, 210, 160), 0),
        ((4, 84, 84), 0),
        ((8, 8, 111), -1),  # a chess board of PettingZoo
        ((5, 5, 5), -1),
        ((9, 8), None),
    ],
)
def test_channels_come_first(shape, channels):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    leaves, read, *_ = read_observations(Box(0, 255, shape, np.uint8))
    expected = image[None] if channels is None else np.moveaxis(image, channels, 0)
    np.testing.assert_array_equal(read(image)["image"], expected)
    assert leaves["image"] == Box(0, 255, expected.shape, np.uint8)


@pytest.mark.parametrize(
    ("space", "kinds"),
    [
        (Box(0, 255, (64, 64, 3), np.uint8), {"image": "image"}),
        (Box(0, 1, (4, 64, 64, 3), np.float64), {"image": "image"}),
        (Box(0, 1, (2, 2, 3)), {"vector": "vector"}),
        (Box(-np.inf, np.inf, (7, 8)), {"vector": "vector"}),
        (MultiBinary((3, 9, 9)), {"image": "image"}),
        (Discrete(512), {"vector": "vector"}),
        (Discrete(513, start=4), {"choices": "choices"}),
        (MultiDiscrete([3, 900, 4]), {"vector": "vector", "choices": "choices"}),
        (Text(9), {"text": "text"}),
        (Tuple((Discrete(3), Text(3), Box(0, 1, (8, 8, 1)))), {"vector": "vector", "1": "text", "image": "image"}),
        (
            Dict({"left": Box(0, 1, (9, 9, 1)), "right": Dict({"deep": Box(0, 1, (9, 9, 1))})}),
            {"left": "image", "right/deep": "image"},
        ),
        # Names that mean something else here.
        (Dict({"kind": Text(2), "vector": Text(2), "x": Discrete(2)}), {"kind_": "text", "vector_": "text", "vector": "vector"}),
        (Box(0, 255, (7, 3, 7), np.uint8), {"image_": "image"}),  # MiniGrid's shape, once channels are first
    ],
)
def test_leaves_and_their_names(space, kinds):
    leaves = read_observations(space).space
    assert {name: leaf_kind(part) for name, part in leaves.items()} == kinds


def test_types_of_images():
    """Bytes where the bounds allow it, and float32 elsewhere, whatever type the environment uses."""
    for space, image, dtype in (
        (Box(0, 255, (4, 4, 3), np.int64), np.full((4, 4, 3), 200), np.uint8),
        (Box(0, 300, (4, 4, 3), np.int64), np.full((4, 4, 3), 300), np.float32),
        (Box(-128, 127, (4, 4, 3), np.int8), np.full((4, 4, 3), -128, np.int8), np.float32),
        (Box(0, 1, (4, 4, 3), np.float64), np.full((4, 4, 3), 0.5), np.float32),
        (Box(0, 255, (4, 4, 3), np.uint8), np.full((4, 4, 3), 7.0).tolist(), np.uint8),
    ):
        found = read_observations(space).read(image)["image"]
        assert found.dtype == dtype and found.shape == (3, 4, 4)
        assert (found == np.asarray(image).flat[0]).all()


@pytest.mark.parametrize(
    ("space", "observation", "said"),
    [
        (Box(0, 255, (9, 9, 3), np.uint8), np.zeros((3, 9, 9), np.uint8), r"the observation has shape \(3, 9, 9\) instead of \(9, 9, 3\)"),
        (Box(0, 255, (9, 9, 3), np.uint8), np.full((9, 9, 3), 256), "no whole numbers from 0 to 255"),
        (Box(0, 255, (9, 9, 3), np.uint8), np.full((9, 9, 3), 0.5), "no whole numbers from 0 to 255"),
        (Dict({"a": Dict({"b": Box(0, 1, (3,))})}), {"a": {"b": np.zeros(4)}}, r"'a/b' has shape \(4,\) instead of \(3,\)"),
        (Dict({"a": Discrete(3, start=2)}), {"a": 5}, "'a' is .*5.*, which its space does not have"),
        (Dict({"a": Discrete(3)}), {"a": -1}, "'a' is .*-1.*, which its space does not have"),
        (MultiDiscrete([3, 3]), [0.5, 0], "which its space does not have"),
        (MultiDiscrete([3, 3]), [0, 0, 0], "has shape"),
        (Dict({"a": Discrete(3)}), {"b": 5}, "the observation is {'b': 5}, which has no part 'a'"),
        (Tuple((Discrete(3), Discrete(3))), (1,), "which has no part 1"),
        (Text(3, charset="ab"), "abc", "'abc', whose 'c' is not among the characters"),
        (Text(3, charset="ab"), "abab", "at most 3 characters"),
        (Text(3, charset="ab"), None, "it has to be a text"),
        (Box(0, 1, (3,)), "much", "it has to be numbers"),
        (Box(0, 1, (3,)), [[1], [1, 2]], "it has to be numbers"),
    ],
)
def test_what_is_not_of_its_space_is_a_sentence_with_part_and_step(space, observation, said):
    fine = Adapted(Shows(space, [space.sample(), observation]))
    fine.reset()
    with pytest.raises(MisfitError, match=said + r".* \(after step 1\)$"):
        fine.step(0)
    with pytest.raises(MisfitError, match=r"\(at the beginning of an episode\)"):
        Adapted(Shows(space, [observation])).reset()


@pytest.mark.parametrize(
    "space",
    [
        Sequence(Discrete(3)),
        Graph(Box(-1, 1, (2,)), None),
        OneOf((Discrete(2), Text(2))),
        Tuple((Graph(Box(0, 1, (2,)), None), Sequence(Discrete(3)))),
        Dict({"a": Sequence(Discrete(3))}),
        Box(0, 1, (0,)),
        None,
    ],
)
def test_what_cannot_be_read_is_refused_with_what_to_wrap(space):
    with pytest.raises(SuiteError, match="of which policies can read nothing; wrap it in"):
        read_observations(space)


def test_what_is_left_out_at_any_depth():
    words = Sequence(Discrete(3))
    space = Dict({"a": Dict({"words": words, "x": Discrete(2)}), "b": Dict({"words": words}), "c": Tuple((Discrete(2), words))})
    leaves, read, left_out, _ = read_observations(space)
    assert left_out == ["b", "a/words", "c/1"] and leaves["vector"].shape == (4,)
    np.testing.assert_array_equal(read(space.sample() | {"a": {"words": (), "x": 1}, "c": (0, ())})["vector"], [0, 1, 1, 0])
    with pytest.raises(SuiteError, match="'a' is one of 2,000,000 values"):
        read_observations(Dict({"a": Discrete(2_000_000)}))


@pytest.mark.parametrize(
    ("space", "rounded"),
    [
        (Box(0, 2**24, (2,), np.int64), []),
        (Box(0, 2**24 + 1, (2,), np.int64), ["x"]),
        (Box(-(2**40), 5, (2,), np.int64), ["x"]),
        (Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64), []),  # whose bounds say nothing
        (Box(-1e30, 1e30, (2,), np.float64), []),
    ],
)
def test_whole_numbers_that_are_rounded_are_said(space, rounded):
    assert read_observations(Dict({"x": space, "y": Discrete(2)})).rounded == rounded


def test_texts_are_numbers_of_their_characters():
    leaves, read, *_ = read_observations(Text(5, charset="cab"))
    np.testing.assert_array_equal(read("cab")["text"], [3, 1, 2, 0, 0])  # in the order of the alphabet, whatever a set's is
    assert leaves["text"].high.max() == 3 and leaves["text"].dtype == np.uint8
    many = read_observations(Text(5, charset={chr(1000 + number) for number in range(300)}))
    assert many.space["text"].dtype == np.int32 and many.read(chr(1299))["text"][0] == 300


def test_stacked_images_have_the_newest_last_and_all_else_is_the_newest():
    space = Dict({"cam": Box(0, 255, (8, 8, 1), np.uint8), "x": Box(0, 9, (1,)), "t": Text(2, charset="ab")})
    shown = [{"cam": np.full((8, 8, 1), step, np.uint8), "x": np.array([step]), "t": "b"} for step in range(6)]
    env = StackedImages(Adapted(Shows(space, shown)), 3)
    assert env.observation_space["image"] == Box(0, 255, (3, 8, 8), np.uint8)
    seen = [env.reset()[0]] + [env.step(0)[0] for _ in range(5)]
    assert [frames["image"][:, 0, 0].tolist() for frames in seen] == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]
    assert [frames["vector"].tolist() for frames in seen] == [[step] for step in range(6)]
    assert all(env.observation_space.contains(frames) for frames in seen)
