"""EnvPool's families against the Python packages that they come from: simple policies have the same returns, lengths and observations.

The packages are no dependency (`mtrl-trainer[reference]`), so that a test without one is skipped.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest

from envs import make_suite, make_vector

EPISODES = 24
ERRORS = 4.5  # standard errors by which a difference of two means is no chance, with some hundred means in all
TOLERANCE = 0.01  # of the larger mean, for what differs by rounding

Policy = Callable[[np.random.Generator, Any, int], np.ndarray]


class Played(NamedTuple):
    """Of each episode: its return, its length, and the mean of its observations."""

    returns: np.ndarray
    lengths: np.ndarray
    observations: np.ndarray  # [episodes, size]


def at_random(rng: np.random.Generator, space: Any, count: int) -> np.ndarray:
    """Uniform actions."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return rng.integers(space.n, size=count)
    return rng.uniform(-1, 1, (count, *space.shape)).astype(np.float32)


def leaning(rng: np.random.Generator, space: Any, count: int) -> np.ndarray:
    """Mostly one action. Never it alone: an episode without chance differs by rounding, and its mean by more than nothing."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return np.where(rng.random(count) < 0.8, 1, rng.integers(space.n, size=count))
    return rng.uniform(-0.1, 0.7, (count, *space.shape)).astype(np.float32)


def ours(name: str, policy: Policy) -> Played:
    """One episode of each of some environments in EnvPool, through our contract."""
    suite = make_suite(name)
    tasks, rng = make_vector(suite, EPISODES, backend="envpool", seed=5), np.random.default_rng(0)
    sums, counts, first = tasks.reset()["vector"].astype(float), np.ones(EPISODES), {}
    while len(first) < EPISODES:
        step = tasks.step(policy(rng, suite.action_space, EPISODES))
        for slot in range(EPISODES):
            if slot not in first:
                sums[slot] += step.obs["vector"][slot]
                counts[slot] += 1
        for episode in step.episodes:
            first.setdefault(episode.slot, episode)
    tasks.close()
    episodes = [first[slot] for slot in range(EPISODES)]
    returns, lengths = (np.array([getattr(e, what) for e in episodes], float) for what in ("episode_return", "length"))
    return Played(returns, lengths, sums / counts[:, None])


def theirs(env: Any, policy: Policy) -> Played:
    """Episodes of a Gymnasium environment with actions in [-1, 1]."""
    rng, rows = np.random.default_rng(1), []
    space = (
        env.action_space if isinstance(env.action_space, gymnasium.spaces.Discrete) else gymnasium.spaces.Box(-1, 1, env.action_space.shape)
    )
    for episode in range(EPISODES):
        observation, _ = env.reset(seed=episode)
        total, seen, ended = 0.0, [observation], False
        while not ended:
            action = policy(rng, space, 1)[0]
            observation, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            seen.append(observation)
            ended = terminated or truncated
        rows.append((total, len(seen) - 1, np.mean(seen, axis=0)))
    env.close()
    returns, lengths, observations = zip(*rows, strict=True)
    return Played(np.array(returns), np.array(lengths, float), np.array(observations))


class ControlSuite(gymnasium.Env[Any, Any]):
    """A task of dm_control by Gymnasium's rules, with the arrays of its observation in alphabetical order."""

    def __init__(self, domain: str, task: str):
        self._load = lambda seed: pytest.importorskip("dm_control.suite").load(domain, task, task_kwargs={"random": seed})
        self._env = self._load(0)
        spec = self._env.action_spec()
        self._low, self._high = spec.minimum, spec.maximum
        self.action_space = gymnasium.spaces.Box(-1, 1, spec.shape)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._env = self._load(seed)
        return self._flat(self._env.reset().observation), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        step = self._env.step(self._low + (np.asarray(action, float) + 1) / 2 * (self._high - self._low))
        return self._flat(step.observation), step.reward, step.last() and step.discount == 0, step.last() and step.discount == 1, {}

    def _flat(self, observation: Any) -> np.ndarray:
        return np.concatenate([np.ravel(observation[name]) for name in sorted(observation)])


def registered(package: str | None, env_id: str) -> Any:
    """A Gymnasium environment with its observation as one vector and its actions in [-1, 1]."""
    if package is not None:
        gymnasium.register_envs(pytest.importorskip(package))
    with warnings.catch_warnings(action="ignore"):
        env = gymnasium.wrappers.FlattenObservation(gymnasium.make(env_id, disable_env_checker=True))
    return gymnasium.wrappers.RescaleAction(env, -1.0, 1.0) if isinstance(env.action_space, gymnasium.spaces.Box) else env


def assert_alike(one: np.ndarray, other: np.ndarray, what: str) -> None:
    """Means over episodes [episodes, ...] are no further apart than chance and rounding explain."""
    difference = np.abs(one.mean(0) - other.mean(0))
    allowed = ERRORS * np.sqrt(one.var(0, ddof=1) / len(one) + other.var(0, ddof=1) / len(other))
    allowed += TOLERANCE * np.maximum(np.abs(one.mean(0)), np.abs(other.mean(0))) + 1e-3
    assert (difference <= allowed).all(), f"{what}: {one.mean(0)} and {other.mean(0)}"


ENVPOOLS_MUJOCO = ["3", "6"]

CASES = [
    *((f"mujoco/{task}-v5", None, f"{task}-v5") for task in ("HalfCheetah", "Hopper", "Walker2d", "Ant", "Reacher", "Swimmer")),
    *((f"fetch/{task}", "gymnasium_robotics", f"{task}-v4") for task in ("FetchReach", "FetchPush")),
    ("adroit/AdroitHandPen", "gymnasium_robotics", "AdroitHandPen-v1"),
    ("maze/PointMaze_UMaze", "gymnasium_robotics", "PointMaze_UMaze-v3"),
    ("hand/HandReach", "gymnasium_robotics", "HandReach-v3"),
    ("kitchen/FrankaKitchen", "gymnasium_robotics", "FrankaKitchen-v1"),
    ("highway/HighwayFast", "highway_env", "highway-fast-v0"),
    ("highway/Parking", "highway_env", "parking-v0"),
    *(("classic/" + name, None, name) for name in ("CartPole-v1", "Acrobot-v1", "Pendulum-v1")),
    ("toy_text/Taxi", None, "Taxi-v3"),
    *((f"box2d/{name}", "Box2D", name) for name in ("LunarLander-v3", "LunarLanderContinuous-v3", "BipedalWalker-v3")),
]


@pytest.mark.slow
@pytest.mark.parametrize("policy", [at_random, leaning])
@pytest.mark.parametrize(("name", "package", "env_id"), CASES, ids=[name for name, _, _ in CASES])
def test_simple_policies_do_as_well_as_in_the_package(name, package, env_id, policy):
    if env_id == "Ant-v5" and policy is leaning and version("mujoco").split(".")[:2] != ENVPOOLS_MUJOCO:
        pytest.skip("an Ant that lies on its back lies 1 cm lower in other versions of MuJoCo than EnvPool's")
    other = theirs(registered(package, env_id), policy)
    one = ours(name, policy)
    assert_alike(one.returns, other.returns, "returns")
    assert_alike(one.lengths, other.lengths, "lengths")
    assert_alike(one.observations, other.observations, "observations")


@pytest.mark.slow
@pytest.mark.parametrize("policy", [at_random, leaning])
@pytest.mark.parametrize("task", ["reacher-easy", "walker-walk", "cheetah-run", "cartpole-balance", "finger-spin", "hopper-stand"])
def test_the_control_suite_is_deepminds(task, policy):
    domain, _, rest = task.partition("-")
    other = theirs(ControlSuite(domain, rest.replace("-", "_")), policy)
    one = ours(f"dmc/{task}", policy)
    assert_alike(one.returns, other.returns, "returns")
    assert_alike(one.lengths, other.lengths, "lengths")
    if task == "finger-spin":  # EnvPool's has the target of the other two tasks, too, which is always 0
        assert (one.observations[:, [0]] == 0).all()
        one = one._replace(observations=one.observations[:, [1, 2, 3, 4, 7, 8, 9, 10, 11]])
    assert_alike(one.observations, other.observations, "observations")


class Jumanji(gymnasium.Env[Any, Any]):
    """A problem of Jumanji by Gymnasium's rules, with the arrays of its observation, but for the mask, in alphabetical order."""

    def __init__(self, name: str):
        self._jax = pytest.importorskip("jax")
        problem = pytest.importorskip("jumanji").make(name)
        self._reset, self._step = self._jax.jit(problem.reset), self._jax.jit(problem.step)
        self.action_space = gymnasium.spaces.Discrete(int(problem.action_spec.num_values))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._state, step = self._reset(self._jax.random.PRNGKey(seed))
        return self._flat(step.observation), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._state, step = self._step(self._state, np.asarray(action, np.int32))
        return self._flat(step.observation), float(step.reward), bool(step.last()), False, {}

    def _flat(self, observation: Any) -> np.ndarray:
        arrays = observation._asdict()
        leaves = [self._jax.tree.leaves(arrays[name]) for name in sorted(arrays) if name != "action_mask"]
        return np.concatenate([np.ravel(leaf) for each in leaves for leaf in each]).astype(float)


PROBLEMS = ["Snake-v1", "Game2048-v1", "Maze-v0", "SlidingTilePuzzle-v0", "Knapsack-v1", "TSP-v1", "GraphColoring-v1"]
"""Those that draw their problem from the seed and have one number as action."""


@pytest.mark.slow
@pytest.mark.parametrize("policy", [at_random, leaning])
@pytest.mark.parametrize("name", PROBLEMS)
def test_problems_are_jumanjis(name, policy):
    """The observations of two have neither a count nor a place, which we read in other ways."""
    other = theirs(Jumanji(name), policy)
    one = ours(f"jumanji/{name}", policy)
    assert_alike(one.returns, other.returns, "returns")
    assert_alike(one.lengths, other.lengths, "lengths")
    if name in ("Game2048-v1", "Knapsack-v1"):
        assert_alike(one.observations, other.observations, "observations")


@pytest.mark.slow
@pytest.mark.parametrize("policy", [at_random, leaning])
@pytest.mark.parametrize("name", ["myoElbowPose1D6MRandom", "myoFingerReachRandom"])
def test_muscles_are_myosuites(name, policy):
    """The elbow moves otherwise before its first step, so that its observations differ a little; its returns do not."""
    other = theirs(registered("myosuite", f"{name}-v0"), policy)
    one = ours(f"myosuite/{name}", policy)
    assert_alike(one.returns, other.returns, "returns")
    assert_alike(one.lengths, other.lengths, "lengths")
    if name == "myoFingerReachRandom":
        assert_alike(one.observations, other.observations, "observations")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config"), [("TakeCover", "take_cover"), ("HealthGathering", "health_gathering"), ("DefendTheCenter", "defend_the_center")]
)
def test_games_are_vizdooms(name, config):
    """Random play survives as long, in pictures that are as bright. EnvPool pays by other variables than the game."""
    suite = make_suite(f"vizdoom/{name}")
    tasks, rng = make_vector(suite, EPISODES, backend="envpool", seed=5), np.random.default_rng(0)
    brightness = [[picture.mean()] for picture in tasks.reset()["frames"]]
    lengths: dict[int, int] = {}
    while len(lengths) < EPISODES:
        step = tasks.step(rng.integers(suite.action_space.n, size=EPISODES))
        for slot in set(range(EPISODES)) - set(lengths):
            brightness[slot].append(step.obs["frames"][slot].mean())
        for episode in step.episodes:
            lengths.setdefault(episode.slot, episode.length)
    tasks.close()
    others, pictures = vizdoom_at_random(config)
    assert_alike(np.array([lengths[slot] for slot in range(EPISODES)], float), others, "lengths")
    assert_alike(np.array([np.mean(each) for each in brightness]), pictures, "brightness")


def vizdoom_at_random(config: str) -> tuple[np.ndarray, np.ndarray]:
    """Lengths in steps of four frames, and mean brightness, of episodes with combinations of buttons that are not opposed."""
    vizdoom = pytest.importorskip("vizdoom")
    game, rng = vizdoom.DoomGame(), np.random.default_rng(1)
    game.load_config(str(Path(vizdoom.scenarios_path) / f"{config}.cfg"))
    game.set_window_visible(False)
    game.init()
    sides = [str(button).rpartition("_")[2] for button in game.get_available_buttons()]
    pressed = [
        buttons
        for buttons in itertools.product([0.0, 1.0], repeat=len(sides))
        if not {"LEFT", "RIGHT"} <= {side for side, button in zip(sides, buttons, strict=True) if button}
    ]
    lengths, brightness = [], []
    for episode in range(EPISODES):
        game.set_seed(episode)
        game.new_episode()
        seen: list[float] = []
        while not game.is_episode_finished():
            seen.append(game.get_state().screen_buffer.mean())
            game.make_action(list(pressed[rng.integers(len(pressed))]), 4)
        lengths.append(len(seen))
        brightness.append(np.mean(seen))
    game.close()
    return np.array(lengths, float), np.array(brightness)
