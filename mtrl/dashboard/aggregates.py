"""Methods side by side: what evaluations of several runs say together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mtrl.dashboard.methods import methods_of
from mtrl.dashboard.runs import Run
from mtrl.evaluation.intervals import FEWEST, Estimate
from mtrl.evaluation.results import EvaluationResults
from mtrl.evaluation.statistics import aggregate, interquartile_mean, mean, median_over_tasks, optimality_gap, probability_of_improvement

PAIR_RESAMPLES = 500  # of the runs of each pair of methods
SIMILAR = 0.05  # relative difference of frames below which policies count as equally old


class MethodScores(NamedTuple):
    """One method's newest evaluations, over the tasks that all methods have."""

    name: str
    runs: list[Run]
    """Evaluated runs."""
    not_evaluated: int
    """Runs of the method without an evaluation."""
    scores: np.ndarray  # [runs, tasks]
    mean: Estimate | None
    """None, as all figures, where no run was evaluated."""
    iqm: Estimate | None
    median: Estimate | None
    """Of the tasks' means."""
    gap: Estimate | None
    improvement: Estimate | None
    """Probability of improvement over the first evaluated method; None for that one, and where either has one run."""


class Comparison(NamedTuple):
    """Methods on the same tasks, and what has to be known to read their figures."""

    title: str
    """The suite; empty where all runs have the same tasks."""
    methods: list[MethodScores]
    tasks: list[str]
    remarks: list[str]

    @property
    def evaluated(self) -> list[MethodScores]:
        """Methods with figures."""
        return [method for method in self.methods if method.runs]


def by_tasks(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs with the same tasks, under the name of their suite: scores of unlike tasks are not averaged together."""
    found: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        found.setdefault(tuple(sorted(run.tasks)), []).append(run)
    groups: dict[str, list[Run]] = {}
    for members in found.values():
        suite = members[0].config.get("suite")
        name = str(suite.get("name", "tasks")) if isinstance(suite, dict) else "tasks"
        while name in groups:
            name += " (other tasks)"
        groups[name] = members
    return groups


def compare(runs: Sequence[Run]) -> list[Comparison]:
    """Figures of the methods, for each set of tasks by itself unless all evaluated runs share some.

    Runs are compared where at least two of them have the same tasks and one was evaluated.
    """
    if len(runs) < 2:
        return []
    if _common(runs):
        return [_compare("", runs)]
    groups = by_tasks(runs)
    return [_compare(name, members) for name, members in groups.items() if len(members) > 1 and _common(members)]


def _common(runs: Sequence[Run]) -> list[str]:
    """The tasks that were played in the newest evaluation of every evaluated run; empty where there is none."""
    evaluated = [run for run in runs if run.evaluations]
    if not evaluated:
        return []
    return [task for task in evaluated[0].evaluations[-1].tasks if all(task in run.evaluations[-1].tasks for run in evaluated)]


def _compare(title: str, runs: Sequence[Run]) -> Comparison:
    common = _common(runs)
    methods: list[MethodScores] = []
    first: np.ndarray | None = None
    for name, members in methods_of(runs):
        own = [run for run in members if run.evaluations]
        missing = len(members) - len(own)
        if not own:
            methods.append(MethodScores(name, [], missing, np.empty((0, len(common))), None, None, None, None, None))
            continue
        scores = np.array([[_score(run, task) for task in common] for run in own])
        rng = np.random.default_rng(0)
        pairs = first is not None and min(len(scores), len(first)) >= FEWEST  # one run says nothing about the next one
        improvement = probability_of_improvement(scores, first, rng) if pairs and first is not None else None
        first = scores if first is None else first
        average, iqm, gap = (aggregate(scores, statistic, rng) for statistic in (mean, interquartile_mean, optimality_gap))
        methods.append(MethodScores(name, own, missing, scores, average, iqm, median_over_tasks(scores, rng), gap, improvement))
    return Comparison(title, methods, common, _remarks(runs, common))


def pairwise_improvement(comparison: Comparison) -> tuple[list[str], list[list[Estimate]]]:
    """The names of the methods with two evaluated runs or more, and for each pair the probability that a run of the row's scores more than
    one of the column's, with its interval.
    """
    methods = [method for method in comparison.evaluated if len(method.runs) >= FEWEST]
    rng = np.random.default_rng(0)
    values = [[probability_of_improvement(a.scores, b.scores, rng, PAIR_RESAMPLES) for b in methods] for a in methods]
    return [method.name for method in methods], values


def _remarks(runs: Sequence[Run], common: Sequence[str]) -> list[str]:
    evaluated = [run for run in runs if run.evaluations]
    newest = [run.evaluations[-1] for run in evaluated]
    remarks = []
    if len(evaluated) < len(runs):
        missing = len(runs) - len(evaluated)
        remarks.append(f"{missing} of {len(runs)} runs {'has' if missing == 1 else 'have'} no evaluation.")
    if len(protocols := sorted({results.protocol for results in newest})) > 1:
        remarks.append(f"The protocols differ: {', '.join(protocols)}.")
    options = [changed_text(results) for results in newest]
    if options[0] and len(set(options)) == 1:
        remarks.append(f"All were evaluated with options that differ from the protocol: {options[0]}.")
    elif any(options):
        which = ", ".join(f"{run.name} ({text})" for run, text in zip(evaluated, options, strict=True) if text)
        remarks.append(f"Evaluated with options that differ from the protocol: {which}.")
    steps = [results.step for results in newest]
    if max(steps) - min(steps) > SIMILAR * max(steps):
        remarks.append(f"The evaluated policies differ in their training: {min(steps):,} to {max(steps):,} frames.")
    episodes = [task.n for results in newest for name, task in results.tasks.items() if name in common]
    if len(set(episodes)) > 1:
        remarks.append(f"The number of episodes of a task differs: {min(episodes)} to {max(episodes)}.")
    if any(len(results.tasks) > len(common) for results in newest):
        remarks.append(f"Only tasks that all of them have count: {', '.join(common)}.")
    return remarks


def changed_text(results: EvaluationResults) -> str:
    """The options that differ from the protocol, such as `episodes 5`."""
    return ", ".join(f"{name} {value}" for name, value in results.changed.items())


def _score(run: Run, task: str) -> float:
    return float(run.evaluations[-1].tasks[task].score.value)
