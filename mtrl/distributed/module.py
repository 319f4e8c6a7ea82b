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
    """Wraps `mtrl.models.Policy`.

    Batches have the observations under `obs`, as a dictionary of arrays or as the one array that the tasks observe, and `task_ids`, which
    ascend; without them all rows are of the first task. `action_dist_inputs` are the parameters of `policy.actor.distribution`.
    """

    def setup(self) -> None:
        """Builds the policy of the experiment in `model_config`."""
        experiment = parse_config(self.model_config["experiment"])
        suite = make_suite(experiment.suite.name)
        self.num_tasks, self._observed = suite.num_tasks, tuple(suite.observation_space)
        self.policy: Policy = build_policy(experiment.model, suite, experiment.seed)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        if self.policy.actor.memory is not None:
            raise NotImplementedError(
                "a policy with a memory is not a function of observations alone: use `launch.py export`, or evaluate()"
            )
        given = batch[Columns.OBS]
        obs = {name: np.asarray(array) for name, array in (given.items() if isinstance(given, dict) else [(self._observed[0], given)])}
        task_ids = np.asarray(batch["task_ids"] if "task_ids" in batch else np.zeros(len(next(iter(obs.values()))), np.int64))
        device = next(self.policy.parameters()).device
        rows = make_rows(obs, task_ids, self.num_tasks, torch.device(device))
        acted, valued = self.policy(single_steps(rows))
        return {Columns.ACTION_DIST_INPUTS: acted.parameters[0], Columns.VF_PREDS: valued.values[0]}
