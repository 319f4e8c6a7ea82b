"""Meta-World v3: fifty robot-arm tasks with one observation and action space (MT1, MT10, MT25, MT50).

Rewards are version 2 unless a name ends in `?reward=v1`, episodes last 500 steps, goals are visible and drawn anew for each episode. An
episode has succeeded if any of its steps has; a success does not end it. EnvPool has the tasks of Meta-World 3.0.0 with rewards of version
2; the tasks that differ between 3.0.0 and 3.1 run on Farama's package alone.
"""

from __future__ import annotations

import functools
from typing import Any

import gymnasium
import numpy as np

from envs.errors import MissingPackageError, SuiteError, UnknownTaskError, did_you_mean
from envs.suites.descriptions import METAWORLD
from envs.task import EvaluationProtocol, PlayRecipe, Task, TaskSuite

MAX_STEPS = 500
TRAINING_GOALS = 50  # of each task; the published protocol trains and evaluates on them
SIZE = 39
SETS = ("mt10", "mt25", "mt50")
REWARDS = ("v1", "v2")
# Their rewards differ. Measured with scripted policies: dial-turn succeeds in 0 of 4 episodes instead of 4, door-lock returns 4121 instead
# of 3481.
DIFFERS_IN_ENVPOOL = frozenset({"button-press-topdown-wall", "dial-turn", "door-lock"})

OBSERVATION_SPACE = gymnasium.spaces.Dict({"vector": gymnasium.spaces.Box(-np.inf, np.inf, (SIZE,), np.float32)})
ACTION_SPACE: gymnasium.Space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)
PROTOCOL = EvaluationProtocol("metaworld-50-v1", episodes=TRAINING_GOALS, actions="greedy")
RECIPE = PlayRecipe("metaworld", 'gymnasium.make("Meta-World/MT1", env_name="{task}-v3")', 'observation.astype("float32")')


def names() -> list[str]:
    """The named sets."""
    return list(SETS)


def make(name: str) -> TaskSuite:
    """`mt10`, `mt25`, `mt50`, one task (`reach`, or `mt1:reach`) or several, separated by commas; with `?reward=v1` the older rewards.

    Raises:
        UnknownTaskError: Meta-World has no such task.
        SuiteError: metaworld is not installed, or there is no such version of the rewards.
    """
    listed, _, query = name.partition("?")
    reward = _reward_version(query)
    tasks = _members(listed) if listed in SETS else tuple(_short(part) for part in listed.removeprefix("mt1:").split(","))
    return TaskSuite(
        name=f"metaworld/{name}",
        tasks=tuple(_task(task, reward) for task in tasks),
        rules={"reward_version": reward},
        observation_space=OBSERVATION_SPACE,
        action_space=ACTION_SPACE,
        adapt=_vector,
        scored_by="success",
        protocol=PROTOCOL,
        recipe=RECIPE,
    )


class MetaWorldEnv(gymnasium.Wrapper):
    """One task by Gymnasium's rules: `reset(seed=…)` seeds it, it draws its own goals, and its time limit is a truncation.

    Farama's class ignores `reset(seed=…)`, draws goals from NumPy's global state, hides the goal by default, and raises an error when it is
    stepped past its limit.
    """

    def __init__(self, task: str, *, reward: str = "v2", training_goals: bool = False, render_mode: str | None = None):
        env = _package().env_dict.ALL_V3_ENVIRONMENTS[f"{task}-v3"](render_mode=render_mode, reward_function_version=reward)
        super().__init__(env)
        self._arm: Any = env
        self._goals: list[Any] = _training_goals(task) if training_goals else []
        self._next_goal = 0
        self._arm._set_task_called = True
        self._arm._freeze_rand_vec = False
        self._arm.seeded_rand_vec = True
        self._arm._partially_observable = False
        # Observations are clipped to this space, which was cached while the goal was hidden, with bounds of 0 for its coordinates.
        self._arm.__dict__.pop("sawyer_observation_space", None)
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode with a new goal. `options["number"]` is the place of the first one among the training goals."""
        if seed is not None:
            self._arm.seed(seed)
        if self._goals:
            self._next_goal = (options or {}).get("number", self._next_goal)
            self._arm.set_task(self._goals[self._next_goal % len(self._goals)])
            self._next_goal += 1
        self._steps = 0
        observation, info = self._arm.reset()
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step; the five hundredth is the last."""
        observation, reward, _, _, info = self._arm.step(np.asarray(action, np.float32))
        self._steps += 1
        return observation, float(reward), False, self._steps >= MAX_STEPS, info


def _reward_version(query: str) -> str:
    key, _, version = query.partition("=")
    if query and (key != "reward" or version not in REWARDS):
        raise SuiteError(f"metaworld: ?{query} names no version of the rewards; say ?reward=v1 or ?reward=v2")
    return version or "v2"


def _task(name: str, reward: str) -> Task:
    if f"{name}-v3" not in _package().env_dict.ALL_V3_ENVIRONMENTS:
        known = [_short(full) for full in _package().env_dict.ALL_V3_ENVIRONMENTS]
        raise UnknownTaskError(f"metaworld has no task {name!r}{did_you_mean(name, [*known, *SETS])}")
    in_envpool = reward == "v2" and name not in DIFFERS_IN_ENVPOOL
    return Task(
        name=name,
        make_env=functools.partial(MetaWorldEnv, name, reward=reward),
        make_evaluation_env=functools.partial(MetaWorldEnv, name, reward=reward, training_goals=True),
        high=10.0 * MAX_STEPS if reward == "v2" else None,  # version 2 pays at most 10 for a step, version 1 has no bound
        envpool_id="MetaWorld/" + "".join(part.title() for part in name.split("-")) + "-v3" if in_envpool else None,
        envpool_options={"partially_observable": False, "max_episode_steps": MAX_STEPS},
        description=METAWORLD.get(name, ""),
    )


def _members(name: str) -> tuple[str, ...]:
    return tuple(_short(full) for full in getattr(_package().env_dict, f"{name.upper()}_V3"))


def _short(name: str) -> str:
    return name.strip().removesuffix("-v3")


def _vector(observation: object) -> dict[str, np.ndarray]:
    return {"vector": np.asarray(observation, np.float32)}


@functools.lru_cache(maxsize=64)
def _training_goals(task: str) -> list[Any]:
    """The fifty goals that the protocol trains and evaluates on, the same in every process."""
    return list(_package().MT1(f"{task}-v3", seed=0).train_tasks)


@functools.cache
def _package() -> Any:
    try:
        import metaworld
    except ImportError as error:
        raise MissingPackageError(f"Meta-World's tasks need the metaworld package ({error}); install it with pip") from None
    return metaworld
