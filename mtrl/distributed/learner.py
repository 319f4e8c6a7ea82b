"""The learner as RLlib's LearnerGroup holds it."""

from __future__ import annotations

from typing import Any

from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner

from envs import make_suite
from mtrl.learner import Learner


class PolicyLearner(TorchLearner):
    """Wraps `mtrl.learner.Learner`, which does all the learning; RLlib's losses, optimisers and connectors are not used."""

    core: Learner

    def build(self) -> None:
        """Builds the module as RLlib does, and the learner, whose policy becomes the module's."""
        super().build()
        experiment = self.config.experiment()
        self.core = Learner(experiment, make_suite(experiment.suite.name))
        self.module[DEFAULT_MODULE_ID].policy = self.core.policy

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """None: the core has its own."""

    def compute_loss_for_module(self, **kwargs: Any) -> Any:
        """Never called: the trainer updates the core."""
        raise RuntimeError("MultiTaskIMPALA's trainer updates mtrl.learner.Learner directly; RLlib's update is not part of it")
