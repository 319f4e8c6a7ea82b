"""Private branches in a form that a file can hold: rows come in any order of tasks, and no count of them is known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtrl.evaluation.export.encoders import portable_encoder
from mtrl.models.branches import Branch
from mtrl.models.policy import Trunk


class PortableBranches(nn.Module):
    """The average of the shared experts' feature with that of each row's private branch.

    Every branch reads all rows, and each row takes that of its task. Folded for a task, its branch alone is left.

    Args:
        trunk: with private branches.
        task: the one task that is left, or None.
        kind: of the task's observations, where the suite has several and a task is given.
    """

    def __init__(self, trunk: Trunk, task: int | None, kind: int | None):
        super().__init__()
        shares = trunk.gate.private_share()
        assert trunk.private is not None and shares is not None
        self._task = task
        tasks = range(len(shares)) if task is None else [task]
        self.branches = nn.ModuleList(_PortableBranch(trunk.private.of(each), kind) for each in tasks)
        self.shares: Tensor
        self.register_buffer("shares", shares.detach().clone()[list(tasks)].unsqueeze(1))

    def forward(self, shared: Tensor, obs: dict[str, Tensor], task_ids: Tensor) -> Tensor:
        """The mixed features.

        Args:
            shared: the squashed mixture of the shared experts, [N, D].
            obs: arrays of the observations, [N, ...].
            task_ids: of the rows, [N].
        """
        private, share = self.branches[0](obs, task_ids), self.shares[0]
        if self._task is None:
            share = self.shares[task_ids]
            for task, branch in enumerate(self.branches):
                private = torch.where((task_ids == task).unsqueeze(1), branch(obs, task_ids), private)
        return share * torch.tanh(private) + (1 - share) * shared


class _PortableBranch(nn.Module):
    """A `Branch` with a portable encoder."""

    def __init__(self, branch: Branch, kind: int | None):
        super().__init__()
        self.encoder, self.out = portable_encoder(branch.encoder, kind), branch.out

    def forward(self, obs: dict[str, Tensor], task_ids: Tensor) -> Tensor:
        features = self.encoder(obs, task_ids)[:, 0]
        return features if self.out is None else self.out(torch.tanh(features))
