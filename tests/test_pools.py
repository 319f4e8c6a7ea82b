"""EnvPool's environments by id: which spaces are served, what becomes of them, and that both backends play the same environment."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

from envs import SuiteError, UnknownTaskError, make_suite, make_vector
from envs.actions import canonical_box, choices_of, random_action
from envs.pools import actions as pool_actions
from envs.pools.catalogue import ids, spec_of
from envs.pools.recipe import recipe_of
from envs.pools.views import view_of
from mtrl.config import ModelConfig
from mtrl.models.encoders import make_encoder

NESTED = Dict(
    {
        "z": Dict({"b": Box(-1, 1, (2, 2), np.float64), "a": Box(-1, 1, (), np.float64)}),
        "kind": Discrete(3, start=1),
        "count": Discrete(2001),
        "bits": MultiBinary(2),
    }
)
"""Gymnasium sorts the keys of its dictionaries: bits, count, kind, z:a, z:b."""
FIRST = {
    "z": {"b": np.array([[1.0, 2], [3, 4]]), "a": np.array(5.0)},
    "kind": np.array(2),
    "count": np.array(500),
    "bits": np.array([1, 0]),
}
FLAT = [1, 0, 0.25, 0, 1, 0, 5, 1, 2, 3, 4]


def test_a_nested_dictionary_is_one_vector_in_the_order_of_its_keys():
    view = view_of(NESTED, Discrete(2))
    np.testing.assert_array_equal(view.adapt(FIRST)["vector"], np.array(FLAT, np.float32))
    assert view.observation_space["vector"].shape == (11,)


def test_keys_are_sorted_as_the_other_packages_have_them():
    """EnvPool has `observation` before `achieved_goal`; what Gymnasium flattens begins with the goals."""
    suite = make_suite("envpool/PointMaze_UMaze-v3")
    env = suite.tasks[0].make_env()
    observation, _ = env.reset(seed=0)
    joined = np.concatenate([observation[key] for key in ("achieved_goal", "desired_goal", "observation")])
    np.testing.assert_array_equal(suite.adapt(observation)["vector"], joined.astype(np.float32))
    env.close()


def test_a_pool_of_observations_is_one_vector_each():
    def twice(value):
        return {name: twice(part) for name, part in value.items()} if isinstance(value, dict) else np.stack([value, value])

    vector = view_of(NESTED, Discrete(2)).adapt(twice(FIRST))["vector"]
    assert vector.dtype == np.float32
    np.testing.assert_array_equal(vector, np.array([FLAT, FLAT], np.float32))


@pytest.mark.parametrize(("shape", "frames"), [((96, 64, 3), (3, 96, 64)), ((4, 84, 84), (4, 84, 84))])
def test_a_picture_has_its_channels_first(shape, frames):
    picture = np.random.default_rng(0).integers(256, size=(2, *shape), dtype=np.uint8)
    view = view_of(Box(0, 255, shape, np.uint8), Discrete(2))
    seen = view.adapt(picture)["frames"]
    assert view.observation_space["frames"].shape == frames
    assert seen.flags.c_contiguous
    assert seen[1, 2, 5, 7] == (picture[1, 2, 5, 7] if shape == frames else picture[1, 5, 7, 2])
    np.testing.assert_array_equal(view.adapt(picture[0])["frames"], seen[0])


@pytest.mark.parametrize("shape", [(3, 64, 64), (4, 72, 96), (12, 84, 84)])
@pytest.mark.parametrize("kind", ["shallow", "nature", "deep"])
def test_frames_of_any_size_have_an_encoder(shape, kind):
    space = Dict({"frames": Box(0, 255, shape, np.uint8)})
    encoder = make_encoder(space, ModelConfig(experts=2, frames_encoder=kind), 1)
    features = encoder({"frames": torch.zeros(5, *shape, dtype=torch.uint8)}, torch.zeros(5, dtype=torch.int64))
    assert features.shape == (5, 2, 256)


@pytest.mark.parametrize(
    ("observed", "acted", "why"),
    [
        (Box(-1, 1, (3,)), MultiDiscrete([2, 3]), "its actions are MultiDiscrete"),
        (Box(-1, 1, (3,)), Box(0, 50, (3,), np.int32), "its actions are Box"),
        (Dict({"eye": Box(0, 255, (3, 64, 64), np.uint8), "speed": Box(-1, 1, (3,))}), Discrete(2), "'eye' of what it observes"),
        (
            Dict({"board": Box(0, 1, (3,)), "action_mask": MultiBinary(4)}),
            Discrete(3),
            r"Discrete\(3\) with an action_mask of shape \(4,\)",
        ),
        (Dict({"board": Box(0, 1, (3,)), "action_mask": MultiBinary(2)}), Box(-1, 1, (2,)), "with an action_mask"),
        (Dict({"board": Box(0, 1, (3,)), "action_mask": MultiBinary((3, 2))}), Box(0, 2, (3,), np.int32), "with an action_mask"),
    ],
)
def test_other_spaces_are_refused_in_words(observed, acted, why):
    with pytest.raises(SuiteError, match=why):
        view_of(observed, acted)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("envpool/Chess-v1", "Chess-v1 cannot be served: it is a game of several players"),
        ("envpool/IntersectionMultiAgent-v0", "several players"),
        ("jumanji/Sudoku", "Sudoku-v0 cannot be made: its puzzles are not in this version"),
        ("envpool/CartPole-v2", "EnvPool has no id 'CartPole-v2'; did you mean CartPole-v1"),
        ("envpool/CartPole-v1?high=0&low=3", "high has to be above low"),
        ("envpool/CartPole-v1,CartPole-v1", "names a task twice"),
        ("envpool/VizdoomCustom-v1", "VizdoomCustom-v1 cannot be made"),
    ],
)
def test_an_id_that_cannot_be_served_is_named(name, why):
    with pytest.raises(SuiteError, match=why) as error:
        make_suite(name)
    assert "\n" not in str(error.value)


def allowed_action(space, mask, rng):
    """One that the mask allows; all with the same chance."""
    choices = np.split(mask, np.cumsum(choices_of(space))[:-1])
    drawn = [rng.choice(np.flatnonzero(choice)) for choice in choices]
    return np.array(drawn) if isinstance(space, MultiDiscrete) else drawn[0]


@pytest.mark.parametrize("name", ["BinPack", "TSP", "Cleaner", "Minesweeper", "Tetris"])
def test_allowed_actions_are_those_that_the_simulator_takes(name):
    """What the rules of the game say of allowed moves, over random ones: a wrong order of choices would show at once."""
    suite, rng, steps = make_suite(f"jumanji/{name}"), np.random.default_rng(0), 0
    env = suite.tasks[0].make_env()
    for seed in range(4):
        observation, terminated = env.reset(seed=seed)[0], False
        for _ in range(15):
            seen = suite.adapt(observation)
            assert suite.observation_space.contains(seen) and seen["action_mask"].any()
            before, action = observation, allowed_action(suite.action_space, seen["action_mask"], rng)
            observation, _, terminated, _, _ = env.step(action)
            if terminated and name in ("Minesweeper", "Tetris"):
                break
            if name == "BinPack":  # one more item is placed
                assert observation["items_placed"].sum() == before["items_placed"].sum() + 1
            elif name == "Minesweeper":  # the cell is opened
                row, column = divmod(action, 10)
                assert before["board"][row, column] == -1 and observation["board"][row, column] >= 0
            elif name == "TSP":  # a city is visited that was not yet, and the tour is not ended as a punishment
                assert not terminated and observation["position"] == action
            elif name == "Cleaner":  # each agent goes to one of the cells beside it
                assert (abs(observation["agents_locations"] - before["agents_locations"]).sum(1) == 1).all()
            else:  # a piece of four cells is placed, and full rows vanish
                assert (observation["grid"].sum() - before["grid"].sum() - 4) % 10 == 0
            steps += 1
            if terminated:
                break
    assert steps > 5
    env.close()


def test_every_problem_of_jumanji_is_played():
    """Each for some steps in pools, with allowed actions; observations are of the declared space."""
    names = make_suite("jumanji/all").names
    assert len(names) == 24
    rng = np.random.default_rng(0)
    for name in names:
        suite = make_suite(f"jumanji/{name}")
        tasks = make_vector(suite, 3, backend="envpool", seed=0)
        seen = tasks.reset()
        for _ in range(5):
            for row in range(3):
                assert suite.observation_space.contains({key: array[row] for key, array in seen.items()})
            masks = seen.get("action_mask", [None] * 3)
            actions = [suite.action_space.sample() if mask is None else allowed_action(suite.action_space, mask, rng) for mask in masks]
            step = tasks.step(np.stack(actions))
            assert np.isfinite(step.rewards).all() and not step.faults
            seen = step.obs
        tasks.close()


def test_a_mask_that_forbids_everything_allows_all():
    """As simulators have it when an episode has ended: nobody acts then, but probabilities have to be numbers."""
    view = view_of(Dict({"board": Box(0, 1, (3,)), "action_mask": MultiBinary((2, 3))}), Box(1, 3, (2,), np.int32))
    assert view.action_space == MultiDiscrete([3, 3])
    mask = np.array([[[0, 0, 0], [0, 1, 0]], [[1, 0, 1], [0, 0, 0]]], bool)
    seen = view.adapt({"board": np.zeros((2, 3), np.float32), "action_mask": mask})
    assert seen["action_mask"].tolist() == [[1, 1, 1, 0, 1, 0], [1, 0, 1, 1, 1, 1]] and seen["action_mask"].dtype == np.int8
    np.testing.assert_array_equal(view.to_pool(np.array([[0, 2], [1, 0]])), [[1, 3], [2, 1]])


SCRIPTED = ["classic/Pendulum-v1", "toy_text/Taxi", "dmc/reacher-easy", "fetch/FetchReach", "box2d/CarRacing"]
SCRIPTED += [f"jumanji/{name}" for name in ("BinPack", "Cleaner", "CVRP", "RubiksCube")]


@pytest.mark.parametrize("name", SCRIPTED)
def test_the_lines_of_a_script_play_the_same_environment(name):
    """What an exported policy's script reads and does is what our own environment has, to the bit."""
    suite = make_suite(name)
    recipe, scope = suite.recipe, {"envpool": pytest.importorskip("envpool")}
    exec(recipe.setup, scope)
    theirs, ours = eval(recipe.make_env.format(task=suite.names[0]), scope), suite.tasks[0].for_evaluation().make_env()
    (seen, _), (own, _) = theirs.reset(seed=3), ours.reset(seed=3)
    suite.action_space.seed(0)
    for _ in range(20):
        expected = suite.adapt(own)
        for key, reading in ({"frames": recipe.read} if isinstance(recipe.read, str) else recipe.read).items():
            found = eval(reading, scope | {"observation": seen})
            np.testing.assert_array_equal(found, expected[key])
            assert found.dtype == expected[key].dtype
        action = random_action(suite.action_space, expected.get("action_mask"))
        (seen, reward, *ends, _), (own, own_reward, *own_ends, _) = theirs.step(action), ours.step(action)
        assert (float(reward), *ends) == (own_reward, *own_ends)
        if any(ends):
            break
    ours.close()


def test_the_bounds_of_actions_are_worked_out_once(monkeypatch):
    """Not in each step of each pool, which took 160 µs instead of 11."""
    view = view_of(Box(-1, 1, (3,)), Box(-2, 4, (2,), np.float64))
    made = []
    monkeypatch.setattr(pool_actions, "canonical_box", lambda box: made.append(box) or canonical_box(box))
    for actions in ([[-1, 0], [1, 0.5]], [[0, 0], [2, -2]]):
        np.testing.assert_allclose(view.to_pool(np.array(actions, np.float32)), np.clip(1 + 3 * np.array(actions), -2, 4))
    assert len(made) == 1


def test_actions_without_bounds_have_no_script():
    view = view_of(Box(-1, 1, (3,)), Box(-np.inf, np.inf, (2,), np.float64))
    assert view.to_pool.source is None and recipe_of(view, {"a": ("A-v0", {})}) is None


def test_a_torque_of_one_is_the_pendulums_largest():
    """Its reward by Gymnasium's formula, with a torque of 2 u."""
    tasks = make_vector(make_suite("envpool/Pendulum-v1"), 2, backend="envpool", seed=3)
    cosine, sine, speed = tasks.reset()["vector"].astype(float).T
    actions = np.array([[1.0], [-0.25]], np.float32)
    paid = tasks.step(actions).rewards
    tasks.close()
    angle = np.arctan2(sine, cosine)
    np.testing.assert_allclose(paid, -(angle**2 + 0.1 * speed**2 + 0.001 * (2 * actions[:, 0]) ** 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["envpool/CartPole-v1", "envpool/CheetahRun-v1,ReacherEasy-v1", "envpool/MountainCar-v0"])
def test_one_environment_plays_as_a_pool_does(name):
    """To the bit over the ends of episodes, as the seeds are the same: the Gymnasium environment is a pool of one."""
    suite = make_suite(name)
    both = [make_vector(suite, suite.num_tasks, backend=backend, seed=2) for backend in ("envpool", "gymnasium")]
    first, second = (tasks.reset() for tasks in both)
    suite.action_space.seed(0)
    for _ in range(450):
        for key in first:
            np.testing.assert_array_equal(first[key], second[key])
        actions = np.stack([suite.action_space.sample() for _ in suite.tasks])
        one, other = (tasks.step(actions) for tasks in both)
        np.testing.assert_array_equal(one.rewards, other.rewards)
        np.testing.assert_array_equal(one.terminated, other.terminated)
        np.testing.assert_array_equal(one.truncated, other.truncated)
        first, second = one.obs, other.obs
    for tasks in both:
        tasks.close()


def test_tasks_of_different_spaces_do_what_they_do_alone():
    suite = make_suite("envpool/CartPole-v1,Pendulum-v1,CartPole-v0")
    alone = [make_suite(f"envpool/{name}") for name in ("CartPole-v1", "Pendulum-v1", "CartPole-v0")]
    together, apart = make_vector(suite, [2, 1, 1], seed=4), [make_vector(one, n, seed=4) for one, n in zip(alone, (2, 1, 1), strict=True)]
    assert [part.names for part in suite.parts] == [("CartPole-v1",), ("Pendulum-v1",), ("CartPole-v0",)]
    obs, own = together.reset(), [tasks.reset()["vector"] for tasks in apart]
    rng = np.random.default_rng(0)
    for _ in range(60):
        np.testing.assert_array_equal(obs["kind"], [0, 0, 1, 0])
        np.testing.assert_array_equal(obs["0.vector"], np.concatenate([own[0], np.zeros((1, 4), np.float32), own[2]]))
        np.testing.assert_array_equal(obs["1.vector"], np.concatenate([np.zeros((2, 3), np.float32), own[1], np.zeros((1, 3), np.float32)]))
        pushes, torque = rng.integers(2, size=3), rng.uniform(-1, 1, (1, 1)).astype(np.float32)
        join = suite.action_space.join
        step = together.step(np.concatenate([join(0, pushes[:2]), join(1, torque), join(0, pushes[2:])]))
        steps = [tasks.step(action) for tasks, action in zip(apart, (pushes[:2], torque, pushes[2:]), strict=True)]
        np.testing.assert_array_equal(step.rewards, np.concatenate([each.rewards for each in steps]))
        obs, own = step.obs, [each.obs["vector"] for each in steps]
    for tasks in (together, *apart):
        tasks.close()


GAMES = """
import numpy, scipy.linalg
from envs import make_suite, make_vector
numbers = numpy.ones((800, 800))
suite = make_suite("vizdoom/Basic,TakeCover")
for _ in range(3):
    numbers @ numbers, scipy.linalg.blas.dgemm(1.0, numbers, numbers)
    tasks = make_vector(suite, 4)
    tasks.reset()
    tasks.close()
"""


def test_games_start_while_blas_has_threads(tmp_path):
    """Two of EnvPool's threads that fork at the same time waited for the same thread of OpenBLAS, one of them for ever."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment.pop(name, None)
    games = subprocess.Popen([sys.executable, "-c", GAMES], cwd=tmp_path, env=environment, start_new_session=True)
    try:
        assert games.wait(timeout=60) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(games.pid, signal.SIGKILL)


GAMES_OF_A_FOLDER = """
import os
import envpool
from envs import SuiteError, make_suite, make_vector
make = envpool.make
def watched(*args, **options):
    assert os.path.isdir("_vizdoom"), "two games that start may both want to make it"
    return make(*args, **options)
envpool.make = watched
tasks = make_vector(make_suite("vizdoom/Basic"), 2)
tasks.reset()
tasks.close()
os.chdir("/proc")
try:
    make_vector(make_suite("vizdoom/Basic"), 2).reset()
except SuiteError as error:
    print(error)
"""


def test_games_find_their_folder_made(tmp_path):
    """ViZDoom's programs look for `_vizdoom` and make it: of two at the same time one ended, and this process with it."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    games = subprocess.run([sys.executable, "-c", GAMES_OF_A_FOLDER], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert games.returncode == 0, games.stderr
    assert games.stdout.startswith("ViZDoom writes to the current directory, and /proc cannot be written: ")


def test_success_and_scores_are_what_the_environment_and_the_options_say():
    reach, cartpole = make_suite("envpool/FetchReach-v4"), make_suite("envpool/CartPole-v1")
    assert "is_success" in spec_of("FetchReach-v4").info
    assert reach.score(0, -3.0, 1.0) == 1.0
    assert cartpole.tasks[0].succeeded(475.0)  # Gymnasium's reward_threshold
    assert not cartpole.tasks[0].succeeded(474.0)
    assert make_suite("envpool/CartPole-v1?low=100&high=300").score(0, 150.0) == 0.25


def test_second_names_are_no_more_tasks():
    classic = ids("envpool.classic_control")
    assert classic["phys2d/CartPole-v1"] == "CartPole-v1"
    assert classic["CartPole-v0"] == "CartPole-v0"  # another length of episodes
    assert gymnasium.spec("CartPole-v0").max_episode_steps == spec_of("CartPole-v0").max_steps == 200


def test_an_unknown_task_of_a_family_is_named():
    with pytest.raises(UnknownTaskError, match="dmc has no task 'walker-wok'; did you mean walker-walk"):
        make_suite("dmc/walker-wok")
