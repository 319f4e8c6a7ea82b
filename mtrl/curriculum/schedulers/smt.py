"""SMT (Cho et al. 2024): the hardest tasks in small groups, each until it is solved or its budget is spent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from mtrl.config import Section
from mtrl.curriculum.evidence import Evidence
from mtrl.curriculum.scheduler import RatedOptions, RatedScheduler

MAIN, TRAIN, SOLVED, UNSOLVABLE = range(4)
OBSERVATIONS = 3  # a task is solved or not by the mean over this many


class SMTOptions(RatedOptions):
    """Options of `smt`."""

    group: int = Field(3, ge=1)
    """Tasks trained at a time (K)."""
    frames: int = Field(0, ge=0)
    """Frames of the first stage, after which only what could not be solved is trained; 0 for `stage`."""
    stage: float = Field(0.5, gt=0, le=1)
    """The first stage as a share of the run's `total_frames`."""
    share: float = Field(0.8, gt=0, le=1)
    """Part of what is left of the budget that a task may use (κ)."""
    solved: float = Field(0.9, ge=0, le=1)
    """Success rate from which a task is solved."""
    hopeless: float = Field(0.1, ge=0, le=1)
    """Success rate up to which a task that spent its budget counts as unsolvable for now."""


class SMT(RatedScheduler):
    """Pools of waiting, trained, solved and unsolvable tasks. The networks are not reset between stages, as the paper does."""

    Options: ClassVar[type[Section]] = SMTOptions
    STATE = ("pools", "budgets", "started", "curves")

    def __init__(self, names: Sequence[str], options: Any):
        super().__init__(names, options)
        n = len(names)
        self.pools = np.full(n, MAIN)
        self.budgets = np.zeros(n)  # frames that a trained task may use
        self.started = np.zeros(n)  # its frames when it came into training
        self.curves = np.full((n, OBSERVATIONS), np.nan)

    def observe(self, due: np.ndarray, evidence: Evidence) -> None:
        """Moves tasks between the pools."""
        self.curves[due] = np.roll(self.curves[due], -1, axis=1)
        self.curves[due, -1] = self.latest[due]
        rates = np.where(np.isnan(self.curves), 0.0, self.curves).sum(1) / np.maximum(1, (~np.isnan(self.curves)).sum(1))
        enough = ~np.isnan(self.curves).any(axis=1)
        trained = (self.pools == TRAIN) | (self.pools == UNSOLVABLE)  # the latter in the second stage
        self.pools[trained & enough & (rates >= self.options.solved)] = SOLVED
        spent = (self.pools == TRAIN) & (evidence.frames - self.started >= self.budgets)
        self.pools[spent] = np.where(rates[spent] <= self.options.hopeless, UNSOLVABLE, MAIN)
        self._refill(evidence, rates)

    def weights(self, evidence: Evidence) -> np.ndarray:
        """All tasks in training the same; in the second stage, those that could not be solved."""
        if evidence.frames.sum() >= self._first_stage(evidence) and (self.pools == UNSOLVABLE).any():
            return (self.pools == UNSOLVABLE).astype(float)
        return (self.pools == TRAIN).astype(float)

    def _refill(self, evidence: Evidence, rates: np.ndarray) -> None:
        """The worst of those that wait come into training, once all tasks have been observed.

        Short episodes are successful ones, so that the first tasks to be observed are the easiest.
        """
        if (self.num_observations == 0).any():
            return
        left = max(0.0, self._first_stage(evidence) - float(evidence.frames.sum()))
        waiting = np.flatnonzero((self.pools == MAIN) & (self.num_observations > 0))
        places = self.options.group - int((self.pools == TRAIN).sum())
        for task in waiting[np.argsort(rates[waiting], kind="stable")][: max(0, places)]:
            self.pools[task] = TRAIN
            self.started[task] = evidence.frames[task]
            self.budgets[task] = self.options.share * left / max(1, len(waiting))

    def _first_stage(self, evidence: Evidence) -> float:
        return evidence.stage(self.options.frames, self.options.stage)
