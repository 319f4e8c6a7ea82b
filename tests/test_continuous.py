"""Continuous actions: densities and entropies against SciPy and sampling, normalised observations, and the way through the system."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
import torch
from helpers import toy_config
from scipy import integrate, stats

from envs import make_suite
from mtrl.learning.learner import Learner
from mtrl.models.distributions import Normal, TanhNormal, make_distribution
from mtrl.models.normalization import ObservationScale
from mtrl.rollouts.collector import build_collector

PARAMETERS = torch.tensor([[0.5, -1.0, 0.2, -0.7], [0.0, 3.0, 0.9, 0.4]])
LOG_SCALES = -0.3 + PARAMETERS[:, 2:].numpy()
SCALES = np.exp(1.0 - np.log1p(np.exp(10 * (1.0 - LOG_SCALES))) / 10)  # bent near the upper bound of 1; the lower one is far away


def test_the_gaussians_density_and_entropy():
    actions = torch.tensor([[0.1, -2.0], [1.0, 2.0]])
    expected = stats.norm.logpdf(actions.numpy(), PARAMETERS[:, :2].numpy(), SCALES).sum(-1)
    np.testing.assert_allclose(Normal(2).log_prob(PARAMETERS, actions), expected, rtol=1e-5)
    np.testing.assert_allclose(Normal(2).entropy(PARAMETERS), stats.norm.entropy(scale=SCALES).sum(-1), rtol=1e-5)


def test_the_squashed_density_integrates_to_one():
    """Over what the environment is given: u = atanh(a), and da = (1 - a²) du."""
    parameters = torch.tensor([[0.7, 0.4]])

    def density(action: float) -> float:
        return float(TanhNormal(1).log_prob(parameters, torch.tensor([[math.atanh(action)]], dtype=torch.float64)).exp())

    assert integrate.quad(density, -0.9999999, 0.9999999, limit=200)[0] == pytest.approx(1, abs=1e-3)


def test_the_squashed_entropy_is_the_mean_surprise_of_samples():
    distribution, generator = TanhNormal(2), torch.Generator().manual_seed(0)
    for row in PARAMETERS:
        many = row.expand(200_000, -1)
        surprise = -distribution.log_prob(many, distribution.sample(many, generator)).mean()
        assert float(distribution.entropy(row.unsqueeze(0))) == pytest.approx(float(surprise), abs=0.02)


@pytest.mark.parametrize("kind", [Normal, TanhNormal])
def test_extremes_stay_finite_with_gradients(kind):
    parameters = torch.tensor([[1e3, -1e3, 1e3, -1e3]], requires_grad=True)
    actions = torch.tensor([[900.0, -1100.0]])
    value = kind(2).log_prob(parameters, actions) + kind(2).entropy(parameters)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(parameters.grad).all()
    assert np.abs(kind(2).to_environment(actions.numpy())).max() <= (1 if kind is TanhNormal else np.inf)


@pytest.mark.parametrize("offset", [-5.2, 1.8])
def test_a_scale_beyond_its_bounds_comes_back(offset):
    """A hard clamp has no gradient there, so that a deviation which has left its range stays for ever."""
    start = torch.tensor([[0.0, offset]])
    parameters = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([parameters], lr=0.02, betas=(0.9, 0.9))
    wanted = torch.randn(256, 1, generator=torch.Generator().manual_seed(0)) * 0.7
    for _ in range(500):
        optimizer.zero_grad()
        (-Normal(1).log_prob(parameters.expand(256, -1), wanted).mean()).backward()
        optimizer.step()
    assert float(Normal.log_scale(parameters[0, 1].detach()).exp()) == pytest.approx(float(wanted.std()), rel=0.05)


def test_samples_have_the_mean_and_scale_they_should():
    drawn = Normal(2).sample(PARAMETERS[:1].expand(100_000, -1), torch.Generator().manual_seed(0)).numpy()
    np.testing.assert_allclose(drawn.mean(0), PARAMETERS[0, :2], atol=0.02)
    np.testing.assert_allclose(drawn.std(0), SCALES[0], rtol=0.02)


def test_spaces_that_nothing_fits_are_refused():
    with pytest.raises(ValueError, match="no action distribution"):
        make_distribution(gymnasium.spaces.MultiBinary(2))
    with pytest.raises(ValueError, match="squashed_actions"):
        make_distribution(gymnasium.spaces.Box(-2.0, 2.0, (3,)), squashed=True)


def test_running_statistics_are_those_of_everything_seen():
    rng = np.random.default_rng(0)
    scale, seen = ObservationScale(3, 4), {0: [], 1: []}
    for _ in range(5):
        tasks = np.sort(rng.integers(0, 2, 40))
        vectors = rng.normal(100 * tasks[:, None], 1 + tasks[:, None], (40, 4)).astype(np.float32)
        weights = rng.integers(0, 3, 40).astype(np.float32)
        scale.update(torch.from_numpy(vectors), torch.from_numpy(tasks), torch.from_numpy(weights))
        for task in seen:
            own = tasks == task
            seen[task] += np.repeat(vectors[own], weights[own].astype(int), axis=0).tolist()
    for task, rows in seen.items():
        np.testing.assert_allclose(scale.mean[task], np.mean(rows, axis=0), rtol=1e-5)
        x = torch.tensor(rows, dtype=torch.float32)
        normal = scale(x, torch.full((len(x),), task))
        np.testing.assert_allclose(normal.mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(normal.std(0, correction=0), 1, atol=1e-3)
    untouched = torch.randn(2, 4)
    torch.testing.assert_close(scale(untouched, torch.tensor([2, 2])), untouched)


def test_statistics_with_a_memory_follow_what_is_seen_now():
    """A NumPy twin in which every vector has a weight, and all weights shrink as soon as they are more than the memory. A task that is not
    seen keeps its statistics.
    """
    rng = np.random.default_rng(0)
    scale = ObservationScale(2, 1, memory=100)
    rows, weights = np.zeros(0), np.zeros(0)
    for step in range(40):
        vectors = rng.normal(0.0 if step < 20 else 5.0, 1.0, 30).astype(np.float32)
        tasks = torch.zeros(30, dtype=torch.int64) if step else torch.arange(30) % 2
        scale.update(torch.from_numpy(vectors[:, None]), tasks, torch.ones(30))
        rows, weights = np.append(rows, vectors[tasks.numpy() == 0]), np.append(weights, np.ones(int((tasks == 0).sum())))
        weights *= min(1.0, 100 / weights.sum())
        if step == 0:
            other = scale.mean[1].clone(), scale.square[1].clone()
    mean = np.average(rows, weights=weights)
    deviation = np.average((rows - mean) ** 2, weights=weights) ** 0.5
    assert float(scale.count[0]) == pytest.approx(100) and float(scale.mean[0]) == pytest.approx(mean, rel=1e-5)
    assert float((scale.square[0] / scale.count[0]).sqrt()) == pytest.approx(deviation, rel=1e-5)
    assert mean > 4.9  # the first twenty are all but forgotten
    assert torch.equal(scale.mean[1], other[0]) and torch.equal(scale.square[1], other[1])


def test_a_least_deviation_bounds_what_a_small_movement_becomes():
    """Of an object that has been pushed by half a millimetre, ten centimetres are 200 deviations, which are clipped at 10."""
    tasks, ones = torch.zeros(1000, dtype=torch.int64), torch.ones(1000)
    seen = torch.stack([torch.randn(1000) * 5e-4, torch.randn(1000), torch.full((1000,), 3.0)], dim=1)
    plain, bounded = ObservationScale(1, 3), ObservationScale(1, 3, least_deviation=0.05)
    for scale in (plain, bounded):
        scale.update(seen, tasks, ones)
    moved = torch.tensor([[0.1, 2.0, 3.5]])
    assert plain(moved, tasks[:1])[0, 0] == 10.0
    assert bounded(moved, tasks[:1])[0, 0].item() == pytest.approx(2.0, abs=0.01)
    torch.testing.assert_close(plain(moved, tasks[:1])[:, 1:], bounded(moved, tasks[:1])[:, 1:])  # what moves, and what never has


@pytest.mark.parametrize("squashed", [False, True])
@pytest.mark.parametrize("memory", [False, True])
def test_runner_and_learner_agree_on_meta_world(squashed, memory):
    """The learner gives the behaviour's log-probabilities back at equal weights, with the observations' statistics of that version."""
    config = toy_config(
        "metaworld/reach,push",
        env_runners__slots=4,
        env_runners__unroll_length=20,
        model__squashed_actions=squashed,
        model__memory=memory,
        model__normalize_observations=True,
        model__observation_least_deviation=0.01,
        model__observation_memory=60,
    )
    suite = make_suite(config.suite.name)
    learner, collector = Learner(config, suite), build_collector(config, suite, runner=0)
    if memory:
        torch.nn.init.normal_(learner.policy.actor.head.recall_weight, std=0.3)  # at 0 it would not matter what the memory holds
    for _ in range(2):
        collector.set_weights(learner.version, learner.actor_weights())
        rollout = collector.collect().rollout
        log_rhos = learner.evaluate(learner.make_batch(rollout)).log_probs.numpy() - rollout.behaviour_log_probs
        np.testing.assert_allclose(log_rhos, 0, atol=2e-4)
        learner.update(rollout, 0.0)
    collector.close()
    assert learner.policy_weights()["actor.trunk.encoder.scale.count"].tolist() == [[60], [60]]  # of 80
    assert rollout.actions.dtype == np.float32
