"""Mastering rate (Willems et al. 2020): attend to tasks whose prerequisites are mastered and whose successors are not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from mtrl.config import ConfigError, Section
from mtrl.curriculum.evidence import Evidence
from mtrl.curriculum.scheduler import ProgressScheduler, RatedOptions


class MasteringRateOptions(RatedOptions):
    """Options of `mastering_rate`."""

    graph: dict[str, list[str]]
    """For each task the tasks that must be mastered before it; tasks that are not named need none."""
    power: float = Field(6.0, gt=0)
    """Exponent of the prerequisites' mastering rates."""
    gap_weight: float = Field(0.5, ge=0, le=1)
    """Share of attention given by what is left to master; the rest goes by the slope of the learning curve."""
    to_predecessors: float = Field(0.2, ge=0, le=1)
    """Part of a task's attention handed back to its prerequisites."""
    to_successors: float = Field(0.05, ge=0, le=1)
    """Part handed on."""


class MasteringRate(ProgressScheduler):
    """min(prerequisites)^p ((1-γ) slope + γ (1 - p)) (1 - min(successors)), of which parts go to predecessors and successors."""

    Options: ClassVar[type[Section]] = MasteringRateOptions

    def __init__(self, names: Sequence[str], options: Any):
        super().__init__(names, options)
        index = {name: i for i, name in enumerate(names)}
        for name in [*options.graph, *(before for needed in options.graph.values() for before in needed)]:
            if name not in index:
                raise ConfigError(f"curriculum.options.graph: no task {name!r}; tasks are {', '.join(names)}")
        self.before = np.zeros((len(names), len(names)), bool)  # [task, prerequisite]
        for name, needed in options.graph.items():
            self.before[index[name], [index[other] for other in needed]] = True
        self.ancestors = _closure(self.before)
        if self.ancestors.diagonal().any():
            raise ConfigError(f"curriculum.options.graph: {names[int(self.ancestors.diagonal().argmax())]} needs itself, through others")

    def weights(self, evidence: Evidence) -> np.ndarray:
        """Attention after it has been handed on."""
        rates, options = self.latest, self.options
        slopes = np.abs(self.gains) / max(np.abs(self.gains).max(), 1e-8)
        ready = _least(rates, self.ancestors) ** options.power
        left = 1.0 - np.where(self.before.any(axis=0), _least(rates, self.before.T), 0.0)
        attention = ready * ((1 - options.gap_weight) * slopes + options.gap_weight * (1 - rates)) * left
        return self._handed_on(attention)

    def _handed_on(self, attention: np.ndarray) -> np.ndarray:
        before = self.before.astype(float)  # a product of Booleans is slow
        predecessors, successors = before.sum(1), before.sum(0)
        back = np.where(predecessors > 0, self.options.to_predecessors, 0.0) * attention
        forth = np.where(successors > 0, self.options.to_successors, 0.0) * attention
        received = before.T @ (back / np.maximum(predecessors, 1)) + before @ (forth / np.maximum(successors, 1))
        return attention - back - forth + received


def _least(rates: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """For each row of the mask the least rate of those chosen; 1 where there is none."""
    return np.where(chosen, rates, 1.0).min(axis=1)


def _closure(before: np.ndarray) -> np.ndarray:
    """All that must come before each task, directly or through others: ways of twice as many steps in each round."""
    reached = before.copy()
    for _ in range(int(np.ceil(np.log2(max(2, len(before)))))):
        steps = reached.astype(np.float32)
        reached = reached | (steps @ steps > 0)
    return reached
