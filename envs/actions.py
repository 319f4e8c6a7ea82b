"""Actions of any environment as those that policies have: choices, numbers, or both side by side.

| the environment's space | a policy acts in |
|---|---|
| Discrete | `Discrete` from 0 on |
| MultiDiscrete, MultiBinary, an integer Box of at most `MOST_CHOICES` values in each dimension | `MultiDiscrete` from 0 on, rank 1 |
| a Box of floats; an integer Box of more values, which gets the nearest one | `Box` of float32, rank 1 |
| Tuple and Dict of these, nested | `MultiDiscrete` of all choices, `Box` of all numbers, or a `HybridSpace` of both |

A dimension of a box with finite bounds is mapped from [-1, 1] to them, as RLlib's `normalize_actions` does; one with an infinite bound
stays in the environment's units and is clipped at the finite one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from envs.errors import MisfitError, SuiteError
from envs.observations import shown

MOST_CHOICES = 32
"""Values of an integer box's dimension that are choices; more are a scale."""
MOST_VALUES = 2**24
"""Values of an integer box's dimension that float32 tells apart."""


class HybridSpace(gymnasium.Space[np.ndarray]):
    """Choices and numbers side by side, as one vector of float32.

    Args:
        choices: from 0 on, of rank 1.
        numbers: of rank 1.
    """

    def __init__(self, choices: MultiDiscrete, numbers: Box):
        self.choices, self.numbers = choices, numbers
        super().__init__((len(choices.nvec) + numbers.shape[0],), np.float32)

    def sample(self, mask: Any = None, probability: Any = None) -> np.ndarray:
        """A random action."""
        return np.concatenate([self.choices.sample(), self.numbers.sample()]).astype(np.float32)

    def seed(self, seed: Any = None) -> Any:
        """Seeds both parts."""
        return super().seed(seed), self.choices.seed(seed), self.numbers.seed(seed)

    def contains(self, x: Any) -> bool:
        """Whether `x` is a vector of choices and numbers."""
        if not (isinstance(x, np.ndarray) and x.shape == self.shape):
            return False
        return bool(np.array_equal(values_of(self, x), x))

    def __eq__(self, other: object) -> bool:
        """Whether both parts are the same."""
        return isinstance(other, HybridSpace) and (self.choices, self.numbers) == (other.choices, other.numbers)

    __hash__ = None  # type: ignore[assignment]  # as all spaces

    def __repr__(self) -> str:
        """Both parts."""
        return f"{self.choices} beside {self.numbers}"


def size_of(space: gymnasium.Space[Any]) -> int:
    """Numbers of an action of a policy's space that is written as a vector."""
    return 1 if isinstance(space, Discrete) else int(np.prod(space.shape or ()))


def values_of(space: gymnasium.Space[Any], vectors: np.ndarray) -> np.ndarray:
    """The actions of a policy's space in vectors `[..., n]` of numbers, of which the first are read. Values out of range are clipped."""
    if isinstance(space, Discrete):
        return np.rint(vectors[..., 0]).clip(0, int(space.n) - 1).astype(np.int64)
    own = vectors[..., : size_of(space)]
    if isinstance(space, MultiDiscrete):
        return np.rint(own).clip(0, space.nvec - 1).astype(np.int64)
    if isinstance(space, HybridSpace):
        count = len(space.choices.nvec)
        return np.concatenate([values_of(space.choices, own), values_of(space.numbers, own[..., count:])], axis=-1).astype(np.float32)
    return np.clip(own, space.low, space.high).astype(np.float32)  # type: ignore[attr-defined]


def canonical_actions(space: gymnasium.Space[Any] | None) -> tuple[gymnasium.Space[Any], Callable[[Any], Any]]:
    """The space that a policy acts in, and the function from its actions to those of `space`, which are of the types that it samples.

    Raises:
        SuiteError: it is, or has, a space of another kind. The message says what to wrap.
    """
    if isinstance(space, Discrete):
        start, kind = int(space.start), np.dtype(space.dtype).type
        return Discrete(int(space.n)), lambda action: kind(start + int(action))
    leaves = [_leaf(part, space) for part in _parts(space)]
    if isinstance(space, Box) and leaves[0].box is not None:
        return leaves[0].box, leaves[0].to_environment
    counts = [len(leaf.counts) for leaf in leaves]
    sizes = [leaf.box.shape[0] if leaf.box is not None else 0 for leaf in leaves]
    if not sum(counts) + sum(sizes):
        raise _refused(space)
    choice_ends, number_ends = list(itertools.accumulate(counts)), list(itertools.accumulate(sizes))

    def to_environment(action: Any) -> Any:
        choices, numbers = np.rint(action[: choice_ends[-1]]).astype(np.int64), np.asarray(action[choice_ends[-1] :])
        values = (
            leaf.to_environment(choices[end - count : end] if leaf.box is None else numbers[number_end - size : number_end])
            for leaf, count, end, size, number_end in zip(leaves, counts, choice_ends, sizes, number_ends, strict=True)
        )
        return _nested(space, values)

    boxes = [leaf.box for leaf in leaves if leaf.box is not None]
    box = Box(np.concatenate([each.low for each in boxes]), np.concatenate([each.high for each in boxes])) if boxes else None
    multiple = MultiDiscrete([count for leaf in leaves for count in leaf.counts]) if any(counts) else None
    if multiple is not None and box is not None:
        return HybridSpace(multiple, box), to_environment
    return (box if multiple is None else multiple), to_environment  # type: ignore[return-value]


def canonical_box(space: Box) -> tuple[Box, Callable[[Any], Any]]:
    """The space of vectors that a policy acts in instead of a Box of floats, and the function from its actions `[..., n]` to those of
    `space`, `[..., *shape]`. Where both are the same, the function is `same`.

    Raises:
        SuiteError: one of its dimensions has only one value.
    """
    low, high = space.low.astype(np.float64).reshape(-1), space.high.astype(np.float64).reshape(-1)
    with np.errstate(over="ignore"):  # finite in float64, infinite in float32
        finite = np.isfinite(space.low.astype(np.float32)) & np.isfinite(space.high.astype(np.float32))
    finite = finite.reshape(-1)
    if (low >= high)[finite].any():
        raise SuiteError(f"its actions are {space}, in which a dimension has only one value; wrap it in an ActionWrapper without it")
    scale = np.where(finite, (np.where(finite, high, 0) - np.where(finite, low, 0)) / 2, 1.0)
    centre = np.where(finite, np.where(finite, low, 0) + scale, 0.0)

    def to_environment(action: Any) -> Any:
        given = np.asarray(action, np.float64).reshape((*np.shape(action)[:-1], low.size))
        values = np.clip(centre + scale * given, low, high).astype(space.dtype)
        return np.asarray(np.clip(values.reshape((*given.shape[:-1], *space.shape)), space.low, space.high))  # a scalar, too

    bounds = (np.where(finite, -1.0, low).astype(np.float32), np.where(finite, 1.0, high).astype(np.float32))
    free = np.isinf(low) & np.isinf(high)
    unchanged = space.dtype == np.float32 and len(space.shape) == 1 and bool(np.where(finite, (low == -1) & (high == 1), free).all())
    return Box(*bounds, dtype=np.float32), (same if unchanged else to_environment)


def action_rule(space: gymnasium.Space[Any] | None) -> str | None:
    """What is done to a policy's numbers before an environment gets them; None where nothing is, or where there are none."""
    if space is None or isinstance(space, Discrete):
        return None
    canonical, to_environment = canonical_actions(space)
    if isinstance(canonical, MultiDiscrete) or to_environment is same:
        return None
    return f"from -1 … 1 to the bounds of {shown(space)}"


def choices_of(space: gymnasium.Space[Any] | None) -> tuple[int, ...] | None:
    """The numbers of values of the choices of Discrete, MultiDiscrete, and Tuple and Dict of these, in the order of `canonical_actions`;
    None for other spaces, of which actions are not masked.
    """
    counts: list[int] = []
    for part in [] if space is None else _parts(space):
        if isinstance(part, Discrete):
            counts.append(int(part.n))
        elif isinstance(part, MultiDiscrete):
            counts += part.nvec.reshape(-1).tolist()
        else:
            return None
    return tuple(counts) or None


def read_mask(mask: Any, space: gymnasium.Space[Any]) -> np.ndarray:
    """Which values of each choice are allowed, side by side, [sum of the choices] int8.

    Args:
        mask: as `sample` of Gymnasium's spaces takes it: an array for a Discrete, nested tuples of arrays for a MultiDiscrete, tuples and
            mappings of these for a Tuple and a Dict; or all side by side.
        space: one that `choices_of` knows.

    Raises:
        MisfitError: it has another number of values, or allows none of a choice.
    """
    choices = choices_of(space) or ()
    flat = _flat(mask, space)
    if len(flat) != sum(choices):
        raise MisfitError(f"action_mask has {len(flat)} values instead of {sum(choices)}, one for each action")
    allowed = (flat != 0).astype(np.int8)
    for number, part in enumerate(np.split(allowed, np.cumsum(choices)[:-1])):
        if not part.any():
            which = "every action" if len(choices) == 1 else f"every value of choice {number}"
            raise MisfitError(f"action_mask forbids {which}")
    return allowed


def random_action(space: gymnasium.Space[Any], mask: np.ndarray | None = None) -> Any:
    """An action of a policy's space, drawn by the space's own generator: all that are allowed have the same chance.

    Args:
        space: one that policies act in.
        mask: as `read_mask` gives it; None allows everything.
    """
    if mask is None:
        return space.sample()
    allowed = tuple(np.split(mask.astype(np.int8), np.cumsum(choices_of(space) or ())[:-1]))
    return space.sample(mask=allowed[0] if isinstance(space, Discrete) else allowed)


def same(action: Any) -> Any:
    """The action as it is."""
    return action


class _Leaf(NamedTuple):
    counts: tuple[int, ...]  # values of each choice
    box: Box | None  # or else the numbers
    to_environment: Callable[[np.ndarray], Any]


def _parts(space: Any) -> list[gymnasium.Space[Any]]:
    """The parts that are not nested themselves, in the order in which `_nested` takes their values."""
    if isinstance(space, Dict | Tuple):
        return [each for part in (space.values() if isinstance(space, Dict) else space) for each in _parts(part)]
    return [space]


def _nested(space: Any, values: Iterator[Any]) -> Any:
    """An action of `space` from the values of its parts."""
    if isinstance(space, Dict):
        return {name: _nested(part, values) for name, part in space.items()}
    if isinstance(space, Tuple):
        return tuple(_nested(part, values) for part in space)
    return next(values)


def _leaf(space: Any, whole: Any) -> _Leaf:
    if isinstance(space, Discrete):
        start, kind = int(space.start), np.dtype(space.dtype).type
        return _Leaf((int(space.n),), None, lambda action: kind(start + int(action[0])))
    if isinstance(space, MultiDiscrete) and space.nvec.size:
        starts, shape, dtype = space.start.reshape(-1), space.nvec.shape, space.dtype
        return _Leaf(tuple(space.nvec.reshape(-1).tolist()), None, lambda action: (starts + action).astype(dtype).reshape(shape))
    if isinstance(space, MultiBinary) and 0 not in space.shape:
        return _Leaf((2,) * int(np.prod(space.shape)), None, lambda action: action.astype(space.dtype).reshape(space.shape))
    if isinstance(space, Box) and 0 not in space.shape:
        if np.issubdtype(space.dtype, np.floating):
            return _Leaf((), *canonical_box(space))
        if np.issubdtype(space.dtype, np.integer):
            return _integer_box(space)
    raise _refused(whole)


def _refused(space: Any) -> SuiteError:
    return SuiteError(
        f"its actions are {shown(space)}; a policy acts in Discrete, MultiDiscrete, MultiBinary, Box, and Tuple and Dict of these, so wrap "
        "it in one of Gymnasium's action wrappers (TransformAction, DiscretizeAction, or an ActionWrapper of your own)"
    )


def _integer_box(space: Box) -> _Leaf:
    # Python's numbers: the range of int64 does not fit into int64.
    low = space.low.reshape(-1).astype(object)
    counts = space.high.reshape(-1).astype(object) - low + 1
    if max(counts) > MOST_VALUES:
        raise SuiteError(
            f"its actions are {shown(space)}, in which a dimension has {max(counts):,} values, more than the {MOST_VALUES:,} that a policy "
            "tells apart; wrap it in an ActionWrapper with fewer"
        )
    lowest = low.astype(space.dtype)

    def to_environment(action: np.ndarray) -> np.ndarray:
        # Added in the box's own type: the sum is between its bounds, also where a summand is not.
        return (lowest + action.astype(np.int64).astype(space.dtype)).reshape(space.shape)

    if max(counts) <= MOST_CHOICES:
        return _Leaf(tuple(map(int, counts)), None, to_environment)
    last = counts.astype(np.float64) - 1

    def nearest(action: Any) -> np.ndarray:
        return to_environment(np.rint((np.asarray(action, np.float64).reshape(-1).clip(-1, 1) + 1) / 2 * last))

    return _Leaf((), Box(-1.0, 1.0, (len(counts),), np.float32), nearest)


def _flat(mask: Any, space: Any) -> np.ndarray:
    if isinstance(mask, Mapping):
        names = list(space) if isinstance(space, Dict) else []
        if set(names) != set(mask):
            raise MisfitError(f"action_mask has the parts {shown(sorted(map(str, mask)))} instead of {shown(names)}")
        parts = [(mask[name], space[name]) for name in names]
    elif isinstance(mask, tuple | list):
        spaces = list(space) if isinstance(space, Tuple) and len(space) == len(mask) else [None] * len(mask)
        parts = list(zip(mask, spaces, strict=True))
    else:
        return np.asarray(mask, np.float64).reshape(-1)
    return np.concatenate([_flat(*part) for part in parts]) if parts else np.zeros(0)
