"""CAMRL (Huang et al. 2023), ported to one policy whose tasks share a trunk.

The paper has a network for each task and moves weights between them; its curriculum is the order in which tasks are trained. Here there is
one network, so what remains is the part that schedules: the switch between training all tasks side by side and training them one after the
other, the matrix of transfer between tasks, and the loss that chooses who is next. Two things stand for what a shared trunk lacks:

- the tasks' parameters in the reconstruction term are the directions of their gradients at the mixed feature, known by their cosines S:
  |u_s - Σ_j B_js u_j|² = S_ss - 2 Σ_j B_js S_js + Σ_jk B_js B_ks S_jk;
- a task's loss is 1 - its success rate.

There is no prior knowledge about tasks, hence no term for it. The released code's weights of the terms are all the same by mistake (one
list under five names), and its constraint bounds the largest entry where the paper bounds the sum; both are as in the paper here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from mtrl.config import Section
from mtrl.curriculum.evidence import Evidence
from mtrl.curriculum.scheduler import RatedOptions, RatedScheduler

WARM_UP_ROUNDS = 10  # side by side before the switch is asked
SHARPNESS = 200.0  # of the differentiable ranks
FRANK_WOLFE_STEPS = 10
TERMS = 4  # of the composite loss
HISTORY = 50  # values of each term, by whose deviation the term is scaled


class CAMRLOptions(RatedOptions):
    """Options of `camrl`."""

    sparsity: float = Field(0.01, ge=0)
    """Weight of outgoing transfer in the task's loss (μ1)."""
    benefit: float = Field(0.01, ge=0)
    """Weight of what the transfer promises to others (μ2)."""
    radius: float = Field(0.05, gt=0)
    """Bound of the sum of a task's outgoing transfer."""
    switch: bool = True
    """Whether training side by side and one after the other alternate; off, tasks are trained one after the other once the first ten rounds
    are over."""
    elapsed: float = Field(1000.0, gt=0)
    """Rounds after which elapsed time speaks for side by side."""
    pace: float = Field(1.0, gt=0)
    """How strongly a rising mean performance speaks for rounds side by side."""


class CAMRL(RatedScheduler):
    """Shares of one task at a time, in the order of the composite loss, or of all alike, as the switch decides for each round."""

    needs_similarity: ClassVar[bool] = True
    Options: ClassVar[type[Section]] = CAMRLOptions
    STATE = ("transfer", "history", "terms_seen", "round_number", "one_by_one", "current", "visited", "drawn", "observations_at_start")

    def __init__(self, names: Sequence[str], options: Any):
        super().__init__(names, options)
        n = len(names)
        self.transfer = np.eye(n)  # B: how much of each task goes to each other one
        self.history = np.zeros((TERMS, HISTORY))
        self.terms_seen = np.int64(0)
        self.round_number = np.int64(0)
        self.one_by_one: np.bool_ = np.bool_(False)
        self.current = np.int64(-1)  # the task whose turn it is
        self.visited = np.full(n, -1)  # the tasks of this round in order, -1 for turns to come
        self.drawn = np.int64(0)  # random numbers used, so that a resumed run draws the next ones
        self.observations_at_start = np.zeros(n, np.int64)  # of the round, or of the current turn

    def observe(self, due: np.ndarray, evidence: Evidence) -> None:
        """Ends turns and rounds that are over and begins the next."""
        if (self.num_observations == 0).any():
            return
        new = self.num_observations - self.observations_at_start
        if self.one_by_one:
            if new[self.current] == 0:
                return
            if (self.visited >= 0).all():
                self._begin_round(evidence)
            else:
                self._begin_turn(evidence)
        elif (new > 0).all():
            self._begin_round(evidence)

    def weights(self, evidence: Evidence) -> np.ndarray:
        """All alike, or the one whose turn it is."""
        n = len(self.names)
        return np.eye(n)[self.current] if self.one_by_one else np.ones(n)

    def tasks_changed(self) -> None:
        """The order of a round is about tasks that may be gone: a new round begins."""
        self.visited = np.full(len(self.names), -1)
        self.current = np.int64(-1)
        self.one_by_one = np.bool_(False)
        self.observations_at_start = self.num_observations.copy()

    def switch_probability(self, losses: np.ndarray) -> float:
        """The probability of a round with one task at a time: many outliers, little time elapsed, bad performance."""
        mean, deviation = losses.mean(), losses.std()
        outliers = np.mean((losses < mean - 2 * deviation) | (losses > mean + 2 * deviation))
        elapsed = np.exp(-self.round_number / self.options.elapsed)
        # The released code divides a mean of losses by 40; with success rates as performance the same idea runs over [0, 1].
        performance = np.exp(-self.options.pace * (1.0 - mean))
        return float((outliers + elapsed + performance) / 3)

    def _begin_round(self, evidence: Evidence) -> None:
        self.round_number += 1
        self.observations_at_start = self.num_observations.copy()
        self.visited[:] = -1
        self.current = np.int64(-1)
        rng = np.random.default_rng([int(self.drawn), int(evidence.episodes.sum())])  # of this run: seeds differ in what they have played
        self.drawn += 1
        warm = self.round_number <= WARM_UP_ROUNDS
        chance = self.switch_probability(1.0 - self.latest) if self.options.switch else 1.0
        self.one_by_one = np.bool_(not warm and rng.random() < chance)
        if self.one_by_one:
            self._begin_turn(evidence)

    def _begin_turn(self, evidence: Evidence) -> None:
        waiting = [task for task in range(len(self.names)) if task not in self.visited]
        problem = _Problem(1.0 - self.latest, _similarity(evidence, len(self.names)), self.options)
        before = self.visited[self.visited >= 0]
        terms = problem.terms(self.transfer, before, waiting)
        scales = self._scales(terms)
        self.current = np.int64(waiting[int((terms / scales**2).sum(axis=1).argmin())])
        self.transfer = problem.improved(int(self.current), self.transfer, before, waiting, scales)
        self.visited[(self.visited >= 0).sum()] = self.current
        self.observations_at_start = self.num_observations.copy()

    def _scales(self, terms: np.ndarray) -> np.ndarray:
        """The deviation of each term over its history, to which the candidates' mean is added; 1 where it has none yet."""
        self.history[:, self.terms_seen % HISTORY] = terms.mean(0)
        self.terms_seen += 1
        known = self.history[:, : min(int(self.terms_seen), HISTORY)]
        deviation = known.std(1)
        return np.where(deviation > 1e-6, deviation, 1.0)


class _Problem:
    """The composite loss of one task's outgoing transfer (equation of section 3.1 in the paper), and its minimum."""

    def __init__(self, losses: np.ndarray, similarity: np.ndarray, options: Any):
        self._losses = losses
        self._similarity = similarity
        self._options = options

    def terms(self, transfer: np.ndarray, before: np.ndarray, waiting: Sequence[int]) -> np.ndarray:
        """The four terms of each waiting task, [waiting, 4].

        They are sparsity and benefit; reconstruction of the other waiting tasks; agreement of ranks with losses, and with similarities.
        """
        tasks = np.asarray(waiting, int)
        rows, own = transfer[tasks], transfer[tasks, tasks]
        sparse = (1.0 + self._options.sparsity * (rows.sum(axis=1) - own)) * self._losses[tasks]
        benefit = self._options.benefit * (rows @ self._losses - own * self._losses[tasks])
        ranks = [soft_ranks(row) for row in rows]
        by_loss = [self._disagreement(self._losses, task, found) for task, found in zip(tasks, ranks, strict=True)]
        by_similarity = [self._disagreement(self._similarity[task], task, found) for task, found in zip(tasks, ranks, strict=True)]
        return np.stack([sparse - benefit, self._reconstructions(tasks, transfer, before), by_loss, by_similarity], axis=1)

    def improved(self, task: int, transfer: np.ndarray, before: np.ndarray, waiting: Sequence[int], scales: np.ndarray) -> np.ndarray:
        """The matrix with the task's outgoing transfer moved towards the minimum by Frank and Wolfe, over b >= 0, Σ b <= radius."""
        others = np.flatnonzero(np.arange(len(transfer)) != task)
        result = transfer.copy()
        if not len(others):
            return result
        for step in range(FRANK_WOLFE_STEPS):
            slope = self._slope(task, result, before, waiting, scales)[others]
            vertex = np.zeros(len(others))
            if slope.min() < 0:
                vertex[slope.argmin()] = self._options.radius
            rate = 2.0 / (step + 2.0)
            result[task, others] = (1 - rate) * result[task, others] + rate * vertex
        return result

    def _slope(self, task: int, transfer: np.ndarray, before: np.ndarray, waiting: Sequence[int], scales: np.ndarray) -> np.ndarray:
        row, sources = transfer[task], before.astype(int)
        slope = (self._options.sparsity * self._losses[task] - self._options.benefit * self._losses) / scales[0] ** 2
        others = np.array([s for s in waiting if s != task], int)
        past = self._similarity[sources, task] @ transfer[np.ix_(sources, others)]
        slope[others] += 2 * (row[others] * self._similarity[task, task] + past - self._similarity[task, others]) / scales[1] ** 2
        ranks, apart = soft_ranks(row), np.arange(len(row)) != task
        for scale, wanted in ((scales[2], _ranks(self._losses, task)), (scales[3], _ranks(self._similarity[task], task))):
            slope += 2 * soft_rank_gradient(row, np.where(apart, ranks - wanted, 0.0)) / scale**2
        return slope

    def _reconstructions(self, tasks: np.ndarray, transfer: np.ndarray, before: np.ndarray) -> np.ndarray:
        """For each waiting task, how far the other ones are from what it and those before it give them, [waiting]."""
        sources, similarity = before.astype(int), self._similarity
        past, own = transfer[np.ix_(sources, tasks)], transfer[np.ix_(tasks, tasks)]  # [before, waiting], [giver, receiver]
        among_tasks = similarity[np.ix_(tasks, tasks)]
        from_past = np.einsum("bs,bc,cs->s", past, similarity[np.ix_(sources, sources)], past, optimize=True)
        of_past = np.diag(among_tasks) - 2 * (past * similarity[np.ix_(sources, tasks)]).sum(axis=0) + from_past
        crossed = similarity[np.ix_(tasks, sources)] @ past  # [giver, receiver]
        terms = of_past + 2 * own * (crossed - among_tasks) + own**2 * np.diag(among_tasks)[:, None]
        return np.asarray(terms.sum(axis=1) - np.diag(terms))

    def _disagreement(self, values: np.ndarray, task: int, ranks: np.ndarray) -> float:
        """The squared distance of the ranks of all other tasks from those by falling value."""
        difference = _ranks(values, task) - ranks
        return float(difference @ difference - difference[task] ** 2)


def soft_ranks(x: np.ndarray) -> np.ndarray:
    """Differentiable ranks: the largest entry gets about 1, the smallest about the number of entries."""
    values, place, counts = np.unique(x, return_inverse=True, return_counts=True)  # most entries are 0
    # 0.01 keeps entries that are equal, at first all of them, from counting as larger than each other by half.
    above = np.tanh(SHARPNESS * (values[:, None] - 0.01 - values[None, :])) / 2 + 0.5
    ranks: np.ndarray = (len(x) - above @ counts)[place]
    return ranks


def soft_rank_gradient(x: np.ndarray, of_ranks: np.ndarray) -> np.ndarray:
    """The gradient with respect to the entries, given that with respect to their soft ranks."""
    values, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    steep = SHARPNESS / 2 / np.cosh(np.clip(SHARPNESS * (values[:, None] - 0.01 - values[None, :]), -30, 30)) ** 2  # of i above j
    sums = np.bincount(place, of_ranks, len(values))
    # As the one below: every other entry's rank falls less far. As the one above: its own rank falls by all below it.
    itself = np.diag(steep)[place]
    below = (sums @ steep)[place] - itself * of_ranks
    above = ((steep @ counts)[place] - itself) * of_ranks
    return below - above


def _ranks(values: np.ndarray, task: int) -> np.ndarray:
    """Ranks by falling value, from 1, the smaller of those that ties share; the task itself comes last."""
    others = np.where(np.arange(len(values)) == task, -np.inf, values)
    return 1.0 + len(values) - np.searchsorted(np.sort(others), others, side="right")


def _similarity(evidence: Evidence, n: int) -> np.ndarray:
    """The cosines; tasks without any are strangers to all others."""
    if evidence.similarity is None:
        return np.eye(n)
    return np.where(np.isnan(evidence.similarity), np.eye(n), evidence.similarity)
