"""What an environment observes, as named arrays that encoders read, whatever Gymnasium's spaces it is made of.

Any nesting of `Dict` and `Tuple` becomes a flat `Dict` of leaves:

- `vector`: all numbers, joined as `FlattenObservation` joins them. Boxes that are no images, MultiBinary, and Discrete and MultiDiscrete
  entries of up to `ONE_HOT_LIMIT` values as one-hot;
- images, channels first, as uint8 where their bounds allow it and float32 elsewhere. The only one of an environment is called `image`,
  and others by their paths;
- texts: the numbers of the characters of a `Text`, from 1, and 0 for none;
- choices: Discrete and MultiDiscrete entries of more values, as a `MultiDiscrete` that starts at 0.

`leaf_kind` says which of these a space of the flat `Dict` is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from gymnasium.spaces.utils import flatten_space

from envs.errors import MisfitError, SuiteError

VECTOR, IMAGE, MASK = "vector", "image", "action_mask"
RESERVED = frozenset({VECTOR, MASK, "kind"})
"""Names of arrays that mean something else than what an environment may call so."""

READABLE = (Box, Discrete, MultiBinary, MultiDiscrete, Text)
ONE_HOT_LIMIT = 512
"""Values of a choice that is read as one-hot; larger ones are embedded."""
LARGEST_CHOICE = 1_000_000
LARGEST_WHOLE = 2**24
"""Up to here float32 has every whole number."""
SIDE_OF_TABLE = 8
"""Rows and columns that a box of rank 2 needs to be an image; smaller ones are a few numbers."""
SIDE_OF_IMAGE = 3
"""Height and width that a box of rank 3 needs to be an image."""
GRID_SHAPE = (7, 7, 3)  # of MiniGrid's view, which alone is called `image` with this shape

Arrays = dict[str, np.ndarray]
Path = tuple[str | int, ...]
LeafKind = Literal["vector", "image", "text", "choices"]


class Observations(NamedTuple):
    """How a space is read."""

    space: Dict
    """The leaves."""
    read: Callable[[Any], Arrays]
    """Turns an observation into arrays of `space`. Raises a `MisfitError` for one that is not of the environment's space. Numbers outside
    of the bounds of a box of floats are read as they are."""
    left_out: list[str]
    """Paths of parts that are not read."""
    rounded: list[str]
    """Paths of whole numbers that go beyond those that float32 tells apart."""


def read_observations(space: gymnasium.Space[Any] | None) -> Observations:
    """The leaves of a space, and the function that reads them.

    Raises:
        SuiteError: it has no part that can be read, or a choice among too many values. The message says what to wrap.
    """
    left_out: list[str] = []
    if not readable(space):
        raise SuiteError(
            f"it observes {shown(space)}, of which policies can read nothing; wrap it in one of Gymnasium's observation wrappers "
            "(TransformObservation, or an ObservationWrapper of your own)"
        )
    numbers: list[_Part] = []
    others: list[_Part] = []
    rounded: list[str] = []
    for path, part in _parts(space, (), left_out):
        if _is_rounded(part):
            rounded.append("/".join(map(str, path)) or "the observation")
        for leaf in _leaves_of(path, part):
            (numbers if leaf_kind(leaf.space) == "vector" else others).append(leaf)
    leaves: dict[str, _Part] = {}
    if numbers:
        leaves[VECTOR] = _joined(numbers)
    only_image = sum(leaf_kind(leaf.space) == "image" for leaf in others) == 1
    for leaf in others:
        leaves[_name(leaf, leaves, only_image=only_image)] = leaf
    flat = Dict({name: leaf.space for name, leaf in leaves.items()})

    def read(observation: Any) -> Arrays:
        return {name: leaf.read(observation) for name, leaf in leaves.items()}

    return Observations(flat, read, left_out, rounded)


def readable(space: gymnasium.Space[Any] | None) -> bool:
    """Whether something of the space can be read: one part of a Dict or a Tuple, or a space of fixed size that is not empty.
    Subclasses do not count: they may have changed their values.
    """
    if isinstance(space, Dict):
        return any(map(readable, space.values()))
    if isinstance(space, Tuple):
        return any(map(readable, space))
    return type(space) in READABLE and 0 not in (space.shape or ())  # type: ignore[union-attr]


def _is_rounded(space: gymnasium.Space[Any]) -> bool:
    """Whether a box of integers has bounds that somebody has set, and that float32 cannot count up to."""
    if not isinstance(space, Box) or not np.issubdtype(space.dtype, np.integer):
        return False
    limits = np.iinfo(space.dtype)
    set_low, set_high = space.low[space.low != limits.min], space.high[space.high != limits.max]
    return any(abs(int(bound)) > LARGEST_WHOLE for bound in (*set_low.reshape(-1), *set_high.reshape(-1)))


def leaf_kind(space: gymnasium.Space[Any]) -> LeafKind:
    """What a leaf of the flat `Dict` is."""
    if isinstance(space, MultiDiscrete):
        return "choices"
    if isinstance(space, MultiBinary):
        return "vector"  # such as a mask
    if len(space.shape or ()) == 3:
        return "image"
    return "text" if np.issubdtype(space.dtype, np.integer) else "vector"


def shown(value: Any) -> str:
    """A value in one line of at most 80 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:79] + "…"


class _Part(NamedTuple):
    """A leaf, or some of the numbers of the vector."""

    path: Path
    space: gymnasium.Space[Any]
    read: Callable[[Any], np.ndarray]  # from the whole observation


def _parts(space: Any, path: Path, left_out: list[str]) -> list[tuple[Path, gymnasium.Space[Any]]]:
    """The parts of a readable space that are not nested themselves. Paths of those that cannot be read are added to `left_out`."""
    if not isinstance(space, Dict | Tuple):
        return [(path, space)]
    inner: list[tuple[Any, Any]] = list(space.items() if isinstance(space, Dict) else enumerate(space))
    left_out += ["/".join(map(str, (*path, key))) for key, part in inner if not readable(part)]
    return [each for key, part in inner if readable(part) for each in _parts(part, (*path, key), left_out)]


def _leaves_of(path: Path, space: Any) -> list[_Part]:
    """A part as one leaf, or two where some of a MultiDiscrete's entries are numbers and others are not."""
    if isinstance(space, Text):
        return [_text(path, space)]
    if isinstance(space, Discrete):
        return _choices(path, np.array([space.n]), np.array([space.start]), ())
    if isinstance(space, MultiDiscrete):
        return _choices(path, space.nvec.reshape(-1), space.start.reshape(-1), space.nvec.shape)
    planes = _planes(tuple(space.shape))
    return [_numbers(path, space)] if planes is None else [_image(path, space, planes)]


def _numbers(path: Path, space: Any) -> _Part:
    """A box, or a MultiBinary, as numbers of the vector."""
    flat: Any = flatten_space(space)
    size = flat.shape[0]
    with np.errstate(over="ignore"):  # bounds of float64 that are infinite in float32
        box = Box(flat.low.astype(np.float32), flat.high.astype(np.float32), flat.shape, np.float32)

    def read(observation: Any) -> np.ndarray:
        with np.errstate(over="ignore"):
            values = _array(path, _pick(path, observation), np.float32)
        if values.size != size:
            raise MisfitError(f"{_what(path)} has shape {values.shape} instead of {space.shape}")
        return values.reshape(-1)

    return _Part(path, box, read)


def _planes(shape: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray] | None:
    """The function that brings channels to the front, [C, H, W]; None for a shape that is no image.

    The channels of a box of rank 3 are the axis that is not one of two equal ones, or else the shorter of the first and the last; if these
    are equal, the last. A box of rank 4 is a stack of images, whose channels are joined.
    """
    if len(shape) == 2 and min(shape) >= SIDE_OF_TABLE:
        return lambda image: image[None]
    if len(shape) == 4:
        inner = _planes(shape[1:])
        return None if inner is None else lambda stack: np.concatenate([inner(image) for image in stack])
    if len(shape) != 3:
        return None
    first, middle, last = shape
    channels_first = (middle == last or first < last) and first != middle
    sides = (middle, last) if channels_first else (first, middle)
    if min(sides) < SIDE_OF_IMAGE:
        return None
    return (lambda image: image) if channels_first else (lambda image: image.transpose(2, 0, 1))


def _image(path: Path, space: Any, planes: Callable[[np.ndarray], np.ndarray]) -> _Part:
    low, high = (np.zeros(space.shape), np.ones(space.shape)) if isinstance(space, MultiBinary) else (space.low, space.high)
    whole = np.issubdtype(space.dtype, np.integer)
    dtype: Any = np.uint8 if whole and low.min() >= 0 and high.max() <= 255 else np.float32

    def read(observation: Any) -> np.ndarray:
        given = _array(path, _pick(path, observation), None)
        with np.errstate(over="ignore", invalid="ignore"):
            image = given.astype(dtype, copy=False)
        if given.shape != space.shape:
            raise MisfitError(f"{_what(path)} has shape {given.shape} instead of {tuple(space.shape)}")
        if dtype == np.uint8 and given.dtype != np.uint8 and not np.array_equal(image, given):
            raise MisfitError(f"{_what(path)} has values that are no whole numbers from 0 to 255, which {shown(space)} does not have")
        return np.array(planes(image), order="C")  # copied: environments may draw into the same array again

    with np.errstate(over="ignore"):
        lowest, highest = (np.ascontiguousarray(planes(bound.astype(dtype))) for bound in (low, high))
    return _Part(path, Box(lowest, highest, dtype=dtype), read)


def _text(path: Path, space: Text) -> _Part:
    # Sorted: the order of a set differs from process to process.
    numbers = {character: number for number, character in enumerate(sorted(space.character_set), 1)}
    length, dtype = int(space.max_length), np.uint8 if len(numbers) < 256 else np.int32

    def read(observation: Any) -> np.ndarray:
        text = _pick(path, observation)
        if not isinstance(text, str) or len(text) > length:
            raise MisfitError(f"{_what(path)} is {shown(text)}; it has to be a text of at most {length} characters")
        unknown = [character for character in text if character not in numbers]
        if unknown:
            raise MisfitError(f"{_what(path)} is {shown(text)}, whose {unknown[0]!r} is not among the characters of its space")
        found = np.zeros(length, dtype)
        found[: len(text)] = [numbers[character] for character in text]
        return found

    return _Part(path, Box(0, len(numbers), (length,), dtype), read)


def _choices(path: Path, counts: np.ndarray, starts: np.ndarray, shape: tuple[int, ...]) -> list[_Part]:
    """Choices among `counts` values from `starts` on: small ones as one-hot numbers of the vector, large ones as they are."""
    if counts.max() > LARGEST_CHOICE:
        raise SuiteError(
            f"{_what(path)} is one of {counts.max():,} values, and a policy tells at most {LARGEST_CHOICE:,} apart; wrap it in an "
            "ObservationWrapper that gives numbers instead"
        )
    small = counts <= ONE_HOT_LIMIT
    places = np.cumsum(counts[small]) - counts[small]  # of each small choice's first value
    size = int(counts[small].sum())

    def values(observation: Any) -> np.ndarray:
        given = _array(path, _pick(path, observation), None)
        if given.size != counts.size:
            raise MisfitError(f"{_what(path)} has shape {given.shape} instead of {shape}")
        chosen = given.reshape(-1) - starts
        if not ((chosen >= 0) & (chosen < counts) & (chosen == np.rint(chosen))).all():
            raise MisfitError(f"{_what(path)} is {shown(given)}, which its space does not have")
        return chosen.astype(np.int64)

    def one_hot(observation: Any) -> np.ndarray:
        found = np.zeros(size, np.float32)
        found[places + values(observation)[small]] = 1.0
        return found

    parts = []
    if small.any():
        parts.append(_Part(path, Box(0.0, 1.0, (size,), np.float32), one_hot))
    if not small.all():
        parts.append(_Part(path, MultiDiscrete(counts[~small].astype(np.int64)), lambda observation: values(observation)[~small]))
    return parts


def _joined(parts: list[_Part]) -> _Part:
    """The vector of all numbers."""
    boxes: list[Any] = [part.space for part in parts]
    low, high = (np.concatenate([getattr(box, bound) for box in boxes]) for bound in ("low", "high"))

    def read(observation: Any) -> np.ndarray:
        return np.concatenate([part.read(observation) for part in parts])

    return _Part((), Box(low, high, dtype=np.float32), read)


def _name(leaf: _Part, taken: Mapping[str, Any], *, only_image: bool) -> str:
    """The leaf's name: its path, and `image` for the only image."""
    kind, shape = leaf_kind(leaf.space), leaf.space.shape
    name = IMAGE if kind == "image" and only_image else "/".join(map(str, leaf.path)) or kind
    while name in taken or name in RESERVED or (name == IMAGE and shape == GRID_SHAPE):
        name += "_"
    return name


def _pick(path: Path, observation: Any) -> Any:
    """The part of an observation at a path."""
    for place, key in enumerate(path):
        if isinstance(observation, Mapping):
            fits = key in observation
        else:
            fits = isinstance(observation, tuple | list) and isinstance(key, int) and key < len(observation)
        if not fits:
            raise MisfitError(f"{_what(path[:place])} is {shown(observation)}, which has no part {key!r}")
        observation = observation[key]
    return observation


def _array(path: Path, value: Any, dtype: Any) -> np.ndarray:
    try:
        array = np.asarray(value, dtype)
    except (TypeError, ValueError):
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        raise MisfitError(f"{_what(path)} is {shown(value)}; it has to be numbers")
    return array


def _what(path: Path) -> str:
    return "the observation" + (f" {'/'.join(map(str, path))!r}" if path else "")
