"""Other people's environments: whatever Gymnasium allows is trained or refused in one sentence."""

from __future__ import annotations

import os

import gymnasium
import numpy as np
import pytest
from foreign import PLAIN, Foreign, Plan, plans, register
from gymnasium.spaces import Box, Dict, Discrete, Graph, OneOf, Sequence, Text, Tuple
from helpers import toy_config
from hypothesis import HealthCheck, given, settings

from envs import SuiteError, TaskFault, make_suite, make_vector
from envs.actions import canonical_actions
from envs.adapter import number, truth
from mtrl.errors import UserError
from mtrl.training.trainer import build_trainer

STEPS = 200


def trained(plan: Plan, steps: int = STEPS) -> str:
    """Trains that many steps; `trained`, `refused`, or `failed` where the environment's own error or value ended it."""
    config = toy_config(f"gym/{register(plan)}", env_runners__slots=4, env_runners__unroll_length=10)
    try:
        trainer = build_trainer(config)
    except (SuiteError, UserError) as error:
        assert str(error) and "\n" not in str(error) and len(str(error)) < 600, error
        return "refused"
    try:
        while trainer.frames < steps:
            trainer.step()
        return "trained"
    except (ValueError, KeyError, TypeError, TaskFault) as error:
        # Its own error, or a value that is no reward, no end or no observation, named in one line.
        own = "its own" in str(error) or isinstance(error, TaskFault) or "it has to be" in str(error)
        assert own and "\n" not in str(error), repr(error)
        return "failed"
    finally:
        trainer.close()


def check(plan: Plan) -> None:
    outcome = trained(plan)
    at_fault = plan.raises_at is not None or plan.reward in ("matrix", "none", "text") or plan.info == "words"
    assert outcome != "failed" or at_fault or plan.reward == "huge" or "float64" in str(plan.observation_space), plan


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(plans)
def test_legal_environments_train_or_are_refused_in_a_sentence(plan):
    check(plan)


@pytest.mark.slow
@settings(max_examples=int(os.environ.get("MTRL_FUZZ", "1000")), deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(plans)
def test_a_thousand_legal_environments(plan):
    check(plan)


@pytest.mark.parametrize(
    ("space", "policy", "environment"),
    [
        (Box(273, 373, (1,), np.float32), [[-1.0], [0.0], [1.0], [3.0]], [[273], [323], [373], [373]]),
        (Box(-1e-3, 1e-3, (2, 1), np.float64), [[-1.0, 0.5]], [[[-1e-3], [5e-4]]]),
        (Box(0, np.inf, (1,), np.float32), [[-2.0], [7.0]], [[0], [7]]),
        (Box(np.array([-np.inf, 0], np.float32), np.array([2, 10], np.float32)), [[5.0, 0.0]], [[2, 5]]),
        (Box(-4, 4, (), np.float32), [[0.5]], [2.0]),
        (Discrete(3, start=1), [0, 2], [1, 3]),
        (Discrete(2, start=-5), [0], [-5]),
    ],
)
def test_actions_are_mapped_to_the_environments_bounds(space, policy, environment):
    """As RLlib's normalize_actions; and whatever a policy does, the environment gets an action of its space."""
    canonical, to_environment = canonical_actions(space)
    for action, expected in zip(policy, environment, strict=True):
        given_action = to_environment(np.asarray(action, np.float32) if isinstance(action, list) else action)
        np.testing.assert_allclose(given_action, expected, rtol=1e-6)
        assert space.contains(given_action)
    rng = np.random.default_rng(0)
    for _ in range(50):
        wild = rng.normal(0, 5, canonical.shape).astype(np.float32) if isinstance(canonical, Box) else int(rng.integers(canonical.n))
        assert space.contains(to_environment(wild))


def test_bounds_of_one_leave_actions_as_they_are():
    canonical, to_environment = canonical_actions(Box(-1, 1, (3,), np.float32))
    action = np.array([0.1, -0.2, 0.3], np.float32)
    assert to_environment(action) is action and canonical == Box(-1, 1, (3,), np.float32)


@pytest.mark.parametrize(
    "space",
    [
        Text(3),
        Sequence(Discrete(3)),
        Graph(Box(-1, 1, (2,)), None),
        OneOf((Discrete(2), Box(-1, 1, (2,)))),
        Tuple((Discrete(2), Text(3))),
        Dict({}),
        Box(-1, 1, (0,)),
        Box(0, 2**40, (2,), np.int64),
        Box(-np.inf, np.inf, (2,), np.int32),
        None,
    ],
)
def test_actions_of_other_kinds_are_refused_with_what_to_wrap(space):
    with pytest.raises(SuiteError, match="wrap it in"):
        canonical_actions(space)


def test_observations_of_other_kinds_are_refused_with_what_to_wrap():
    suite = f"gym/{register(PLAIN._replace(observation_space=Sequence(Discrete(3))))}"
    with pytest.raises(SuiteError, match="of which policies can read nothing; wrap it in"):
        make_suite(suite)


def test_what_is_left_out_of_an_observation_is_said():
    space = Dict({"a": Box(-1, 1, (2,)), "words": Sequence(Discrete(3))})
    with pytest.warns(UserWarning, match="policies do not read words"):
        assert make_suite(f"gym/{register(PLAIN._replace(observation_space=space))}").observation_space["vector"].shape == (2,)


def test_numbers_and_truths():
    for value in (1, True, np.float32(1), np.array([1.0]), np.array(1), [1]):
        assert number("the reward", value) == 1.0 and truth("x", value) is True
    for value in (None, np.nan, 0, np.array([False]), False):
        assert truth("x", value) is False
    for value in (None, "much", np.zeros(2), {}):
        with pytest.raises(TypeError, match="it has to be one number"):
            number("the reward", value)
    with pytest.raises(TypeError, match="has to be true or false"):
        truth("info['success']", "yes")


@pytest.mark.parametrize("tolerant", [False, True])
@pytest.mark.parametrize("where", ["step", "reset"])
def test_an_environment_that_ends_the_program_is_a_fault_of_its_task(where, tolerant, monkeypatch):
    def leave(self, *arguments, **options):
        raise SystemExit("window closed")

    suite = make_suite(f"gym/{register(PLAIN)}")
    tasks = make_vector(suite, 2, seed=0, tolerant=tolerant)
    tasks.reset()
    monkeypatch.setattr(Foreign, where, leave)
    if not tolerant:
        with pytest.raises(TaskFault, match=r"Foreign.*: its environment ended the program \(SystemExit: window closed\)"):
            for _ in range(10):
                tasks.step(np.zeros(2, int))
    else:
        faults = [fault for _ in range(10) for fault in tasks.step(np.zeros(2, int)).faults]
        assert faults and all("window closed" in fault.reason for fault in faults)


def test_an_environment_that_changes_the_folder_does_not_move_the_run(tmp_path, monkeypatch):
    def wander(self, **options):
        os.chdir(tmp_path)
        return np.zeros(3, np.float32), {}

    here = os.getcwd()
    monkeypatch.setattr(Foreign, "reset", wander)
    tasks = make_vector(make_suite(f"gym/{register(PLAIN)}"), 1, seed=0)
    tasks.reset()
    assert os.getcwd() == here


def test_an_id_without_a_version_is_the_newest_version():
    with pytest.warns(UserWarning, match="CartPole"):
        suite = make_suite("gym/CartPole")
    assert suite.names == ("CartPole-v1",) and suite.tasks[0].success_return == pytest.approx(475)


def test_other_views_of_minigrid():
    from minigrid.envs import EmptyEnv
    from minigrid.wrappers import FullyObsWrapper

    gymnasium.register("Whole-v0", lambda: FullyObsWrapper(EmptyEnv(size=6)))
    gymnasium.register("Wide-v0", lambda render_mode=None: EmptyEnv(size=8, agent_view_size=9, render_mode=render_mode))
    for env_id, shape in (("Whole-v0", (3, 6, 6)), ("Wide-v0", (3, 9, 9))):
        with pytest.warns(UserWarning, match="policies do not read mission"):
            suite = make_suite(f"gym/{env_id}")
        assert suite.observation_space["image"].shape == shape and suite.observation_space["vector"].shape == (4,)
        tasks = make_vector(suite, 1, seed=0)
        assert tasks.reset()["image"].shape == (1, *shape)
