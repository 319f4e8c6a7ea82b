"""The policy as an RLModule, so that RLlib's tools find it where they look for one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule

from envs import make_suite
from mtrl.config import parse_config
from mtrl.models.policy import Policy, build_policy
from mtrl.models.rows import make_rows, single_steps


class PolicyModule(TorchRLModule):
    """Wraps `mtrl.models.Policy`. Batches need `task_ids`, ascending, beside the observations."""

    def setup(self) -> None:
        """Builds the policy of the experiment in `model_config`."""
        experiment = parse_config(self.model_config["experiment"])
        suite = make_suite(experiment.suite.name)
        self.num_tasks = suite.num_tasks
        self.policy: Policy = build_policy(experiment.model, suite, experiment.seed)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        obs = {name: np.asarray(array) for name, array in batch[Columns.OBS].items()}
        device = next(self.policy.parameters()).device
        rows = make_rows(obs, np.asarray(batch["task_ids"]), self.num_tasks, torch.device(device))
        acted, valued = self.policy(single_steps(rows))
        return {Columns.ACTION_DIST_INPUTS: acted.parameters[0], Columns.VF_PREDS: valued.values[0]}
