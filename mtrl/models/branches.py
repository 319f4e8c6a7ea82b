"""Private branches: an encoder of each task's own beside the shared experts, as in Deep Safe Multi-Task Learning (Yue et al. 2021)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import gymnasium
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from mtrl.config import ModelConfig
from mtrl.models.activations import tanh
from mtrl.models.encoders import VectorEncoder, make_encoder

MOST_PADDING = 2.0  # rows of a batched product, padding included, for each row that is needed; with more, tasks are evaluated one by one


class Branch(nn.Module):
    """One task's encoder: one expert, and where its features are of another size than those of the shared experts, a layer to their size.

    Args:
        space: of the observations.
        model: the experiment's; `private_width` is the width of the layers.
        num_tasks: tasks of the suite, which have statistics of their own where observations are normalised.
        feature_size: numbers in a feature of the shared experts (D).
    """

    def __init__(self, space: gymnasium.spaces.Dict, model: ModelConfig, num_tasks: int, feature_size: int):
        super().__init__()
        width = model.width if model.private_width is None else model.private_width
        self.encoder = make_encoder(space, model.model_copy(update={"experts": 1, "width": width}), num_tasks)
        own_size = int(self.encoder.feature_size)  # type: ignore[arg-type]
        self.out = None if own_size == feature_size else nn.Linear(own_size, feature_size)

    def forward(self, obs: dict[str, Tensor], task_ids: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
        """The features of N observations."""
        features = self.encoder(obs, task_ids)[:, 0]
        return features if self.out is None else self.out(tanh(features))  # type: ignore[no-any-return]


class PrivateBranches(nn.Module):
    """A `Branch` for each task, which reads the rows of its task alone.

    Every parameter has the tasks as its first axis, so that it is one tensor however many tasks there are. Arguments as of `Branch`.
    """

    def __init__(self, space: gymnasium.spaces.Dict, model: ModelConfig, num_tasks: int, feature_size: int):
        super().__init__()
        self.feature_size = feature_size
        branches = [Branch(space, model, num_tasks, feature_size) for _ in range(num_tasks)]
        self.branch = branches[0]  # without `of` it computes nothing, since its parameters are those of all tasks
        others = [dict(branch.named_parameters()) for branch in branches]
        _replace_parameters(self.branch, {name: torch.stack([own[name].detach() for own in others]) for name in others[0]})
        for module in self.branch.modules():
            if isinstance(module, nn.RNNBase):
                module.flatten_parameters = _nothing  # type: ignore[method-assign]  # cuDNN cannot lay out those of several tasks as one
        self.same_operations = bool(getattr(self.branch.encoder, "same_operations", False))

    def forward(self, obs: dict[str, Tensor], task_ids: Int[Tensor, " N"], counts: Sequence[int]) -> Float[Tensor, "N D"]:
        """The feature of each row by its task's branch; `counts[task]` consecutive rows belong to each task."""
        if type(self.branch.encoder) is VectorEncoder and len(counts) * max(counts) <= MOST_PADDING * len(task_ids):
            return self._batched(self.branch.encoder, obs, task_ids, counts)
        return self._one_by_one(obs, task_ids, counts)

    def of(self, task: int) -> Branch:
        """A copy of one task's branch, without the others' parameters."""
        own = copy.deepcopy(self.branch)
        _replace_parameters(own, {name: parameter.detach()[task].clone() for name, parameter in own.named_parameters()})
        return own

    def _batched(self, encoder: VectorEncoder, obs: dict[str, Tensor], task_ids: Tensor, counts: Sequence[int]) -> Float[Tensor, "N D"]:
        """One product of matrices for each layer of all branches; tasks with fewer rows than others are filled up with zeros."""
        vectors = obs["vector"].float()
        if encoder.scale is not None:
            vectors = encoder.scale(vectors, task_ids)
        most = max(counts)
        even = min(counts) == most
        parts = vectors.split(list(counts))
        rows = (
            vectors.unflatten(0, (len(counts), most))
            if even
            else torch.stack([functional.pad(part, (0, 0, 0, most - len(part))) for part in parts])
        )
        layers: Any = encoder.experts[0]
        for layer in layers:
            rows = _linear(layer, rows) if isinstance(layer, nn.Linear) else layer(rows)
        if self.branch.out is not None:
            rows = _linear(self.branch.out, tanh(rows))
        return rows.flatten(0, 1) if even else torch.cat([of_task[:count] for of_task, count in zip(rows, counts, strict=True)])

    def _one_by_one(self, obs: dict[str, Tensor], task_ids: Tensor, counts: Sequence[int]) -> Float[Tensor, "N D"]:
        """Each task's branch on its rows."""
        parameters = {name: parameter.unbind() for name, parameter in self.branch.named_parameters()}
        features, start = [], 0
        for task, count in enumerate(counts):
            own = slice(start, start + count)
            start += count
            if count:
                weights = {name: of_tasks[task] for name, of_tasks in parameters.items()}
                rows = {name: array[own] for name, array in obs.items()}
                features.append(functional_call(self.branch, weights, (rows, task_ids[own])))
        return torch.cat(features) if features else torch.zeros(0, self.feature_size, device=task_ids.device)


def _linear(layer: nn.Linear, rows: Float[Tensor, "tasks R I"]) -> Float[Tensor, "tasks R O"]:
    """Each task's rows through its own weights [tasks, O, I]."""
    return torch.baddbmm(layer.bias.unsqueeze(1), rows, layer.weight.mT)


def _replace_parameters(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        owner, _, own_name = name.rpartition(".")
        setattr(module.get_submodule(owner), own_name, nn.Parameter(tensor))


def _nothing() -> None:
    """Takes the place of an operation that is not to be done."""
