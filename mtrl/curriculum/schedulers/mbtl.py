"""MBTL (Cho et al. 2024): contexts to train on are chosen one at a time by a model of how policies transfer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from mtrl.config import Section
from mtrl.curriculum.evidence import Evidence
from mtrl.curriculum.scheduler import RatedOptions, RatedScheduler
from mtrl.curriculum.schedulers.mbtl_model import TransferModel


class MBTLOptions(RatedOptions):
    """Options of `mbtl`."""

    frames: int = Field(0, ge=0)
    """Frames of a stage, after which another context is chosen; 0 for `stage`."""
    stage: float = Field(0.1, gt=0, le=1)
    """The same as a share of the run's `total_frames`."""
    sources: int = Field(5, ge=1)
    """Contexts that are chosen in all; afterwards they go on together."""
    slope: float = Field(0.5, ge=0)
    """Score lost from one end of the contexts' range to the other (θ)."""
    noise: float = Field(0.1, gt=0)
    """Deviation of a measured score."""


class MBTL(RatedScheduler):
    """All sources alike; another one is chosen whenever they have had the frames of a stage together.

    The paper trains a policy for each source and keeps all of them. Here one policy learns all, so those chosen before are trained on with
    the newest. `bench transfer` does as the paper does.
    """

    Options: ClassVar[type[Section]] = MBTLOptions
    STATE = ("order", "performance", "frames_at_start")

    def __init__(self, names: Sequence[str], options: Any):
        super().__init__(names, options)
        n = len(names)
        self.order = np.full(n, -1)  # when each task was chosen, -1 for never
        self.performance = np.full(n, np.nan)  # score of a source when its frames were over
        self.frames_at_start = np.float64(0)  # of all sources, when the newest one was chosen

    def observe(self, due: np.ndarray, evidence: Evidence) -> None:
        """Chooses the next source when the newest has had its frames."""
        if (self.num_observations == 0).any():
            return
        chosen = np.flatnonzero(self.order >= 0)
        if len(chosen):
            newest = int(self.order.argmax())
            if evidence.frames[chosen].sum() - self.frames_at_start < evidence.stage(self.options.frames, self.options.stage):
                return
            self.performance[newest] = evidence.scores[newest]
            if len(chosen) >= min(self.options.sources, len(self.names)):
                return
        contexts = np.arange(len(self.names), dtype=float) if evidence.contexts is None else np.asarray(evidence.contexts, float)
        taken = TransferModel(contexts, self.options.slope, self.options.noise).next(chosen, self.performance[chosen])
        self.order[taken] = len(chosen)
        self.frames_at_start = np.float64(evidence.frames[self.order >= 0].sum())

    def weights(self, evidence: Evidence) -> np.ndarray:
        """All sources alike."""
        return (self.order >= 0).astype(float)

    def tasks_changed(self) -> None:
        """Sources are chosen anew: the range of contexts may be another one."""
        self.order[:] = -1
        self.performance[:] = np.nan
