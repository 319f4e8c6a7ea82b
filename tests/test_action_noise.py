"""Noise of actions that is correlated over time: white by itself, and of the correlation that is asked for from step to step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import collect, toy_config

from envs import make_suite
from mtrl.config import ConfigError
from mtrl.rollouts.collector import check_fit
from mtrl.rollouts.inference import ActionNoise


def noise_of(correlation: float, steps: int, slots: int = 4000) -> np.ndarray:
    noise = ActionNoise(correlation, torch.Generator().manual_seed(0))
    noise.start()
    return np.stack([noise.next(slots, 1)[:, 0].numpy() for _ in range(steps)])


@pytest.mark.parametrize("correlation", [0.3, 0.9])
def test_each_step_is_standard_normal_and_correlated_with_those_before(correlation):
    noise = noise_of(correlation, 12)
    assert noise.mean(axis=1) == pytest.approx(np.zeros(12), abs=0.06)
    assert noise.std(axis=1) == pytest.approx(np.ones(12), abs=0.05)
    for lag in (1, 2, 4):
        found = np.mean([np.corrcoef(noise[t], noise[t + lag])[0, 1] for t in range(12 - lag)])
        assert found == pytest.approx(correlation**lag, abs=0.03)


def test_an_episode_begins_with_noise_of_its_own():
    noise = ActionNoise(0.95, torch.Generator().manual_seed(0))
    noise.start()
    first = noise.next(4000, 1)[:, 0].numpy()
    begins = np.arange(4000) < 2000
    noise.begin_anew(begins)
    second = noise.next(4000, 1)[:, 0].numpy()
    assert abs(np.corrcoef(first[begins], second[begins])[0, 1]) < 0.06
    assert np.corrcoef(first[~begins], second[~begins])[0, 1] == pytest.approx(0.95, abs=0.02)
    noise.start()
    assert abs(np.corrcoef(second, noise.next(4000, 1)[:, 0].numpy())[0, 1]) < 0.06


def test_rollouts_have_it_and_the_log_probabilities_of_single_steps():
    """Of the initial policy, with a mean near 0 and the same scale everywhere."""
    found = []
    for correlation in (0.0, 0.9):
        config = toy_config(
            "context/pendulum", env_runners__slots=200, env_runners__unroll_length=40, env_runners__action_noise_correlation=correlation
        )
        (rollout,) = collect(config)
        actions = rollout.actions[..., 0]
        found.append(float(np.mean([np.corrcoef(actions[t], actions[t + 1])[0, 1] for t in range(39)])))
        standard = (actions - actions.mean()) / actions.std()
        expected = -0.5 * standard**2 - np.log(actions.std()) - 0.5 * np.log(2 * np.pi)
        assert np.corrcoef(expected.ravel(), rollout.behaviour_log_probs.ravel())[0, 1] > 0.9
    assert abs(found[0]) < 0.15 and found[1] > 0.8


def test_actions_that_are_choices_have_none():
    config = toy_config(env_runners__action_noise_correlation=0.5)
    with pytest.raises(ConfigError, match="action_noise_correlation is for actions that are numbers, and those of toy/three are not"):
        check_fit(config, make_suite(config.suite.name))
