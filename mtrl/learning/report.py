"""The figures of one update, over its optimiser steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch

from mtrl.learning.batch import Batch
from mtrl.learning.minibatches import Minibatch
from mtrl.learning.objectives import Losses
from mtrl.parallel import Total


class Report:
    """The sums over the optimiser steps of one update."""

    def __init__(self) -> None:
        self.similarity: np.ndarray | None = None
        self.newest_entropies: tuple[torch.Tensor, Batch] | None = None  # [T, B] of the actor's newest step
        self.skipped_steps = 0
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._made: set[str] = set()  # parts of the policy that were updated
        self._skipped: dict[str, Minibatch] = {}  # the newest minibatch in which a part was not

    @property
    def begun(self) -> bool:
        """Whether there was a step."""
        return bool(self._made or self._skipped)

    def add(self, minibatch: Minibatch, losses: Losses, gradient_norm: float | None, total: Total) -> None:
        """Takes in a step; one that was not made, which has no `gradient_norm`, counts for nothing but `without_a_step`."""
        numbers = total(torch.stack(list(losses.metrics.values()))).tolist()
        made = gradient_norm is not None
        parts = [name for name, due in (("actor", minibatch.updates_actor), ("critic", minibatch.updates_critic)) if due]
        self.add_steps([*losses.metrics, "grad_norm"], [*numbers, gradient_norm or 0.0], int(made), int(not made), parts, minibatch)

    def add_steps(
        self, names: Sequence[str], sums: Sequence[float], made: int, skipped: int, parts: Sequence[str], minibatch: Minibatch | None
    ) -> None:
        """Takes in several steps of one kind.

        Args:
            names: of the figures.
            sums: of each figure, over the steps that were made.
            made: number of these.
            skipped: number of the others.
            parts: of the policy that these steps update.
            minibatch: the data of the newest of them; not needed where none was skipped.
        """
        self.skipped_steps += skipped
        if minibatch is not None and skipped:
            self._skipped |= dict.fromkeys(parts, minibatch)
        if made:
            self._made.update(parts)
            for name, value in zip(names, sums, strict=True):
                self._sums[name] += value
                self._counts[name] += made

    def means(self) -> dict[str, float]:
        """Means over the steps in which a figure occurred, and the number of the actor's steps."""
        return {name: value / self._counts[name] for name, value in self._sums.items()} | {"actor_steps": float(self._counts["entropy"])}

    def without_a_step(self) -> list[Minibatch]:
        """A minibatch of each part of the policy that should have been updated and never was."""
        return [minibatch for name, minibatch in self._skipped.items() if name not in self._made]
