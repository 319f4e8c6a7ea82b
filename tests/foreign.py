"""Legal Gymnasium environments of any kind, drawn by hypothesis: spaces, signatures, rewards, ends, contents of `info`."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from hypothesis import strategies as st

FLOATS = (np.float32, np.float64, np.float16)
INTEGERS = (np.uint8, np.int64, np.int8)
_numbers = itertools.count()


class Plan(NamedTuple):
    """One drawn environment."""

    observation_space: Any
    action_space: Any
    reward: str
    flags: str
    info: str
    length: int
    truncates: bool
    raises_at: int | None
    error: str
    constructor: str
    extra: str


PLAIN = Plan(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), "float", "bool", "empty", 7, False, None, "ValueError", "plain", "nothing")


@st.composite
def boxes(draw: st.DrawFn, dtypes: tuple[Any, ...]) -> spaces.Box:
    shape = draw(st.sampled_from([(), (1,), (3,), (2, 2), (4, 4, 3), (3, 9, 8), (8, 9)]))
    dtype = draw(st.sampled_from(dtypes))
    if dtype in INTEGERS:
        low, high = draw(st.sampled_from([(0, 5), (0, 100), (1, 2)]))
    else:
        low, high = draw(
            st.sampled_from(
                [(-1, 1), (0, 100), (273, 373), (-1e-3, 1e-3), (-np.inf, np.inf), (0, np.inf), (-np.inf, 0), (-2, 7), (-3e4, 3e4)]
            )
        )
    return spaces.Box(low, high, shape, dtype)


def simple(actions: bool) -> st.SearchStrategy[Any]:
    return st.one_of(
        boxes(FLOATS),
        boxes(FLOATS) if actions else boxes(INTEGERS),
        st.builds(lambda shape: spaces.MultiDiscrete(np.full(shape, 3), start=np.full(shape, -1)), st.sampled_from([(2,), (2, 2)])),
        st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 5), st.sampled_from([0, 0, 1, -3])),
        st.builds(lambda n: spaces.MultiDiscrete([n, 3]), st.integers(2, 4)),
        st.builds(spaces.MultiBinary, st.integers(1, 4)),
        st.just(spaces.Text(5, charset="ab c")),
        st.just(spaces.Sequence(spaces.Discrete(3))),
        st.just(spaces.Graph(spaces.Box(-1, 1, (2,)), spaces.Discrete(3))),
        boxes(INTEGERS),
    )


def nested(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Dicts and Tuples of two."""
    return st.one_of(
        st.builds(lambda a, b: spaces.Dict({"first": a, "second": b}), parts, parts),
        st.builds(lambda a, b: spaces.Tuple((a, b)), parts, parts),
    )


def observation_spaces() -> st.SearchStrategy[Any]:
    """Nested two deep."""
    leaves = st.one_of(simple(False), st.builds(lambda n: spaces.Discrete(n, start=7), st.sampled_from([513, 2000])))
    return st.one_of(leaves, nested(leaves), nested(st.one_of(leaves, nested(leaves))))


def action_spaces() -> st.SearchStrategy[Any]:
    """Nested two deep."""
    return st.one_of(simple(True), nested(simple(True)), nested(st.one_of(simple(True), nested(simple(True)))))


plans = st.builds(
    Plan,
    observation_space=observation_spaces(),
    action_space=action_spaces(),
    reward=st.sampled_from(["float", "int", "bool", "float32", "array", "scalar array", "matrix", "none", "text", "huge"]),
    flags=st.sampled_from(["bool", "numpy", "int", "array"]),
    info=st.sampled_from(
        ["empty", "success", "numpy success", "array success", "none success", "nan success", "words", "none", "is_success"]
    ),
    length=st.sampled_from([1, 2, 7, 10**9]),
    truncates=st.booleans(),
    raises_at=st.sampled_from([None, None, None, None, 0, 1, 5, 50]),
    error=st.sampled_from(["ValueError", "SystemExit", "KeyError"]),
    constructor=st.sampled_from(["plain", "render_mode", "kwargs", "lambda"]),
    extra=st.sampled_from(["nothing", "options", "out of bounds", "lists", "prints", "seeds", "closes badly"]),
)


class Foreign(gymnasium.Env):
    """An environment by a plan. It refuses actions that are not in its space, and options that nobody gave."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.observation_space, self.action_space = plan.observation_space, plan.action_space
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        assert options is None, f"options that nobody gave: {options}"
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        self.at = 0
        if self.plan.extra == "prints":
            print("begins")
        if self.plan.extra == "seeds":
            np.random.seed(0)
        return self.show(), {} if self.plan.info != "none" else None

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        plan = self.plan
        if self.steps == plan.raises_at:
            raise {"ValueError": ValueError, "SystemExit": SystemExit, "KeyError": KeyError}[plan.error]("its own")
        self.steps += 1
        self.at += 1
        over = self.at >= plan.length
        flag = {"bool": bool, "numpy": np.bool_, "int": int, "array": lambda value: np.array([value])}[plan.flags]
        reward = {
            "float": 0.5, "int": 1, "bool": True, "float32": np.float32(0.1), "array": np.array([0.2]), "scalar array": np.array(0.3),
            "matrix": np.zeros((2, 2)), "none": None, "text": "much", "huge": 1e30,
        }[plan.reward]  # fmt: skip
        info = {
            "empty": {}, "success": {"success": over}, "numpy success": {"success": np.bool_(over)}, "words": {"success": "yes"},
            "array success": {"success": np.array([over])}, "none success": {"success": None}, "nan success": {"success": np.nan},
            "none": None, "is_success": {"is_success": float(over)},
        }[plan.info]  # fmt: skip
        return self.show(), reward, flag(over and not plan.truncates), flag(over and plan.truncates), info

    def show(self) -> Any:
        observation = self.observation_space.sample()
        if self.plan.extra == "out of bounds" and isinstance(observation, np.ndarray) and observation.dtype.kind == "f":
            return observation + observation.dtype.type(7)
        if self.plan.extra == "lists" and isinstance(observation, np.ndarray):
            return observation.tolist()
        return observation

    def close(self) -> None:
        if self.plan.extra == "closes badly":
            raise RuntimeError("cannot close")


def register(plan: Plan) -> str:
    """The id of a new environment by this plan."""
    env_id = f"Foreign{next(_numbers)}-v0"

    def with_kwargs(**kwargs: Any) -> gymnasium.Env:
        return Foreign(plan)

    def with_render_mode(render_mode: str | None = None) -> gymnasium.Env:
        return Foreign(plan)

    entry: Any = {"plain": lambda: Foreign(plan), "lambda": lambda: Foreign(plan), "kwargs": with_kwargs, "render_mode": with_render_mode}
    gymnasium.register(env_id, entry[plan.constructor])
    return env_id


class Forbids(gymnasium.Env[Any, Any]):
    """Allows some random values of each choice, and fails when it gets another. The mask is in the observation or in `info`."""

    def __init__(self, action_space: Any, where: str, render_mode: str | None = None):
        self.action_space, self.where = action_space, where
        self.counts = action_space.nvec if isinstance(action_space, spaces.MultiDiscrete) else np.array([action_space.n])
        self.starts = np.atleast_1d(action_space.start)
        observed = {"x": spaces.Box(0, 1, (3,)), "action_mask": spaces.MultiBinary(int(self.counts.sum()))}
        self.observation_space = spaces.Dict(observed) if where == "observation" else observed["x"]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        super().reset(seed=seed)
        self.at = 0
        return self.show()

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        values = np.atleast_1d(action) - self.starts
        assert all(allowed[value] for allowed, value in zip(self.masks, values, strict=True)), f"{action} is forbidden"
        self.at += 1
        observation, info = self.show()
        ended = self.at == 5
        if ended and self.where == "observation":
            observation["action_mask"][:] = 0  # as in PettingZoo, where nobody acts at an end
        return observation, float(values.sum()), ended, False, info

    def show(self) -> tuple[Any, dict[str, Any]]:
        self.masks = [self.np_random.integers(0, 2, count).astype(np.int8) for count in self.counts]
        for mask in self.masks:
            mask[self.np_random.integers(len(mask))] = 1
        x = self.np_random.random(3).astype(np.float32)
        if self.where == "observation":
            return {"x": x, "action_mask": np.concatenate(self.masks)}, {}
        return x, {"action_mask": self.masks[0] if len(self.masks) == 1 else tuple(self.masks)}


FORBIDDING = [f"Forbids{number}-v0" for number in range(4)]
for _id, (_space, _where) in zip(
    FORBIDDING,
    (
        (spaces.Discrete(5, start=2), "observation"),
        (spaces.Discrete(4), "info"),
        (spaces.MultiDiscrete([3, 4]), "observation"),
        (spaces.MultiDiscrete([2, 4], start=[1, 0]), "info"),
    ),
    strict=True,
):
    gymnasium.register(_id, lambda space=_space, where=_where, **options: Forbids(space, where, **options))
