"""The number of rollouts in a batch, which follows the number of runners that send some."""

from __future__ import annotations

from typing import Literal

from mtrl.config import ExperimentConfig

LEAST_UPDATES = 50
MANY_RUNNERS = 4
LAG = 3  # updates; the age of a policy when it is learned from, about
MISSED = 3  # rollouts that the others send on average, after which a runner no longer counts


class BatchSize:
    """As many rollouts as the experiment says, or a part of the runners that are heard of.

    While a runner makes an unroll each of the n others sends one. With k rollouts in a batch that makes n / k updates, by which the policy
    of the rollout is old when it arrives. So k grows with n. What counts are the runners that keep up with the others: a slow one must not
    make the learner wait.

    Args:
        wanted: rollouts in a batch, or `auto`.
        learners: processes that divide a batch. `auto` gives each of them as many whole rollouts where there are enough; of rollouts that
            cannot be dealt out evenly each learner has to fetch all.
    """

    def __init__(self, wanted: int | Literal["auto"], learners: int = 1):
        self._wanted, self._learners = wanted, max(1, learners)
        self._arrived = 0
        self._newest: dict[int, int] = {}  # by runner: how many rollouts had arrived with its newest one

    def hear_of(self, runner: int) -> None:
        """Takes in that a rollout of this runner has arrived."""
        self._arrived += 1
        self._newest[runner] = self._arrived

    @property
    def rollouts(self) -> int:
        """Rollouts in the next batch."""
        if self._wanted != "auto":
            return self._wanted
        oldest = self._arrived - MISSED * len(self._newest)
        present = sum(newest > oldest for newest in self._newest.values())
        rollouts = max(1, -(-present // LAG))
        even = -(-rollouts // self._learners) * self._learners
        return even if even <= present else rollouts


def few_updates(config: ExperimentConfig) -> str | None:
    """A sentence about a run of fewer than `LEAST_UPDATES` updates because of batches that grow with the number of runners, else None."""
    runners = config.env_runners
    if config.learner.rollouts_per_update != "auto" or runners.num_env_runners < MANY_RUNNERS:
        return None
    frames = -(-runners.num_env_runners // LAG) * runners.slots * runners.unroll_length
    updates = round(config.total_frames / frames)
    if updates >= LEAST_UPDATES:
        return None
    return (
        f"batches of {runners.num_env_runners} runners have {frames:,} frames, and total_frames {config.total_frames:,} makes {updates} "
        "updates: raise total_frames, or choose an experiment for large batches, such as minigrid_mt7_large_batch"
    )
