"""The evidence on each task that schedulers read."""

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
