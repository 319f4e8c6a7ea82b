"""RLlib's own "getting started", line by line, and its settings: each is read, mapped or refused by name."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from helpers import toy_config
from ray import tune
from ray.rllib.callbacks.callbacks import RLlibCallback

from envs import make_suite
from mtrl.config import ConfigError
from mtrl.distributed import MultiTaskIMPALA, MultiTaskIMPALAConfig
from mtrl.distributed.cluster import start_ray
from mtrl.distributed.settings import READ
from mtrl.evaluation.protocols import protocol_of

EXPERIMENT = toy_config(env_runners__num_env_runners=1, env_runners__slots=12, total_frames=10_000_000)


def config() -> MultiTaskIMPALAConfig:
    return MultiTaskIMPALAConfig.from_experiment(EXPERIMENT)


@pytest.fixture(scope="module")
def algorithm():
    start_ray()
    algorithm = config().build_algo()
    algorithm.train()
    yield algorithm
    algorithm.stop()
    ray.shutdown()


def test_the_module_is_the_learners_policy(algorithm):
    """As RLlib documents inference: the module of a trained algorithm, forward_inference, an action of the distribution."""
    begin = time.monotonic()
    module = algorithm.get_module()
    assert time.monotonic() - begin < 2 and algorithm.get_module("another") is None
    observations = np.eye(8, dtype=np.float32)[:3]
    for batch in ({"obs": {"vector": observations}, "task_ids": np.array([0, 1, 2])}, {"obs": observations}):
        with torch.no_grad():
            parameters = module.forward_inference(batch)["action_dist_inputs"]
        assert parameters.shape == (3, 3) and module.policy.actor.distribution.mode(parameters).shape == (3,)
    weights = algorithm.trainer.policy_weights()
    assert all(np.array_equal(tensor.numpy(), weights[name]) for name, tensor in module.policy.state_dict().items())


def test_an_evaluation_has_rllibs_names_and_our_scores(algorithm):
    results = algorithm.evaluate()
    assert (
        results["env_runners"]["num_episodes"] == 3 * protocol_of(make_suite("toy/three")).episodes
        and results["env_runners"]["episode_len_mean"] > 0
    )
    assert set(results["tasks"]) == {"corridor", "constant", "cue"} and results["tasks"]["constant"]["score"] == 1.0


def test_a_saved_algorithm_goes_on(algorithm, tmp_path):
    path = algorithm.save_to_path(str(tmp_path / "saved"))
    frames = algorithm.trainer.frames
    algorithm.train()
    algorithm.restore_from_path(path)
    assert algorithm.trainer.frames == frames
    other = MultiTaskIMPALA.from_checkpoint(path)
    try:
        assert other.trainer.frames == frames and other.train()["timesteps_total"] > frames
    finally:
        other.stop()


def test_a_trial_that_takes_over_a_checkpoint_keeps_its_own_rate(algorithm, tmp_path):
    """What population-based training does after it has perturbed a trial's configuration."""
    path = algorithm.save_to_path(str(tmp_path / "saved"))
    trial = config().training(lr=1e-5, entropy_coeff=0.07).build_algo()
    try:
        trial.restore_from_path(path)
        trial.train()
        assert trial.trainer.learner.optimizers.actor.param_groups[0]["lr"] == 1e-5
        assert trial.config.experiment().learner.entropy_cost == 0.07
    finally:
        trial.stop()


@pytest.mark.slow
def test_population_based_training_uses_the_perturbed_learning_rate(tmp_path):
    """A trial that takes over another one's weights goes on with its own, perturbed rate."""
    start_ray()
    scheduler = tune.schedulers.PopulationBasedTraining(
        time_attr="training_iteration",
        metric="env_runners/episode_return_mean",
        mode="max",
        perturbation_interval=2,
        hyperparam_mutations={"lr": lambda: float(np.random.choice([1e-4, 3e-4, 1e-3]))},
    )
    tuner = tune.Tuner(
        "MultiTaskIMPALA",
        param_space=config().training(lr=tune.grid_search([1e-3, 1e-5])),
        tune_config=tune.TuneConfig(scheduler=scheduler, max_concurrent_trials=2),
        run_config=tune.RunConfig(stop={"training_iteration": 8}, storage_path=str(tmp_path), verbose=0),
    )
    results = tuner.fit()
    assert not results.errors and len(results) == 2


class Counting(RLlibCallback):
    def on_train_result(self, **kwargs):
        """Called after each iteration."""


class Stepping(Counting):
    def on_episode_step(self, **kwargs):
        """Never called."""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda c: c.training(train_batch_size_per_learner=100),
            "train_batch_size_per_learner=100 .a batch is",
        ),
        (lambda c: c.training(minibatch_size=10), "minibatch_size=10 .*learner.minibatches"),
        (lambda c: c.environment(env_config={"a": 1}), "env_config=.*gym/ID"),
        (lambda c: c.environment("NoSuch-v0"), "env 'NoSuch-v0' is no suite"),
        (lambda c: c.environment(Counting), "register the class in Gymnasium"),
        (lambda c: c.env_runners(explore=False), "explore=False"),
        (lambda c: c.env_runners(batch_mode="complete_episodes"), "batch_mode='complete_episodes'"),
        (lambda c: c.evaluation(evaluation_num_env_runners=2), "evaluation_num_env_runners=2"),
        (lambda c: c.evaluation(evaluation_parallel_to_training=True), "evaluation_parallel_to_training=True"),
        (lambda c: c.offline_data(input_="/tmp/data"), "input_="),
        (lambda c: c.multi_agent(policies_to_train=["a"]), "policies_to_train="),
        (lambda c: c.learners(num_aggregator_actors_per_learner=1), "num_aggregator_actors_per_learner=1"),
        (lambda c: c.callbacks(on_episode_end=lambda **_: None), "never calls on_episode_end"),
        (lambda c: c.callbacks(Stepping), "never calls on_episode_step"),
    ],
)
def test_settings_without_effect_are_refused_by_name(change, said):
    with pytest.raises(ConfigError, match=said) as caught:
        change(config()).validate()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        (lambda c: c.environment("CartPole-v1"), "suite.name", "gym/CartPole-v1"),
        (lambda c: c.environment("toy/three"), "suite.name", "toy/three"),
        (lambda c: c.env_runners(num_envs_per_env_runner=9), "env_runners.slots", 9),
        (lambda c: c.env_runners(rollout_fragment_length=5), "env_runners.unroll_length", 5),
        (lambda c: c.training(num_epochs=3), "learner.epochs", 3),
        (lambda c: c.training(grad_clip=0.5), "learner.critic.max_grad_norm", 0.5),
    ],
)
def test_settings_that_mean_a_field_are_read_with_a_word(change, field, value):
    changed = change(config())
    with pytest.warns(UserWarning, match="mtrl"):
        changed.validate()
    found = changed.experiment()
    for name in field.split("."):
        found = getattr(found, name)
    assert found == value


def test_settings_that_are_read_say_nothing():
    changed = config().callbacks(Counting).evaluation(evaluation_interval=2).debugging(seed=np.int64(3), log_level="INFO")
    changed.env_runners(num_env_runners=2).training(lr=np.float64(1e-3), gamma=0.9).reporting(min_time_s_per_iteration=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        changed.validate()
    assert changed.experiment().seed == 3 and changed.experiment().learner.discount == 0.9
    assert set(vars(MultiTaskIMPALAConfig())) >= READ - {"custom_resources_per_learner"}


def test_the_guide_lists_what_is_mapped():
    page = (Path(__file__).parents[1] / "docs" / "guides" / "rllib.md").read_text()
    for word in ("num_envs_per_env_runner", "rollout_fragment_length", "train_batch_size_per_learner", "on_episode_end", "get_module"):
        assert word in page


@pytest.mark.parametrize(
    ("name", "said"), [("vf_loss_coeff", "set learner.value_cost"), ("nonsense", "the experiment has its own settings")]
)
def test_settings_of_other_algorithms_are_refused_by_name(name, said):
    with pytest.raises(ConfigError, match=rf"training\({name}=…\) is no setting of MultiTaskIMPALA; {said}"):
        MultiTaskIMPALAConfig().training(**{name: 0.5})
