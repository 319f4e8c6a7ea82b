"""CLUTR: the latent space of levels, the teacher that proposes in it, and the sampler that puts both together."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from test_levels import VARIED, episode, levels_config

from envs import make_suite
from envs.suites.context import WORLDS
from mtrl.config import ConfigError, LevelsConfig, without_effect
from mtrl.curriculum.levels.autoencoder import AutoencoderSettings, levels_of, new_autoencoder, train_autoencoder, trained_autoencoder
from mtrl.curriculum.levels.clutr import ClutrSampler
from mtrl.curriculum.levels.teacher import NOISE, Teacher
from mtrl.runs import announcement
from mtrl.training.trainer import build_trainer

SPACE = VARIED.level_parameters
SETTINGS = AutoencoderSettings(latent_size=8, updates=800, levels=2000)


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """A cache for this module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def autoencoder(cache):
    return trained_autoencoder(SPACE, SETTINGS)


class TestAutoencoder:
    """The latent space."""

    def test_a_level_is_found_again_from_its_latent_numbers(self, autoencoder):
        """Also one that it was not trained on; a guess is a third of a range away."""
        others = SPACE.of_training_levels(2300)[2000:]
        means = autoencoder.encode(torch.from_numpy(SPACE.sequences_of(others))).mean
        found = levels_of(autoencoder, SPACE, means, np.random.default_rng(0))
        ranges = np.subtract(SPACE.high, SPACE.low)
        assert (np.abs(found - others) / ranges).mean() < 0.12

    def test_the_prior_proposes_levels_from_everywhere(self, autoencoder):
        drawn = levels_of(autoencoder, SPACE, torch.randn(1000, 8, generator=torch.Generator().manual_seed(0)), np.random.default_rng(0))
        places = (drawn - SPACE.low) / np.subtract(SPACE.high, SPACE.low)
        assert (places.mean(0) > 0.3).all() and (places.mean(0) < 0.7).all() and (places.std(0) > 0.18).all()

    def test_training_gives_the_same_result_whatever_was_drawn_before(self):
        few = SETTINGS._replace(updates=3)
        one = train_autoencoder(SPACE, few).state_dict()
        torch.rand(5)
        before = torch.random.get_rng_state()
        other = train_autoencoder(SPACE, few).state_dict()
        assert torch.equal(torch.random.get_rng_state(), before)
        assert all(torch.equal(one[name], other[name]) for name in one)

    def test_without_a_place_for_it_or_with_a_damaged_file_it_is_trained_again(self, tmp_path, monkeypatch):
        few = SETTINGS._replace(updates=2)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        (tmp_path / "file").write_text("")
        one = trained_autoencoder(SPACE, few).state_dict()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        trained_autoencoder(SPACE, few)
        (kept,) = (tmp_path / "mtrl-trainer" / "autoencoders").iterdir()
        kept.write_bytes(kept.read_bytes()[:100])
        other = trained_autoencoder(SPACE, few).state_dict()
        assert all(torch.equal(one[name], other[name]) for name in one) and kept.stat().st_size > 100

    def test_it_is_trained_once(self, autoencoder, monkeypatch):
        monkeypatch.setattr("mtrl.curriculum.levels.autoencoder.train_autoencoder", lambda *_: pytest.fail("trained again"))
        again = trained_autoencoder(SPACE, SETTINGS).state_dict()
        assert all(torch.equal(tensor, again[name]) for name, tensor in autoencoder.state_dict().items())

    def test_the_loss_is_that_of_its_paper(self):
        """The log-likelihood and the divergence of normal distributions, written out."""
        model = new_autoencoder(SPACE, SETTINGS)
        sequences = torch.from_numpy(SPACE.sequences_of(SPACE.of_training_levels(5)))
        with torch.no_grad():
            encoded = model.encode(sequences)
            mean, variance = encoded.mean, encoded.variance
            divergence = 0.5 * (mean**2 + variance - 1 - variance.log()).sum(1)
            decoded = model.decode(mean + variance.sqrt() * torch.randn(mean.shape, generator=torch.Generator().manual_seed(4)))
            away = (sequences - decoded.mean) / decoded.stddev
            unlikely = (0.5 * away**2 + decoded.stddev.log() + 0.5 * np.log(2 * np.pi)).sum((1, 2))
            loss = model.loss(sequences, 0.5, torch.Generator().manual_seed(4))
        torch.testing.assert_close(loss, (unlikely + 0.5 * divergence).mean())


def test_the_teacher_finds_what_is_regretted_most():
    """Regret falls with the distance to a place that the prior seldom proposes."""
    torch.manual_seed(0)
    teacher, place = Teacher(3, learning_rate=3e-3, entropy_cost=0.0), torch.tensor([1.2, -0.8, 0.0])
    begun = teacher.distribution(torch.randn(500, NOISE))
    assert begun.mean.abs().max() < 0.2
    torch.testing.assert_close(begun.stddev, torch.ones(500, 3))
    for _ in range(150):
        noise = torch.randn(64, NOISE)
        with torch.no_grad():
            latents = teacher.distribution(noise).sample()
        teacher.update(noise, latents, teacher.log_prob(noise, latents).detach(), -(latents - place).square().sum(-1))
    ended = teacher.distribution(torch.randn(500, NOISE))
    assert (ended.mean.mean(0) - place).abs().max() < 0.3
    assert ended.stddev.max() < 0.6


@pytest.mark.parametrize("entropy_cost", [0.0, 0.01])
def test_every_deviation_of_the_teacher_stays_adjustable(entropy_cost):
    """With a hard bound at the start, half of them had no gradient after one update, and two thirds after sixty."""
    torch.manual_seed(0)
    teacher = Teacher(32, learning_rate=1e-3, entropy_cost=entropy_cost)
    for _ in range(60):
        noise = torch.randn(64, NOISE)
        with torch.no_grad():
            latents = teacher.distribution(noise).sample()
        teacher.update(noise, latents, teacher.log_prob(noise, latents).detach(), -latents[:, :8].square().sum(-1))
    deviations = teacher.distribution(torch.randn(1, NOISE)).stddev[0]
    assert deviations[:8].max() < deviations[8:].mean()
    gradients = torch.autograd.grad(deviations.sum(), teacher.deviations)[0]
    assert (gradients.abs() > 0.01).all()


def sampler_of(**settings) -> ClutrSampler:
    given = {"latent_size": 8, "autoencoder_updates": 800, "training_levels": 2000, "teacher_batch": 32, "teacher_learning_rate": 3e-3}
    return ClutrSampler(LevelsConfig(sampler="clutr", **{**given, **settings}), VARIED, seed=3, place=0)


def play(sampler: ClutrSampler, episodes: int, rng: np.random.Generator, score) -> list[np.ndarray]:
    """Plays levels of the plan one after the other, and gives back their parameters."""
    played = []
    for _ in range(episodes):
        plan = sampler.plan()
        place = rng.choice(len(plan.numbers), p=plan.probabilities)
        played.append(plan.parameters[place])
        sampler.add(episode(int(plan.numbers[place]), score(plan.parameters[place])))
    return played


class TestSampler:
    """Proposals of one task."""

    def test_proposals_move_to_levels_with_high_scores(self, autoencoder):
        length = list(WORLDS["cartpole"].parameters).index("length")
        low, high = SPACE.low[length], SPACE.high[length]
        played = np.array(play(sampler_of(), 2500, np.random.default_rng(0), lambda level: (level[length] - low) / (high - low)))
        places = (played[:, length] - low) / (high - low)
        assert 0.4 < places[:200].mean() < 0.6 and places[-300:].mean() > 0.75

    def test_every_proposal_is_new_is_learned_from_and_is_within_the_bounds(self, autoencoder):
        sampler = sampler_of()
        plan = sampler.plan()
        assert len(plan.numbers) == 32 and not plan.only_rated.any() and plan.numbers.min() == 2000
        assert (plan.parameters >= SPACE.low).all() and (plan.parameters <= SPACE.high).all()
        play(sampler, 32, np.random.default_rng(0), lambda level: 0.5)
        later = sampler.plan()
        assert not set(later.numbers) & set(plan.numbers) and sampler.clock == 32 and len(sampler.buffer) == 32

    def test_each_episode_on_a_proposal_rates_it_and_others_are_counted_alone(self, autoencoder):
        sampler = sampler_of(score="max_monte_carlo")
        sampler.plan()
        sampler.add(episode(2000, 0.5)._replace(episode_return=2.0))
        sampler.add(episode(2000, 0.5)._replace(episode_return=1.0))
        sampler.add(episode(7, 0.5))
        assert sampler.clock == 3 and sampler.buffer.numbers.tolist() == [2000] and 2000 not in sampler.plan().numbers
        assert sampler.buffer.scores.tolist() == [1.5]  # the best return so far, less the critic's 0.5

    def test_a_decision_takes_less_than_five_milliseconds(self, autoencoder):
        sampler, rng = sampler_of(), np.random.default_rng(0)
        sampler.plan()
        begin = time.perf_counter()
        play(sampler, 320, rng, lambda level: rng.random())
        assert (time.perf_counter() - begin) / 320 < 5e-3


def test_levels_without_parameters_cannot_be_proposed():
    with pytest.raises(ConfigError, match=r"curriculum.levels.sampler is clutr, .* but corridor has none: take plr_robust"):
        build_trainer(levels_config("clutr"))


def test_the_minute_of_the_autoencoder_is_announced():
    assert announcement(levels_config("clutr", "gridmaze/blocks")).endswith("its levels' latent space is learned first, for about a minute")
    assert "latent" not in announcement(levels_config("accel", "gridmaze/blocks"))


def test_settings_of_the_teacher_have_no_effect_without_it():
    (sentence,) = without_effect(levels_config("accel", "context/cartpole:all", teacher_batch=20))
    assert "has no effect without curriculum.levels.sampler clutr" in sentence
    assert not list(without_effect(levels_config("clutr", "gridmaze/blocks", teacher_batch=20, score="value_l1")))
    assert make_suite("gridmaze/blocks").tasks[0].level_parameters is not None
