"""Meta-World through our contract against Meta-World itself: its scripted policies, its goals, and the traps of its package."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from envs import SuiteError, UnknownTaskError, make_suite, make_vector
from envs.suites.metaworld import MAX_STEPS, MetaWorldEnv

metaworld = pytest.importorskip("metaworld", reason="the metaworld package is not installed")
from metaworld.policies import ENV_POLICY_MAP  # noqa: E402

SCRIPTED = ("reach", "drawer-close", "button-press-topdown", "window-open", "door-open", "peg-insert-side")


def play_scripted(task: str, backend: str, slots: int = 4):
    """One whole episode in each slot by Meta-World's own policy for the task."""
    suite = make_suite(f"metaworld/{task}")
    tasks, policy = make_vector(suite, slots, backend=backend, seed=3), ENV_POLICY_MAP[f"{task}-v3"]()
    obs, episodes = tasks.reset(), []
    for _ in range(MAX_STEPS):
        actions = np.stack([policy.get_action(row.astype(np.float64)) for row in obs["vector"]])
        step = tasks.step(actions.astype(np.float32))
        obs = step.obs
        episodes += step.episodes
    tasks.close()
    return episodes


@pytest.mark.parametrize("task", SCRIPTED)
def test_scripted_policies_do_as_well_on_both_backends(task):
    results = {backend: play_scripted(task, backend) for backend in ("envpool", "gymnasium")}
    for episodes in results.values():
        assert len(episodes) == 4
        assert all(e.truncated and not e.terminated and e.length == MAX_STEPS for e in episodes)
        assert sum(e.success for e in episodes) >= 3
    returns = [np.array([e.episode_return for e in episodes]) for episodes in results.values()]
    # Goals differ, so the means may by three standard errors; a tenth more is what a wrong reward or frame would go beyond.
    error = np.sqrt(sum(sample.var(ddof=1) / len(sample) for sample in returns))
    assert abs(returns[0].mean() - returns[1].mean()) < 3 * error + 0.1 * max(sample.mean() for sample in returns)


def test_the_sets_are_the_published_ones():
    mt10, mt50 = make_suite("metaworld/mt10"), make_suite("metaworld/mt50")
    assert mt10.names == (
        *("reach", "push", "pick-place", "door-open", "drawer-open", "drawer-close"),
        *("button-press-topdown", "peg-insert-side", "window-open", "window-close"),
    )
    assert (mt10.num_tasks, make_suite("metaworld/mt25").num_tasks, mt50.num_tasks) == (10, 25, 50)
    assert make_suite("metaworld/mt1:push").names == ("push",)
    assert mt10.backends == ("envpool", "gymnasium")
    assert mt50.backends == ("gymnasium",)  # the reward of button-press-topdown-wall differs in EnvPool


@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
def test_goals_are_visible_and_new_in_each_episode(backend):
    tasks = make_vector(make_suite("metaworld/reach"), 2, backend=backend, seed=0)
    goals = [tasks.reset()["vector"][:, 36:]]
    for _ in range(MAX_STEPS + 1):
        step = tasks.step(np.zeros((2, 4), np.float32))
    assert not step.valid.any()
    goals.append(step.obs["vector"][:, 36:])
    tasks.close()
    shown = np.concatenate(goals)
    assert (np.abs(shown).max(axis=1) > 0.1).all()
    assert len(np.unique(shown.round(6), axis=0)) == 4


def test_farama_ignores_the_seed_and_we_do_not():
    """Its `reset(seed=…)` has no effect on goals; ours repeats them for a seed and for no other."""
    goals = [MetaWorldEnv("reach").reset(seed=seed)[0][36:] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(goals[0], goals[1])
    assert not np.array_equal(goals[0], goals[2])


def test_evaluation_takes_each_training_goal_once():
    suite = make_suite("metaworld/push").for_evaluation()
    tasks = make_vector(suite, 50, backend="gymnasium", seed=5)
    starts = tasks.reset()["vector"]
    tasks.close()
    assert len(np.unique(starts[:, 36:].round(8), axis=0)) == 50
    again = make_vector(suite, 50, backend="gymnasium", seed=9)
    np.testing.assert_array_equal(again.reset()["vector"], starts)
    again.close()


def test_success_in_any_step_counts_to_the_end():
    """An arm that reaches its goal and leaves it has succeeded; return and length go on to step 500."""
    task = "reach"
    tasks, policy = make_vector(make_suite(f"metaworld/{task}"), 1, backend="gymnasium", seed=0), ENV_POLICY_MAP[f"{task}-v3"]()
    obs = tasks.reset()
    for t in range(MAX_STEPS):
        action = policy.get_action(obs["vector"][0].astype(np.float64)) if t < 120 else np.array([0.0, -1.0, 1.0, 0.0])
        step = tasks.step(action[None].astype(np.float32))
        obs = step.obs
    tasks.close()
    (episode,) = step.episodes
    assert episode.success
    assert episode.length == MAX_STEPS
    assert np.linalg.norm(obs["vector"][0, :3] - obs["vector"][0, 36:]) > 0.05


def test_actions_outside_the_space_are_clipped():
    streams = []
    for scale in (1.0, 50.0):
        tasks = make_vector(make_suite("metaworld/reach"), 1, backend="gymnasium", seed=0)
        tasks.reset()
        streams.append([tasks.step(np.full((1, 4), scale, np.float32)).obs["vector"] for _ in range(5)])
        tasks.close()
    np.testing.assert_array_equal(*streams)


def test_rewards_of_version_1_are_metaworlds_own():
    """The same goal and actions: our environments pay what its class pays by either version, and the versions differ."""
    paid = {}
    for version in ("v1", "v2"):
        suite = make_suite(f"metaworld/reach?reward={version}")
        assert suite.rules == {"reward_version": version}
        tasks = make_vector(suite.for_evaluation(), 1, backend="gymnasium", seed=4)
        tasks.reset()
        theirs = metaworld.env_dict.ALL_V3_ENVIRONMENTS["reach-v3"](reward_function_version=version)
        theirs.set_task(metaworld.MT1("reach-v3", seed=0).train_tasks[0])
        theirs.reset()
        actions = np.random.default_rng(0).uniform(-1, 1, (30, 1, 4)).astype(np.float32)
        paid[version] = [(tasks.step(action).rewards[0], theirs.step(action[0])[1]) for action in actions]
        tasks.close()
        np.testing.assert_allclose(*zip(*paid[version], strict=True), rtol=1e-3, atol=1e-3)
    assert not np.allclose(paid["v1"], paid["v2"], rtol=0.1)
    assert make_suite("metaworld/mt10?reward=v1").backends == ("gymnasium",)
    with pytest.raises(SuiteError, match=r"\?reward=v3 names no version"):
        make_suite("metaworld/mt10?reward=v3")


def test_tasks_that_envpool_lacks_run_on_faramas_package_among_the_others():
    """In the middle of a suite: each task does what it does on its own backend alone, with the same seeds and actions."""
    names = ("reach", "dial-turn", "push", "window-open", "door-lock")
    together = make_vector(make_suite("metaworld/" + ",".join(names)), 2 * len(names), seed=6)
    alone = [make_vector(make_suite(f"metaworld/{name}"), 2, seed=6) for name in names]
    assert "Joined" in type(together._backend).__name__
    np.testing.assert_array_equal(together.reset()["vector"], np.concatenate([tasks.reset()["vector"] for tasks in alone]))
    rng = np.random.default_rng(0)
    for _ in range(20):
        actions = rng.uniform(-1, 1, (2 * len(names), 4)).astype(np.float32)
        step, steps = together.step(actions), [tasks.step(own) for tasks, own in zip(alone, actions.reshape(-1, 2, 4), strict=True)]
        np.testing.assert_array_equal(step.obs["vector"], np.concatenate([each.obs["vector"] for each in steps]))
        np.testing.assert_array_equal(step.rewards, np.concatenate([each.rewards for each in steps]))
    for tasks in (together, *alone):
        tasks.close()


def test_an_unknown_task_is_named():
    with pytest.raises(UnknownTaskError, match="did you mean drawer-open"):
        make_suite("metaworld/drawer-opem")
    assert isinstance(make_suite("metaworld/reach").action_space, gymnasium.spaces.Box)
