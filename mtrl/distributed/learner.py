"""The learner as RLlib's LearnerGroup holds it, in this process or in actors that share each batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import ObjectLostError
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner

from envs import make_suite
from mtrl.learning.learner import Learner
from mtrl.parallel import alone, over_process_group
from mtrl.rollouts.rollout import Rollout, concatenate, take_slots

FETCH_SECONDS = 60.0  # for the rollouts of a batch to come to this node before they are waited for one after the other


class PolicyLearner(TorchLearner):
    """Wraps `mtrl.learning.learner.Learner`, which does all the learning; RLlib's losses, optimisers and connectors are not used."""

    core: Learner
    taken: Rollout | None = None  # this learner's part of the next batch

    def take(self, references: list[Any], slots: np.ndarray | None) -> list[int]:
        """Gets rollouts from Ray's store, of which this learner trains on the given slots (None: all) with the next update.

        Returns:
            the positions of those that are lost.
        """
        different = list(dict.fromkeys(references))
        ray.wait(different, num_returns=len(different), timeout=FETCH_SECONDS, fetch_local=True)  # all at the same time
        rollouts, lost = [], []
        for position, reference in enumerate(references):
            try:
                rollouts.append(ray.get(reference))
            except ObjectLostError:  # with the process or the node that held it
                lost.append(position)
        if not lost:
            joined = concatenate(rollouts)
            self.taken = joined if slots is None else take_slots(joined, slots)
        return lost

    def build(self) -> None:
        """Builds the module as RLlib does, and the learner, whose policy becomes the module's."""
        super().build()
        experiment = self.config.experiment()
        several = self.config.num_learners > 0
        if several and experiment.learner.threads is not None:
            torch.set_num_threads(experiment.learner.threads)
        self.core = Learner(
            experiment,
            make_suite(experiment.suite.name),
            device=torch.device(self._device) if several else None,
            rank=self._learner_index if several else 0,
            total=over_process_group if self.config.num_learners > 1 else alone,
        )
        self.module[DEFAULT_MODULE_ID].policy = self.core.policy

    def _make_modules_ddp_if_necessary(self) -> None:
        """Never: the core adds gradients up itself, together with the other figures that are taken over the whole batch."""

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """None: the core has its own."""

    def compute_loss_for_module(self, **kwargs: Any) -> Any:
        """Never called: the trainer updates the core."""
        raise RuntimeError("MultiTaskIMPALA's trainer updates mtrl.learning.learner.Learner directly; RLlib's update is not part of it")
