"""V-trace against the paper's sums, and what must hold at every boundary."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import gae, vtrace_advantages, vtrace_targets

from mtrl.learning.vtrace import vtrace

GAMMA = 0.9
NAMES = ("log_rhos", "rewards", "discounts", "continues", "values", "next_values")


def episode_data(steps: int, slots: int, seed: int) -> dict[str, np.ndarray]:
    """A stream as collectors produce it: terminated, truncated and reset steps, and importance weights on both sides of 1."""
    rng = np.random.default_rng(seed)
    terminated, truncated, valid = np.zeros((3, steps, slots), bool)
    for b in range(slots):
        ended = rng.random() < 0.3
        for t in range(steps):
            valid[t, b] = not ended
            kind = rng.random()
            terminated[t, b] = valid[t, b] and kind < 0.15
            truncated[t, b] = valid[t, b] and 0.15 <= kind < 0.3
            ended = terminated[t, b] or truncated[t, b]
    values = rng.normal(size=(steps + 1, slots))
    return {
        "log_rhos": rng.uniform(-2.5, 2.5, (steps, slots)),
        "rewards": rng.normal(size=(steps, slots)) * valid,
        "discounts": GAMMA * ~terminated,
        "continues": (valid & ~terminated & ~truncated).astype(float),
        "values": values[:-1],
        "next_values": values[1:],
        "valid": valid,
    }


def run(data: dict[str, np.ndarray], **options: float) -> tuple[np.ndarray, np.ndarray]:
    """Targets, and advantages with the importance weights that belong to them."""
    result = vtrace(*(torch.tensor(data[name], dtype=torch.float32) for name in NAMES), **options)
    return result.vs.numpy(), (result.clipped_rhos * result.advantages).numpy()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(0, 10**6),
    st.sampled_from([(1.0, 1.0), (3.7, 2.2), (2.0, 0.5), (10.0, 10.0)]),
    st.sampled_from([1.0, 0.9, 0.0]),
)
def test_equals_the_papers_sums(steps, slots, seed, clips, lambda_):
    data = episode_data(steps, slots, seed)
    rho_bar, c_bar = clips
    vs, advantages = run(data, rho_bar=rho_bar, c_bar=c_bar, lambda_=lambda_)
    arrays = [data[name] for name in NAMES]
    expected = vtrace_targets(*arrays, rho_bar, c_bar, lambda_)
    np.testing.assert_allclose(vs, expected, rtol=2e-4, atol=2e-4)
    if lambda_ == 1:
        np.testing.assert_allclose(advantages, vtrace_advantages(*arrays, rho_bar, expected), rtol=5e-4, atol=5e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 10**6), st.sampled_from([1.0, 0.95, 0.5, 0.0]))
def test_on_policy_advantages_are_the_generalised_ones(steps, slots, seed, lambda_):
    """Schulman et al. 2016 at every λ, and the value target is the value and its advantage."""
    data = episode_data(steps, slots, seed)
    data["log_rhos"][:] = 0.0
    vs, advantages = run(data, lambda_=lambda_)
    np.testing.assert_allclose(advantages, gae(*(data[name] for name in NAMES[1:]), lambda_), rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(vs - data["values"], advantages, rtol=2e-4, atol=2e-4)


def test_on_policy_is_the_n_step_return():
    data = episode_data(8, 3, seed=1)
    data["log_rhos"] = np.zeros((8, 3))
    vs, _ = run(data)
    for b in range(3):
        for t in range(8):
            expected, discount = 0.0, 1.0
            for i in range(t, 8):
                expected += discount * data["rewards"][i, b]
                discount *= data["discounts"][i, b]
                if data["continues"][i, b] == 0 or i == 7:
                    expected += discount * data["next_values"][i, b]
                    break
            if data["valid"][t, b]:
                assert vs[t, b] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("ending", ["terminated", "truncated"])
def test_split_at_an_episodes_end_equals_concatenated(ending):
    data = episode_data(10, 4, seed=2)
    data["continues"][4] = 0
    data["discounts"][4] = 0 if ending == "terminated" else GAMMA
    whole_vs, whole_advantages = run(data)
    parts = [run({name: array[part] for name, array in data.items()}) for part in (slice(0, 5), slice(5, 10))]
    np.testing.assert_allclose(whole_vs, np.concatenate([part[0] for part in parts]), rtol=1e-6)
    np.testing.assert_allclose(whole_advantages, np.concatenate([part[1] for part in parts]), rtol=1e-6)


def test_what_follows_an_episodes_end_does_not_reach_back():
    """Neither the reset step's numbers nor the next episode's."""
    data = episode_data(10, 4, seed=3)
    data["continues"][4:6] = 0  # step 4 ends the episode, step 5 is the reset
    before_vs, before_advantages = run(data)
    for name in ("rewards", "log_rhos"):
        data[name][5:] = 123.0
    data["values"][6:] = data["next_values"][6:] = -77.0
    data["next_values"][5] = -77.0
    after_vs, after_advantages = run(data)
    np.testing.assert_array_equal(before_vs[:5], after_vs[:5])
    np.testing.assert_array_equal(before_advantages[:5], after_advantages[:5])


def test_truncation_bootstraps_and_termination_does_not():
    data = {name: np.zeros((1, 2)) for name in NAMES}
    data["rewards"][:] = 1.0
    data["next_values"][:] = 5.0
    data["discounts"][0] = [GAMMA, 0.0]  # truncated, terminated
    vs, advantages = run(data)
    np.testing.assert_allclose(vs[0], [1 + GAMMA * 5, 1.0])
    np.testing.assert_allclose(advantages[0], [1 + GAMMA * 5, 1.0])


def test_carries_no_gradient():
    values = torch.ones(3, 2, requires_grad=True)
    result = vtrace(values, values, values, values, values, values)
    assert not result.vs.requires_grad
    assert not result.advantages.requires_grad


def test_refuses_a_trace_clip_above_the_fixed_points():
    ones = torch.ones(1, 1)
    with pytest.raises(ValueError, match="rho_bar >= c_bar"):
        vtrace(ones, ones, ones, ones, ones, ones, rho_bar=1.0, c_bar=2.0)
