"""Suites with tasks that differ in one number, their context (the length of a pole, or its mass), and tasks in which all numbers vary."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from envs.errors import SuiteError, UnknownTaskError, did_you_mean
from envs.levels import ParameterSpace
from envs.task import Task, TaskSuite

COUNT = 20  # contexts of a named set
ALL = "all"  # the task in which every parameter varies
ROLL_IN = 0.1  # chance that an episode begins in a state that the policy has reached in the previous context
ROLL_IN_DISCOUNT = 0.99  # the number of steps to such a state is geometric with this discount
KEPT = 1000  # states of each context that episodes of the next context may begin in


class World(NamedTuple):
    """One of Gymnasium's environments, and its parameters that may vary."""

    env_id: str
    parameters: dict[str, tuple[float, float]]  # name of the attribute -> its range in a named set
    low: float  # return that scores 0
    high: float  # return that scores 1
    success: float  # the least return of a success
    apply: Callable[[Any, str, float], None]  # sets a parameter of the unwrapped environment
    aim: str  # what the tasks ask for, in words
    parameters_in_words: dict[str, str]


def _set_cartpole(env: Any, parameter: str, value: float) -> None:
    setattr(env, parameter, value)
    env.total_mass = env.masspole + env.masscart
    env.polemass_length = env.masspole * env.length


def _set_pendulum(env: Any, parameter: str, value: float) -> None:
    setattr(env, {"length": "l", "mass": "m", "gravity": "g"}[parameter], value)


WORLDS = {
    # Ranges are from a tenth of Gymnasium's value to ten times it; `length` is half of the pole's length.
    "cartpole": World(
        "CartPole-v1",
        {"length": (0.05, 5.0), "masscart": (0.1, 10.0), "masspole": (0.01, 1.0), "gravity": (0.98, 98.0)},
        low=0.0,
        high=500.0,
        success=500.0,
        apply=_set_cartpole,
        aim="keep the pole on the cart upright",
        parameters_in_words={
            "length": "length of half the pole",
            "masscart": "mass of the cart",
            "masspole": "mass of the pole",
            "gravity": "gravity",
        },
    ),
    # The torque is bounded: a pendulum of more than twice Gymnasium's length cannot be swung up.
    "pendulum": World(
        "Pendulum-v1",
        {"length": (0.5, 1.5), "mass": (0.5, 1.5), "gravity": (5.0, 15.0)},
        low=-1500.0,
        high=-150.0,
        success=-400.0,
        apply=_set_pendulum,
        aim="swing the pendulum up and hold it upright",
        parameters_in_words={"length": "length of the pendulum", "mass": "mass of the pendulum", "gravity": "gravity"},
    ),
}


class ContextEnv(gymnasium.Env[dict[str, np.ndarray], Any]):
    """Gymnasium's environment with one number changed.

    With `visited` an episode may begin in a state that was reached in the previous context (ROLLIN, Li et al. 2023), and stores one of its
    own states for the next context.
    """

    def __init__(
        self, world: str, parameter: str, value: float, place: int, visited: Visited | None = None, render_mode: str | None = None
    ):
        self._world = WORLDS[world]
        self._env: Any = gymnasium.make(self._world.env_id, disable_env_checker=True, render_mode=render_mode)
        self._world.apply(self._env.unwrapped, parameter, value)
        self._place, self._visited = place, visited
        self.render_mode = render_mode
        self.observation_space = _vector_space(self._env.observation_space)
        self.action_space = self._env.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begins as Gymnasium's environment does, or in a state of the previous context."""
        super().reset(seed=seed)
        observation, info = self._env.reset(seed=seed)
        self._return, self._steps = 0.0, 0
        if self._visited is not None:
            self._leave_at = int(self.np_random.geometric(1.0 - ROLL_IN_DISCOUNT))
            state = self._visited.draw(self._place - 1, self.np_random) if self.np_random.random() < ROLL_IN else None
            if state is not None:
                self._env.unwrapped.state = state.copy()
                observation = self._observe()
        return {"vector": np.asarray(observation, np.float32)}, info

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Gymnasium's step, with `success` in the `info` of the step that ends an episode."""
        observation, reward, terminated, truncated, info = self._env.step(action)
        self._return += float(reward)
        self._steps += 1
        if self._visited is not None and not terminated and self._steps == self._leave_at:
            self._visited.add(self._place, np.asarray(self._env.unwrapped.state, float))
        success = (terminated or truncated) and self._return >= self._world.success
        return {"vector": np.asarray(observation, np.float32)}, float(reward), terminated, truncated, {**info, "success": success}

    def set(self, parameter: str, value: float) -> None:
        """Sets a parameter of the episodes to come."""
        self._world.apply(self._env.unwrapped, parameter, value)

    def render(self) -> Any:
        """Gymnasium's picture."""
        return self._env.render()

    def close(self) -> None:
        """Closes Gymnasium's environment."""
        self._env.close()

    def _observe(self) -> np.ndarray:
        state = self._env.unwrapped.state
        if self._world.env_id.startswith("Pendulum"):
            return np.array([np.cos(state[0]), np.sin(state[0]), state[1]], np.float32)
        return np.asarray(state, np.float32)


class VariedEnv(gymnasium.Wrapper[dict[str, np.ndarray], Any, dict[str, np.ndarray], Any]):
    """A world with all parameters drawn anew for each episode, or those of the level in the options of `reset`.

    The policy does not observe them.
    """

    def __init__(self, world: str, render_mode: str | None = None):
        super().__init__(ContextEnv(world, next(iter(WORLDS[world].parameters)), 1.0, 0, render_mode=render_mode))
        self._space = parameter_space(world)
        self._rng = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begins with the parameters of the episode."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        level = (options or {}).get("level")
        values = level.parameters if level is not None and level.parameters else self._space.draw(self._rng)
        world: Any = self.env
        for parameter, value in zip(self._space.names, values, strict=True):
            world.set(parameter, float(value))
        return self.env.reset(seed=seed)


def parameter_space(world: str) -> ParameterSpace:
    """All parameters of a world, within the ranges of the named sets."""
    parameters = WORLDS[world].parameters
    low, high = zip(*parameters.values(), strict=True)
    return ParameterSpace(tuple(parameters), low, high)


class Visited:
    """The newest states that the episodes of each context have stored."""

    def __init__(self, contexts: int):
        self._states: list[list[np.ndarray]] = [[] for _ in range(contexts)]

    def add(self, place: int, state: np.ndarray) -> None:
        """Stores a state of the context at `place`; above `KEPT` states the oldest is dropped."""
        states = self._states[place]
        states.append(state)
        if len(states) > KEPT:
            states.pop(0)

    def draw(self, place: int, rng: np.random.Generator) -> np.ndarray | None:
        """A random state of the context at `place`; None if it has none, or there is no such context."""
        states = self._states[place] if place >= 0 else []
        return states[int(rng.integers(len(states)))] if states else None


def names() -> list[str]:
    """The named sets."""
    return ["cartpole", "cartpole:masscart", "cartpole:masspole", "cartpole:gravity", "pendulum", "pendulum:mass", "pendulum:gravity"]


def tasks() -> list[str]:
    """Each context of the named suites as a suite of its own, `cartpole:length=0.05`, and the tasks in which all parameters vary."""
    suites = [(name.partition(":")[0], make(name)) for name in names()]
    contexts = dict.fromkeys(f"{world}:{task}" for world, suite in suites for task in suite.names)
    return [*contexts, *(f"{world}:{ALL}" for world in WORLDS)]


def make(name: str) -> TaskSuite:
    """`WORLD[:PARAMETER][=VALUE,VALUE…][+rollin]`: by default 20 values of the length, evenly spread.

    `WORLD:all` is one task in which each episode has other values of all parameters; they are its levels.
    With `+rollin` one in ten training episodes of a context begins in a state that was reached in the previous context.

    Raises:
        UnknownTaskError: no such world or parameter.
        SuiteError: a value is not a positive number, or there is no such option.
    """
    rest, _, option = name.partition("+")
    if option not in ("", "rollin"):
        raise SuiteError(f"context/{name}: there is no +{option}; did you mean +rollin?")
    what, _, listed = rest.partition("=")
    world, _, parameter = what.partition(":")
    parameter = parameter or "length"
    _check_known(world, WORLDS, "world")
    if rest == f"{world}:{ALL}" and not option:
        return _varied(name, world)
    _check_known(parameter, WORLDS[world].parameters, f"parameter of {world}")
    values = _values(name, listed) if listed else np.linspace(*WORLDS[world].parameters[parameter], COUNT).tolist()
    visited = Visited(len(values)) if option else None
    built = WORLDS[world]
    env: Any = gymnasium.make(built.env_id)
    return TaskSuite(
        name=f"context/{name}",
        tasks=tuple(
            Task(
                f"{parameter}={value:.4g}",
                functools.partial(ContextEnv, world, parameter, value, place, visited),
                low=built.low,
                high=built.high,
                context=value,
                make_evaluation_env=functools.partial(ContextEnv, world, parameter, value, place),
                description=f"{built.aim}, {built.parameters_in_words[parameter]} {value:.4g}",
            )
            for place, value in enumerate(values)
        ),
        observation_space=_vector_space(env.observation_space),
        action_space=env.action_space,
        adapt=_same,
    )


def _varied(name: str, world: str) -> TaskSuite:
    """The suite of the one task in which all parameters vary."""
    built = WORLDS[world]
    env: Any = gymnasium.make(built.env_id)
    task = Task(
        ALL,
        functools.partial(VariedEnv, world),
        low=built.low,
        high=built.high,
        level_parameters=parameter_space(world),
        description=f"{built.aim}, whatever its parameters are",
    )
    return TaskSuite(
        name=f"context/{name}",
        tasks=(task,),
        observation_space=_vector_space(env.observation_space),
        action_space=env.action_space,
        adapt=_same,
    )


def _values(name: str, listed: str) -> list[float]:
    try:
        values = [float(part) for part in listed.split(",")]
    except ValueError:
        values = []
    if not values or min(values) <= 0:
        raise SuiteError(f"context/{name}: values after '=' are positive numbers, separated by commas; got {listed!r}")
    return values


def _check_known(word: str, known: Any, what: str) -> None:
    if word not in known:
        raise UnknownTaskError(f"context has no {what} {word!r}{did_you_mean(word, known, cutoff=0.0)}")


def _vector_space(space: Any) -> gymnasium.spaces.Dict:
    return gymnasium.spaces.Dict({"vector": gymnasium.spaces.Box(space.low, space.high, space.shape, np.float32)})


def _same(observation: object) -> dict[str, np.ndarray]:
    return observation  # type: ignore[return-value]
