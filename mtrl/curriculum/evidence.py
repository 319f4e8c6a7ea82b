"""The evidence on each task that schedulers read, and what it says of a task's success."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

WINDOW = 100  # episodes of a task that its current figures are averaged over


class Evidence(NamedTuple):
    """One array [num_tasks] for each quantity; NaN where a task has none yet."""

    episodes: np.ndarray  # finished so far
    success_sums: np.ndarray  # successful ones of these
    success_rates: np.ndarray  # over the window of recent episodes
    frames: np.ndarray  # trained on so far
    value_errors: np.ndarray  # running mean of |r + γ v' - V|
    scores: np.ndarray  # mean over the window of recent episodes
    initial_values: np.ndarray  # running mean of V at the first observation of episodes
    similarity: np.ndarray | None = None  # [num_tasks, num_tasks], cosine of the tasks' gradients at the mixed feature
    contexts: np.ndarray | None = None  # the number in which tasks differ; None where they have none
    total_frames: np.ndarray | None = None  # [], the run's budget; None in logs of former versions
    rate_episodes: np.ndarray | None = None  # that `success_rates` are of; None: the newest `WINDOW`, or all so far

    @property
    def window(self) -> np.ndarray:
        """The number of episodes that each task's success rate is of."""
        return np.minimum(self.episodes, WINDOW) if self.rate_episodes is None else self.rate_episodes

    def stage(self, frames: int, share: float) -> float:
        """The length of a stage in frames: `frames`, or where that is 0 a `share` of the run's budget."""
        if frames:
            return float(frames)
        return np.inf if self.total_frames is None else share * float(self.total_frames)


class SuccessPosterior(NamedTuple):
    """What the window of recent episodes says of each task's probability of success: Beta(a, b), from a uniform prior."""

    a: np.ndarray  # [num_tasks], 1 + successful episodes
    b: np.ndarray  # [num_tasks], 1 + others

    @property
    def mean(self) -> np.ndarray:
        """The expected probability of success."""
        return self.a / (self.a + self.b)

    def moment(self, successes: float, failures: float) -> np.ndarray:
        """The expectation of `p^successes (1 - p)^failures`."""
        from scipy.special import betaln  # scipy takes a while to import, which every training would wait for

        return np.exp(betaln(self.a + successes, self.b + failures) - betaln(self.a, self.b))

    def of(self, tasks: np.ndarray) -> SuccessPosterior:
        """The posterior of these tasks alone."""
        return SuccessPosterior(self.a[tasks], self.b[tasks])

    def above(self, rate: float) -> np.ndarray:
        """The probability that p is at least `rate`."""
        from scipy.special import betaincc

        return betaincc(self.a, self.b, rate)


def success_posterior(evidence: Evidence) -> SuccessPosterior:
    """The posterior of each task; uniform for a task without episodes."""
    episodes = evidence.window
    successes = np.nan_to_num(evidence.success_rates) * episodes
    return SuccessPosterior(1.0 + successes, 1.0 + episodes - successes)
