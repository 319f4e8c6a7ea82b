"""The same trainer on real Ray actors, as the command line and as RLlib's users start it."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from helpers import fingerprint, toy_config
from ray import tune

from envs import make_suite
from mtrl.config import ConfigError
from mtrl.distributed import MultiTaskIMPALA, MultiTaskIMPALAConfig, ResourceError, build_ray_trainer
from mtrl.distributed.cluster import check_resources, start_ray
from mtrl.distributed.source import RaySource
from mtrl.learning.learner import Learner
from mtrl.machine import family_of
from mtrl.rollouts.source import InProcessSource
from mtrl.storage.checkpoint import load_checkpoint, save_checkpoint
from mtrl.training.trainer import build_trainer

ROOT = Path(__file__).parent.parent
RAY_TOY = {"env_runners__num_env_runners": 1, "env_runners__slots": 12, "total_frames": 10_000_000}


@pytest.fixture(scope="module", autouse=True)
def cluster():
    start_ray()
    yield
    ray.shutdown()


@pytest.fixture
def algorithm():
    algorithm = MultiTaskIMPALAConfig.from_experiment(toy_config(**RAY_TOY)).build_algo()
    yield algorithm
    algorithm.stop()


def test_trains_and_speaks_rllibs_language(algorithm, tmp_path):
    first, second = algorithm.train(), algorithm.train()
    assert second["timesteps_total"] > first["timesteps_total"] > 0
    assert second["env_runners"]["num_env_steps_sampled_lifetime"] == algorithm.trainer.frames
    assert second["env_runners"]["episode_return_mean"] > 0
    assert set(second["learners"]["default_policy"]) == {"policy_loss", "vf_loss", "entropy"}
    # Rollouts are made with versions that the learner had published, never newer ones, and runners do get new ones.
    assert 0 <= second["summary/policy_lag"] < 10
    assert second["tasks/cue/policy_lag"] >= 0

    path = algorithm.save_to_path(str(tmp_path / "checkpoint"))
    saved = algorithm.trainer.state_dict()
    restored = MultiTaskIMPALA.from_checkpoint(path)
    try:
        state = restored.trainer.state_dict()
        for component in ("learner", "curriculum", "statistics"):
            assert fingerprint(state[component]) == fingerprint(saved[component])
        assert restored.train()["timesteps_total"] > saved["statistics"]["frames"].sum()
    finally:
        restored.stop()


def test_a_run_goes_on_with_and_without_ray(algorithm, tmp_path):
    """A checkpoint of either source loads into the other, and none acts with random numbers that were used before."""
    algorithm.train()
    of_ray = through_disk(algorithm.trainer.state_dict(), tmp_path / "ray")
    alone = build_trainer(toy_config())
    alone.load_state_dict(of_ray)
    assert alone.step() and alone.frames > of_ray["statistics"]["frames"].sum()

    of_process = through_disk(alone.state_dict(), tmp_path / "process")
    alone.close()
    algorithm.trainer.load_state_dict(of_process)
    assert algorithm.train()["timesteps_total"] > of_process["statistics"]["frames"].sum()
    again = algorithm.trainer.state_dict()
    assert [state["source"]["restarts"] for state in (of_ray, of_process, again)] == [0, 1, 2]
    assert {frozenset(state["source"]) for state in (of_ray, of_process, again)} == {frozenset({"collector", "restarts"})}


@pytest.mark.parametrize(
    ("state", "restarts"),
    [
        ({"collector": None, "restarts": 3}, 4),
        ({"starts": 3}, 4),  # as Ray's source once wrote it
        ({"restarts": 3}, 4),
        ({"collector": None, "starts": 3}, 4),
        ({}, 1),
    ],
)
def test_a_source_goes_on_from_every_format_there_has_been(state, restarts):
    config = toy_config()
    suite = make_suite(config.suite.name)
    alone = InProcessSource(config, suite)
    alone.load_state_dict(state)
    assert alone.state_dict()["restarts"] == restarts
    alone.publish(0, Learner(config, suite).actor_weights(), np.full(suite.num_tasks, 1 / suite.num_tasks))
    assert len(alone.collect(1.0)) == 1, "it can collect"
    alone.close()
    of_ray = RaySource(None, None, rollouts_in_flight=1)  # runners are not needed to read a state
    of_ray.load_state_dict(state)
    assert of_ray.state_dict() == {"collector": None, "restarts": restarts}


def test_other_weights_of_a_version_are_published(algorithm):
    """As those with the experts of another policy, which are version 0, too."""
    source, shares = algorithm.trainer._source, np.full(3, 1 / 3)
    for weights in ({"w": np.zeros(3, np.float32)}, {"w": np.ones(3, np.float32)}):
        source.publish(algorithm.trainer.updates, weights, shares)
        source._wait_until_published()
        published = ray.get(algorithm._server.newer_than.remote(-1))
        np.testing.assert_array_equal(ray.get(published.weights[0])["w"], weights["w"])


def through_disk(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The state as the command that goes on with a run reads it."""
    return load_checkpoint(save_checkpoint(folder, 1, state, tasks=("a",), keep=1)).components


def test_an_interval_whose_steps_were_all_skipped_has_a_result(monkeypatch):
    """Losses that were not computed are left out, like every figure that nobody knows; they are back with the next step."""
    config = MultiTaskIMPALAConfig.from_experiment(toy_config(**RAY_TOY)).reporting(min_time_s_per_iteration=0)
    algorithm = config.build_algo()
    try:
        learner = algorithm.trainer.learner
        losses = learner.losses

        def poisoned(minibatch, coefficients=None):
            found = losses(minibatch, coefficients)
            return found if found.actor is None else found._replace(actor=found.actor * float("nan"))

        monkeypatch.setattr(learner, "losses", poisoned)
        result = algorithm.train()
        assert algorithm.trainer.learner.skipped_steps >= 1 and result["timesteps_total"] > 0
        assert result["learners"]["default_policy"] == {}
        monkeypatch.undo()
        again = algorithm.train()["learners"]["default_policy"]
        assert set(again) == {"policy_loss", "vf_loss", "entropy"} and np.isfinite(list(again.values())).all()
    finally:
        algorithm.stop()


def test_rllibs_callbacks_and_evaluation_interval_run():
    """`step` is RLlib's own, so that what is configured around it happens."""
    seen: list[str] = []

    def evaluation(algorithm, runners):
        seen.append(f"evaluation {algorithm.trainer.updates > 0}")
        return {"score": 0.5}, 0, 0

    config = MultiTaskIMPALAConfig.from_experiment(toy_config(**RAY_TOY)).reporting(min_time_s_per_iteration=0)
    config.evaluation(evaluation_interval=2, custom_evaluation_function=evaluation)
    config.callbacks(on_train_result=lambda **_: seen.append("result"), on_evaluate_start=lambda **_: seen.append("start"))
    algorithm = config.build_algo()
    try:
        results = [algorithm.train() for _ in range(4)]
    finally:
        algorithm.stop()
    assert seen == ["result", "start", "evaluation True", "result"] * 2
    assert ["evaluation" in result for result in results] == [False, True, False, True]
    assert results[0]["fault_tolerance"]["num_healthy_workers"] == 1
    assert results[0]["timesteps_total"] > 0 and results[0]["messages"] == []


def test_runners_play_the_levels_that_the_curriculum_plans():
    config = toy_config(**RAY_TOY, curriculum__levels__sampler="plr_robust", curriculum__levels__training_levels=20)
    algorithm = MultiTaskIMPALAConfig.from_experiment(config).build_algo()
    try:
        trainer, episodes = algorithm.trainer, []
        end = time.monotonic() + 90
        while not any(not each.only_rated for each in episodes) and time.monotonic() < end:
            algorithm.train()
            episodes += [each for decision in trainer.decisions() if decision.levels for each in decision.levels.episodes]
    finally:
        algorithm.stop()
    assert {each.only_rated for each in episodes} == {True, False}  # none is replayed until a runner has got a plan with rated ones
    assert {each.level for each in episodes} <= set(range(20))


def test_a_killed_runner_comes_back(algorithm):
    algorithm.train()
    manager = algorithm.env_runner_group._worker_manager
    ray.kill(manager.actors()[1], no_restart=False)
    before, end = algorithm.trainer.updates, time.monotonic() + 60
    while algorithm.trainer.updates < before + 20:
        assert time.monotonic() < end, "no rollouts since the runner was killed"
        algorithm.trainer.step()


def test_runners_stop_when_nobody_takes_their_rollouts(algorithm):
    source = algorithm.trainer._source
    while not source.collect(1.0):
        pass
    time.sleep(1.0)
    assert algorithm.env_runner_group.num_in_flight_async_reqs() <= 2
    assert sum(len(source.collect(0.0)) for _ in range(2)) <= 4


def listening() -> dict[str, str]:
    """The addresses on which this process and the Ray that it has started listen, by socket. Other tests may have a Ray of their own."""
    session = ray._private.worker._global_node.get_session_dir_path()
    sockets = set()
    for pid in family_of(os.getpid()):
        open_files = set()
        for entry in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                open_files.add(str(entry.readlink()))
        if pid == os.getpid() or any(name.startswith(session) for name in open_files):  # they write their logs there
            sockets |= {Path(name).name for name in open_files}
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    return {row[9]: row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


def test_nobody_else_can_reach_a_local_run(algorithm):
    addresses = listening()
    assert len(addresses) >= 5  # Ray's daemons, the driver, the runner
    loopback = ("0100007F:", "0000000000000000FFFF00000100007F:", "00000000000000000000000001000000:")
    assert all(address.startswith(loopback) for address in addresses.values()), addresses


def test_tune_searches_over_it():
    import mtrl.distributed.algorithm  # noqa: F401  (registers the name)

    config = MultiTaskIMPALAConfig.from_experiment(toy_config(**RAY_TOY)).training(lr=tune.grid_search([1e-3, 1e-4]))
    config.env_runners(num_cpus_per_env_runner=0.5)
    tuner = tune.Tuner("MultiTaskIMPALA", param_space=config, run_config=tune.RunConfig(stop={"training_iteration": 1}, verbose=0))
    results = tuner.fit()
    assert not results.errors
    rates = {result.config["lr"] for result in results}
    assert rates == {1e-3, 1e-4}
    assert all(result.metrics["timesteps_total"] > 0 for result in results)
    assert all(result.metrics["messages"] == [] for result in results)


def test_rllibs_words_reach_the_experiment():
    config = MultiTaskIMPALAConfig.from_experiment(ROOT / "configs" / "minigrid_mt7.yaml")
    config.env_runners(num_env_runners=8).training(lr=0.5, gamma=0.5, entropy_coeff=0.25).debugging(seed=7)
    experiment = config.experiment()
    assert experiment.suite.name == "minigrid/mt7"
    assert experiment.env_runners.num_env_runners == 8
    assert experiment.learner.actor.learning_rate == experiment.learner.critic.learning_rate == 0.5
    assert (experiment.learner.discount, experiment.learner.entropy_cost, experiment.seed) == (0.5, 0.25, 7)
    config.learners(num_learners=2, num_gpus_per_learner=1, num_cpus_per_learner="auto")
    assert config.experiment().learners.model_dump() == {"num_learners": 2, "num_cpus_per_learner": 0, "num_gpus_per_learner": 1}


def test_more_runners_than_cores_is_said_before_waiting():
    with pytest.raises(ResourceError, match="num_env_runners 1000 needs 1000 CPU, but Ray has"):
        check_resources(toy_config(env_runners__num_env_runners=1000))


def test_an_error_in_a_runner_is_raised_with_its_traceback(algorithm):
    """The runner's actions are made to fit no environment; RLlib alone would restart it for ever without a word."""

    def break_it(runner):
        runner._collector._tasks.step = None

    algorithm.train()
    algorithm.env_runner_group.foreach_env_runner(break_it, local_env_runner=False)
    with pytest.raises(TypeError, match="not callable") as error:
        for _ in range(50):
            algorithm.trainer.step()
    assert "in runner 1" in str(error.value.__cause__)
    assert "collector.py" in str(error.value.__cause__)


def test_what_cannot_run_is_said_before_ray_starts_anything():
    with pytest.raises(ConfigError, match="can only run on gymnasium"):
        build_ray_trainer(toy_config(**RAY_TOY, suite__backend="envpool"))
    with pytest.raises(ConfigError, match="2, but toy/three has 3 tasks"):
        build_ray_trainer(toy_config(**RAY_TOY | {"env_runners__slots": 2}))
    with pytest.raises(ConfigError, match="65"):
        build_ray_trainer(toy_config(**RAY_TOY, model__experts=65))
