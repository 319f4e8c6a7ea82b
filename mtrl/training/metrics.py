"""Every figure of a run: its name, unit and meaning, and how it is computed between two lines of `metrics.jsonl`.

No other module makes a metric's name. The documentation's table comes from `METRICS`; tests hold the names that the dashboard and the
console read, and those that runs write, against it.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from envs import TaskSuite
from mtrl.evaluation.results import EvaluationResults
from mtrl.learning.interface import UpdateResult
from mtrl.rollouts.collector import Collected
from mtrl.rollouts.rollout import Rollout, RolloutOutline
from mtrl.rollouts.stored import StoredRollout


class Metric(NamedTuple):
    """A figure of `metrics.jsonl` and TensorBoard."""

    name: str  # `<task>` stands for a task's name, `<k>` for the number of an expert or task, from 0
    unit: str
    description: str


METRICS = (
    Metric("summary/frames", "frames", "valid environment steps trained on since the run began, of all tasks"),
    Metric("summary/frames_per_second", "frames/s", "trained frames per second of wall-clock time"),
    Metric(
        "summary/hours",
        "hours",
        "time of training, without pauses between processes and without the wait for the last evaluation",
    ),
    Metric(
        "summary/score_mean", "0 to 1", "mean over tasks of the score of recent training episodes; absent until every task has an episode"
    ),
    Metric("summary/score_iqm", "0 to 1", "interquartile mean of the same scores"),
    Metric("summary/evaluation_score", "0 to 1", "mean score of the newest evaluation beside the training"),
    Metric("summary/policy_lag", "updates", "updates between the policy that acted and the one that is trained, mean over slots"),
    Metric("tasks/<task>/return", "reward", "mean undiscounted return of the task's last 100 training episodes"),
    Metric("tasks/<task>/score", "0 to 1", "mean score of these episodes"),
    Metric("tasks/<task>/success_rate", "0 to 1", "share of these episodes that succeeded"),
    Metric("tasks/<task>/episode_length", "steps", "mean length of these episodes"),
    Metric("tasks/<task>/episodes", "episodes", "episodes finished since the run began"),
    Metric("tasks/<task>/frames", "frames", "frames of the task trained on since the run began"),
    Metric("tasks/<task>/value_error", "value units", "running mean of the size of the task's advantages"),
    Metric("tasks/<task>/initial_value", "value units", "running mean of the critic's value of observations that episodes begin with"),
    Metric("tasks/<task>/explained_variance", "up to 1", "share of the variance of the task's value targets that the critic predicts"),
    Metric("tasks/<task>/share_wanted", "share", "share of the next frames that the curriculum gives the task, less what is in quarantine"),
    Metric("tasks/<task>/share_trained", "share", "share of the interval's trained frames"),
    Metric(
        "tasks/<task>/gradient_conflict",
        "share",
        "share of the other tasks with a gradient at the mixed feature that points against the task's own, mean over some updates; "
        "absent with CUDA graphs",
    ),
    Metric("tasks/<task>/entropy", "nats", "mean entropy of the task's policy (on a GPU, with `learner.entropy_target` alone)"),
    Metric("tasks/<task>/entropy_cost", "weight", "weight of the task's entropy bonus (with `learner.entropy_target`)"),
    Metric("tasks/<task>/private_share", "share", "share of the task's private branch in the actor's mixed feature (gate `safe`)"),
    Metric("tasks/<task>/policy_lag", "updates", "as `summary/policy_lag`, for the task's slots"),
    Metric("tasks/<task>/environments", "environments", "environments that all runners hold of the task"),
    Metric("tasks/<task>/forgotten", "0 or 1", "whether the task was mastered and is being lost"),
    Metric("tasks/<task>/faults", "faults", "faults of the task's environments since the run began"),
    Metric("tasks/<task>/quarantined", "0 or 1", "whether the task is left out since its environments keep failing"),
    Metric("tasks/<task>/levels_rated", "levels", "levels of the task that are kept with a score; with `curriculum.levels`"),
    Metric(
        "tasks/<task>/levels_effective",
        "levels",
        "number of levels that the task's next episodes spread over, the exponential of the entropy; with `curriculum.levels`",
    ),
    Metric("curriculum/<task>/probability", "share", "the same as `tasks/<task>/share_wanted`"),
    Metric("curriculum/<task>/progress", "success rate", "fast less slow exponential mean of the task's successes"),
    Metric("evaluation/frames", "frames", "frames of the policy that the newest evaluation is about"),
    Metric("evaluation/<task>/score", "0 to 1", "mean score of the task in the newest evaluation"),
    Metric("evaluation/<task>/success_rate", "0 to 1", "success rate of the task in the newest evaluation"),
    Metric("learner/policy_loss", "loss", "the actor's objective without the entropy bonus"),
    Metric("learner/value_loss", "loss", "½ mean squared error of the values, in units of PopArt's scale where there is one"),
    Metric("learner/entropy", "nats", "mean entropy of the action distributions"),
    Metric("learner/grad_norm", "norm", "norm of the gradient of all parameters before clipping"),
    Metric("learner/kl", "nats", "KL divergence from the proximal policy to the current one (clipped surrogate)"),
    Metric("learner/clip_fraction", "share", "share of steps with a ratio beyond the clip (clipped surrogate)"),
    Metric("learner/learning_rate", "step size", "learning rate of the actor's optimiser"),
    Metric("learner/actor_steps", "optimiser steps", "steps of the actor's optimiser per update; `learner.target_kl` may end them"),
    Metric("learner/novelty_bonus", "reward", "mean bonus of a step for novelty (with `learner.novelty.weight`)"),
    Metric("learner/novelty_error", "squared error", "mean error of the prediction that novelty is measured by"),
    Metric("learner/imitation_traces", "traces", "traces kept for imitation (with `learner.self_imitation.weight`)"),
    Metric("learner/imitation_gap", "reward", "mean of max(return - value, 0) on the imitated traces"),
    Metric("learner/skipped_steps", "optimiser steps", "steps not made since the run began, since loss or gradient were not finite"),
    Metric("learner/updates_per_second", "updates/s", "updates per second of wall-clock time"),
    Metric(
        "learner/distinct_fraction",
        "share",
        "distinct (task, observation) pairs of a batch, which alone are computed; 1 with CUDA graphs",
    ),
    Metric("learner/busy_fraction", "share", "share of the wall-clock time in which the learner worked"),
    Metric("vtrace/rho_mean", "ratio", "mean importance weight π/μ"),
    Metric("vtrace/rho_clipped_fraction", "share", "share of steps with an importance weight above ρ̄"),
    Metric("experts/gram_offdiagonal", "0 to 1", "mean |cosine| between the features of two experts, before they are made orthogonal"),
    Metric("experts/effective_rank", "1 to K", "effective rank of the experts' Gram matrix"),
    Metric("experts/<task>/weight_<k>", "weight", "the gate's weight of expert k for the task"),
    Metric(
        "gradients/<task>/cosine_<k>",
        "-1 to 1",
        "cosine of the gradients of the task and of the one with number k at the mixed feature; for at most 16 tasks",
    ),
    Metric("throughput/env_steps", "steps/s", "environment steps received per second, resets included"),
    Metric("throughput/rollouts", "rollouts/s", "rollouts received per second"),
    Metric("throughput/runners", "runners", "runners that a rollout came from"),
    Metric("throughput/learner_frames", "frames/s", "trained frames per second of the learner's own time"),
    Metric("throughput/queue_wait_seconds", "s", "time in the interval that the learner waited for rollouts"),
    Metric("throughput/env_seconds", "s", "time that runners spent in environments, summed over runners"),
    Metric("throughput/inference_seconds", "s", "time that runners spent in the policy, summed over runners"),
    Metric("throughput/learner_seconds", "s", "time that the learner spent in updates"),
    Metric("throughput/threads", "threads", "threads of the learner's tensor operations on the CPU; they follow the cores that are free"),
    Metric("throughput/lost_unrolls", "unrolls", "unrolls that never arrived, since this process began"),
)

MOST_COMPARED = 16  # tasks; with more, a line of metrics would consist of cosines

# The names of what an update reports, see `mtrl.learning.objectives`.
_GROUPS = {"rho_mean": "vtrace", "rho_clipped_fraction": "vtrace"}


def describe(name: str) -> Metric | None:
    """The table's entry for a name that a run has written; None if there is none."""
    return next((metric for metric in METRICS if _pattern(metric.name).fullmatch(name)), None)


def task_metrics(names: Sequence[str], group: str, columns: Mapping[str, np.ndarray]) -> dict[str, float]:
    """`group/<task>/column` for each column [num_tasks]."""
    return {f"{group}/{name}/{column}": float(values[task]) for task, name in enumerate(names) for column, values in columns.items()}


def update_metrics(names: Sequence[str], result: UpdateResult) -> dict[str, float]:
    """The metrics of one update, without those of `TaskStatistics`."""
    metrics = {f"{_GROUPS.get(name, 'learner')}/{name}": value for name, value in result.means.items()}
    explained = result.task_values.explained_variances
    metrics |= {f"tasks/{name}/explained_variance": float(value) for name, value in zip(names, explained, strict=True) if value == value}
    if result.entropies is not None:
        means = zip(names, result.entropies.means, strict=True)
        metrics |= {f"tasks/{name}/entropy": float(value) for name, value in means if value == value}
        if result.entropies.costs is not None:
            metrics |= task_metrics(names, "tasks", {"entropy_cost": result.entropies.costs})
    if result.similarity is not None:
        metrics |= gradient_metrics(names, result.similarity)
    if result.experts is not None:
        metrics["experts/gram_offdiagonal"] = result.experts.gram_offdiagonal
        metrics["experts/effective_rank"] = result.experts.effective_rank
        metrics |= task_metrics(names, "experts", {f"weight_{k}": column for k, column in enumerate(result.experts.task_weights.T)})
        if result.experts.private_shares is not None:
            metrics |= task_metrics(names, "tasks", {"private_share": result.experts.private_shares})
    return metrics


def gradient_metrics(names: Sequence[str], cosines: np.ndarray) -> dict[str, float]:
    """How the tasks' gradients stand to each other.

    Args:
        names: of the tasks.
        cosines: [tasks, tasks]; NaN where a task had no gradient.
    """
    others = ~np.isnan(cosines) & ~np.eye(len(names), dtype=bool)
    counts = others.sum(axis=1)
    against = ((cosines < 0) & others).sum(axis=1)
    metrics = {f"tasks/{name}/gradient_conflict": against[task] / counts[task] for task, name in enumerate(names) if counts[task]}
    pairs = np.argwhere(others) if len(names) <= MOST_COMPARED else ()
    return metrics | {f"gradients/{names[task]}/cosine_{k}": float(cosines[task, k]) for task, k in pairs}


def evaluation_metrics(results: EvaluationResults) -> dict[str, float]:
    """The figures of an evaluation beside the training."""
    figures = {
        f"evaluation/{name}/{figure}": estimate.value
        for name, task in results.tasks.items()
        for figure, estimate in (("score", task.score), ("success_rate", task.success_rate))
    }
    return {"summary/evaluation_score": results.score_mean.value, "evaluation/frames": float(results.step), **figures}


def objective_of(metrics: Mapping[str, float], names: Sequence[str]) -> float | None:
    """The mean score over tasks, or the mean return where scores are unknown; None until every task has finished an episode."""
    if "summary/score_mean" in metrics:
        return metrics["summary/score_mean"]
    returns = [metrics.get(f"tasks/{name}/return") for name in names]
    known = [value for value in returns if value is not None]
    scored = any(f"tasks/{name}/score" in metrics for name in names)
    return None if scored or len(known) < len(returns) else sum(known) / len(known)


class Interval:
    """Sums and counts between two lines of metrics."""

    def __init__(self, suite: TaskSuite):
        self._suite = suite
        self._start = time.perf_counter()
        self._frames = np.zeros(suite.num_tasks)
        self._slots = np.zeros(suite.num_tasks)  # slots trained on, summed over updates
        self._lags = np.zeros(suite.num_tasks)  # updates that these slots lay behind, summed
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._updates = 0
        self._env_steps = 0
        self._rollouts = 0
        self._runners: set[int] = set()  # those that a rollout came from
        self._observations = 0
        self._distinct_rows = 0
        self._skipped_steps = 0
        self._learner_seconds = 0.0
        self._env_seconds = self._inference_seconds = 0.0  # summed over runners
        self.queue_wait_seconds = 0.0

    def add_collected(self, collected: Collected[Rollout | StoredRollout]) -> None:
        """Counts a rollout that has arrived."""
        self._env_steps += collected.rollout.outline.valid.size
        self._rollouts += 1
        self._runners.add(collected.runner)
        self._env_seconds += collected.env_seconds
        self._inference_seconds += collected.inference_seconds

    def add_update(self, result: UpdateResult, rollout: RolloutOutline, frames: np.ndarray, version: int, seconds: float) -> None:
        """Counts an update on `rollout` that took `seconds` and began at the learner's `version`."""
        self._updates += 1
        self._learner_seconds += seconds
        self._observations += rollout.valid.size + rollout.num_slots
        self._distinct_rows += result.distinct_rows
        self._skipped_steps = result.skipped_steps
        self._frames += frames
        self._slots += np.bincount(rollout.task_ids, minlength=self._suite.num_tasks)
        self._lags += np.bincount(rollout.task_ids, weights=version - rollout.version, minlength=self._suite.num_tasks)
        for name, value in update_metrics(self._suite.names, result).items():
            self._sums[name] += value
            self._counts[name] += 1

    def metrics(self) -> dict[str, float]:
        """Means per update, rates per second, and each task's share and lag; the time waited alone if there was no update."""
        if self._updates == 0:
            return {"throughput/queue_wait_seconds": self.queue_wait_seconds}
        seconds = time.perf_counter() - self._start
        with np.errstate(invalid="ignore"):
            shares = {"policy_lag": self._lags / self._slots, "share_trained": self._frames / self._frames.sum()}
        return {
            **{name: value / self._counts[name] for name, value in self._sums.items()},
            "learner/skipped_steps": self._skipped_steps,
            "summary/frames_per_second": self._frames.sum() / seconds,
            "summary/policy_lag": self._lags.sum() / self._slots.sum(),
            "learner/updates_per_second": self._updates / seconds,
            "learner/distinct_fraction": self._distinct_rows / self._observations,
            "learner/busy_fraction": self._learner_seconds / seconds,
            "throughput/env_steps": self._env_steps / seconds,
            "throughput/rollouts": self._rollouts / seconds,
            "throughput/runners": len(self._runners),
            "throughput/learner_frames": self._frames.sum() / self._learner_seconds,
            "throughput/queue_wait_seconds": self.queue_wait_seconds,
            "throughput/env_seconds": self._env_seconds,
            "throughput/inference_seconds": self._inference_seconds,
            "throughput/learner_seconds": self._learner_seconds,
            **task_metrics(self._suite.names, "tasks", shares),
        }


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name).replace("<task>", ".+").replace("<k>", r"\d+"))
