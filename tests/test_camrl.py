"""CAMRL: its derivatives against finite differences, its minimum against the constraint, its rounds against the paper's."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from helpers import collect, toy_config

from mtrl.curriculum.evidence import Evidence
from mtrl.curriculum.schedulers.camrl import CAMRL, CAMRLOptions, _Problem, soft_rank_gradient, soft_ranks
from mtrl.learning.learner import DIAGNOSIS_UPDATES
from mtrl.training.metrics import update_metrics
from mtrl.training.trainer import build_trainer

N = 5
rng = np.random.default_rng(3)


def problem() -> tuple[_Problem, np.ndarray]:
    directions = rng.normal(size=(N, 8))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    transfer = np.eye(N) + np.where(np.eye(N), 0.0, rng.random((N, N)) * 0.02)
    return _Problem(rng.random(N), directions @ directions.T, CAMRLOptions(benefit=0.3, sparsity=0.2)), transfer


def composite(subject: _Problem, task: int, transfer: np.ndarray, before: np.ndarray, waiting: list[int], scales: np.ndarray) -> float:
    return float((subject.terms(transfer, before, waiting)[waiting.index(task)] / scales**2).sum())


def test_soft_ranks_are_ranks_of_entries_apart() -> None:
    assert soft_ranks(np.array([0.3, 0.9, 0.1, 0.5])) == pytest.approx([3, 1, 4, 2], abs=0.05)


def test_slopes_are_the_derivatives() -> None:
    x, of_ranks = np.array([0.01, 0.014, 0.02, 0.012, 0.014]), rng.normal(size=5)
    numeric = np.stack([(soft_ranks(x + 1e-6 * e) - soft_ranks(x - 1e-6 * e)) / 2e-6 for e in np.eye(5)], axis=1)
    np.testing.assert_allclose(soft_rank_gradient(x, of_ranks), of_ranks @ numeric, rtol=1e-4, atol=1e-4)


def test_slope_of_the_composite_loss_is_its_derivative() -> None:
    subject, transfer = problem()
    before, waiting, scales = np.array([3]), [0, 1, 2, 4], np.array([0.7, 1.3, 2.0, 0.9])
    for task in waiting:
        found = subject._slope(task, transfer, before, waiting, scales)
        for other in set(range(N)) - {task}:
            plus, minus = transfer.copy(), transfer.copy()
            plus[task, other] += 1e-6
            minus[task, other] -= 1e-6
            values = [composite(subject, task, matrix, before, waiting, scales) for matrix in (plus, minus)]
            assert found[other] == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-3, abs=1e-3)


def test_reconstruction_is_the_squared_distance_of_directions() -> None:
    directions = rng.normal(size=(N, 8))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    subject = _Problem(np.zeros(N), directions @ directions.T, CAMRLOptions())
    transfer = rng.random((N, N))
    before, waiting = np.array([2, 4]), [0, 1, 3]
    for task, (_, found, _, _) in zip(waiting, subject.terms(transfer, before, waiting), strict=True):
        givers = [*before, task]
        slow = [directions[other] - transfer[givers, other] @ directions[givers] for other in waiting if other != task]
        assert found == pytest.approx(sum(each @ each for each in slow))


def test_the_other_terms_are_those_of_their_equations() -> None:
    losses, similarity = np.array([0.5, 0.2, 0.5, 0.9, 0.0]), np.eye(N) + np.where(np.eye(N), 0.0, rng.random((N, N)).round(1))
    transfer = np.eye(N) + np.where(np.eye(N), 0.0, rng.integers(0, 3, (N, N)) * 0.02)
    options = CAMRLOptions(benefit=0.3, sparsity=0.2)
    found = _Problem(losses, similarity, options).terms(transfer, np.array([], int), list(range(N)))
    for task in range(N):
        others = [other for other in range(N) if other != task]
        row = transfer[task, others]
        assert found[task, 0] == pytest.approx((1 + options.sparsity * row.sum()) * losses[task] - options.benefit * row @ losses[others])
        soft = {j: N - sum(np.tanh(200 * (transfer[task, j] - 0.01 - x)) / 2 + 0.5 for x in transfer[task]) for j in others}
        for column, values in ((2, losses), (3, similarity[task])):
            ranks = {j: 1 + sum(values[other] > values[j] for other in others) for j in others}
            assert found[task, column] == pytest.approx(sum((ranks[j] - soft[j]) ** 2 for j in others))


def test_one_task_alone_has_its_turns() -> None:
    subject = CAMRL(["only"], CAMRLOptions(switch=False))
    for step in range(1, 40):
        episodes = np.array([10.0 * step])
        evidence = Evidence(episodes, episodes / 2, np.array([0.5]), episodes, np.ones(1), np.array([0.5]), np.ones(1), np.eye(1))
        assert subject.probabilities(evidence) == pytest.approx([1.0])
    assert subject.one_by_one


def test_frank_wolfe_keeps_the_bound_and_lowers_a_smooth_loss() -> None:
    subject, transfer = problem()
    transfer = np.eye(N)
    before, waiting = np.array([], int), list(range(N))
    scales = np.array([1.0, 1.0, 1e3, 1e3])  # the ranks' part is all but a staircase: left out
    for task in waiting:
        moved = subject.improved(task, transfer, before, waiting, scales)
        others = np.arange(N) != task
        assert (moved[task, others] >= 0).all() and moved[task, others].sum() <= 0.05 + 1e-12
        np.testing.assert_array_equal(np.delete(moved, task, 0), np.delete(transfer, task, 0))
        assert composite(subject, task, moved, before, waiting, scales) <= composite(subject, task, transfer, before, waiting, scales)


def play_rounds(subject: CAMRL, looks: int, successes: np.ndarray) -> list[np.ndarray]:
    """Shares after each of `looks` looks in which all tasks, or the one that is trained, have ten new episodes."""
    episodes, sums, shares = np.zeros(N), np.zeros(N), np.full(N, 1 / N)
    taken = []
    for _ in range(looks):
        played = 10 * (shares > 0)
        episodes, sums = episodes + played, sums + played * successes
        evidence = Evidence(episodes.copy(), sums.copy(), successes, 100 * episodes, np.ones(N), successes, np.ones(N), np.eye(N))
        shares = subject.probabilities(evidence)
        taken.append(shares.copy())
    return taken


def test_each_round_one_by_one_visits_every_task_once() -> None:
    subject = CAMRL(list("abcde"), CAMRLOptions(switch=False))
    shares = play_rounds(subject, 10 + 4 * N + 1, np.linspace(0.1, 0.9, N))
    assert all(np.allclose(share, 1 / N) for share in shares[:10])  # the warm-up
    turns = [int(share.argmax()) for share in shares[10 : 10 + 4 * N]]
    assert all(share.max() == 1 for share in shares[10:])
    for start in range(0, 4 * N, N):
        assert Counter(turns[start : start + N]) == Counter(range(N))


def test_switch_follows_time_performance_and_outliers() -> None:
    subject = CAMRL([str(i) for i in range(20)], CAMRLOptions())
    bad, good = np.full(20, 0.9), np.full(20, 0.1)
    outlier = np.where(np.arange(20) == 0, 0.0, good)
    early = subject.switch_probability(bad)
    assert 0 < subject.switch_probability(good) < early <= 1 and subject.switch_probability(outlier) > subject.switch_probability(good)
    subject.round_number = np.int64(5000)
    assert subject.switch_probability(bad) < early


def test_mode_changes_under_the_switch() -> None:
    shares = play_rounds(CAMRL(list("abcde"), CAMRLOptions(elapsed=5.0, pace=3.0)), 200, np.full(N, 0.95))
    alone = [share.max() == 1 for share in shares]
    assert any(alone) and not all(alone[20:])


def test_the_learner_tells_how_alike_tasks_are() -> None:
    trainer = build_trainer(toy_config(curriculum__scheduler="camrl", env_runners__slots=12))
    for _ in range(3):
        trainer.step()
    found = trainer.statistics.similarity
    assert found is not None
    known = ~np.isnan(np.diag(found))
    assert known.any()
    np.testing.assert_allclose(np.diag(found)[known], 1.0, atol=1e-5)
    np.testing.assert_allclose(found, found.T, atol=1e-6)
    assert np.nanmax(np.abs(found)) <= 1 + 1e-5 and np.abs(found[~np.eye(3, dtype=bool)] - 1).max() > 1e-3
    state = trainer.state_dict()
    again = build_trainer(toy_config(curriculum__scheduler="camrl", env_runners__slots=12))
    again.load_state_dict(state)
    np.testing.assert_array_equal(again.statistics.similarity, found)
    trainer.close()
    again.close()


def test_other_schedulers_keep_no_similarity_and_the_metrics_get_it_now_and_then() -> None:
    trainer = build_trainer(toy_config(env_runners__slots=12))
    results = [trainer.learner.update(rollout, 0.0) for rollout in collect(trainer.config, 1 + DIAGNOSIS_UPDATES)]
    compared = [number for number, result in enumerate(results) if result.similarity is not None]
    assert compared == [0, DIAGNOSIS_UPDATES]
    metrics = update_metrics(trainer.suite.names, results[0])
    shares = [metrics[f"tasks/{name}/gradient_conflict"] for name in trainer.suite.names]
    assert all(share in (0.0, 0.5, 1.0) for share in shares), "of two other tasks"
    assert metrics["gradients/corridor/cosine_1"] == pytest.approx(metrics["gradients/constant/cosine_0"])
    trainer.step()
    assert trainer.statistics.similarity is None
    trainer.close()
