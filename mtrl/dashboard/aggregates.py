"""Methods side by side: what evaluations of several runs say together. Runs that differ only in their seed are one method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mtrl.dashboard.figures import groups_of
from mtrl.dashboard.runs import Run
from mtrl.evaluation.intervals import Estimate
from mtrl.evaluation.statistics import aggregate, interquartile_mean, mean, optimality_gap, probability_of_improvement


class Method(NamedTuple):
    """One method's newest evaluations, over the tasks that all methods have."""

    name: str
    scores: np.ndarray  # [runs, tasks]
    mean: Estimate
    iqm: Estimate
    gap: Estimate
    improvement: Estimate | None
    """Probability of improvement over the first method; None for the first."""


class Comparison(NamedTuple):
    """Methods with evaluations, and what has to be known to read them."""

    methods: list[Method]
    tasks: list[str]
    remarks: list[str]


def compare(runs: Sequence[Run]) -> Comparison | None:
    """Figures of every method with an evaluated run; None where fewer than two runs were evaluated or no task is common to all."""
    evaluated = [run for run in runs if run.evaluations]
    if len(evaluated) < 2:
        return None
    common = [task for task in evaluated[0].evaluations[-1].tasks if all(task in run.evaluations[-1].tasks for run in evaluated)]
    if not common:
        return None
    methods: list[Method] = []
    for name, members in groups_of(evaluated).items():
        scores = np.array([[_score(run, task) for task in common] for run in members])
        rng = np.random.default_rng(0)
        improvement = probability_of_improvement(scores, methods[0].scores, rng) if methods else None
        average, iqm, gap = (aggregate(scores, statistic, rng) for statistic in (mean, interquartile_mean, optimality_gap))
        methods.append(Method(name, scores, average, iqm, gap, improvement))
    return Comparison(methods, common, _remarks(evaluated, common))


def _remarks(runs: Sequence[Run], common: Sequence[str]) -> list[str]:
    newest = [run.evaluations[-1] for run in runs]
    protocols = sorted({results.protocol for results in newest})
    remarks = []
    if len(protocols) > 1:
        remarks.append(f"The protocols differ: {', '.join(protocols)}.")
    changed = [run.name for run, results in zip(runs, newest, strict=True) if results.changed]
    if changed:
        remarks.append(f"Not by their protocol's rules: {', '.join(changed)}.")
    if any(len(results.tasks) > len(common) for results in newest):
        remarks.append(f"Only tasks that all of them have count: {', '.join(common)}.")
    return remarks


def _score(run: Run, task: str) -> float:
    return float(run.evaluations[-1].tasks[task].score.value)
