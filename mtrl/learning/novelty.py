"""A bonus for observations that are new: random network distillation (RND, Burda et al. 2018) and NovelD (Zhang et al. 2021).

A network learns to predict the output of another one with random weights that never change. Its error is large for observations that it
has not been trained on, and falls with the number of visits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from envs import TaskSuite
from envs.observations import MASK
from mtrl.config import ModelConfig, NoveltyConfig
from mtrl.learning.batch import Batch
from mtrl.learning.optimizers import in_order_of, load_state
from mtrl.models.encoders import make_encoder
from mtrl.models.normalization import ObservationScale
from mtrl.models.rows import Rows
from mtrl.models.view import View
from mtrl.parallel import Total, add_up, alone

CODE_SIZE = 128  # numbers that are predicted
HIDDEN_SIZE = 256


class Novelty:
    """Rewards novelty, and learns what is known.

    The novelty n(x) of an observation x is the mean squared error of the prediction, for each task's observations by themselves. The bonus
    of a step to x' from x is n(x') (`rnd`) or max(n(x') - α n(x), 0) (`noveld`), in units of its root mean square over all of the task's
    steps so far; with `episodic` it is 0 where the episode has shown x' before.

    Args:
        config: the settings.
        model: of the policy; the networks read observations as its encoders do.
        suite: the tasks.
        device: of the learner.
        seed: of the networks' weights.
    """

    def __init__(self, config: NoveltyConfig, model: ModelConfig, suite: TaskSuite, device: torch.device, seed: int):
        self._config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._target = _Network(model, suite, layers=1).to(device).requires_grad_(False)
            self._predictor = _Network(model, suite, layers=2).to(device)
        self._optimizer = torch.optim.Adam(self._predictor.parameters(), lr=config.learning_rate)
        self._steps = torch.zeros(suite.num_tasks, dtype=torch.float64, device=device)  # of each task so far
        self._squares = torch.zeros(suite.num_tasks, dtype=torch.float64, device=device)  # sums of its squared bonuses

    @torch.no_grad()
    def bonuses(self, batch: Batch, first_visits: np.ndarray | None, total: Total = alone) -> Float[Tensor, "T B"]:
        """The bonus of each step, in units of the task's root mean square; takes the batch in for that first.

        Args:
            batch: T steps of B slots.
            first_visits: whether observation t + 1 is the first one of its kind in its episode, [T, B]; None where nobody has looked.
            total: adds up over all learners.
        """
        observations = batch.observations
        novelty = self._errors(observations.rows)[observations.inverse]
        bonuses = novelty[1:]
        if self._config.rule == "noveld":
            bonuses = (bonuses - self._config.previous * novelty[:-1]).clamp(min=0)
        if first_visits is not None:
            bonuses = bonuses * torch.from_numpy(np.array(first_visits)).to(bonuses.device)
        bonuses = torch.where(batch.valid, bonuses, 0.0)
        zeros = torch.zeros_like(self._steps)
        counted = _counted(batch)
        sums = (counted.sum(0).double(), (bonuses * counted).double().square().sum(0))
        steps, squares = add_up([zeros.index_add(0, observations.task_ids, each) for each in sums], total)
        self._steps += steps
        self._squares += squares
        scale = (self._squares / self._steps.clamp(min=1)).sqrt().float()
        return bonuses / scale.clamp(min=torch.finfo(torch.float32).tiny)[observations.task_ids]

    def learn(self, batch: Batch, total: Total = alone) -> float:
        """Brings the prediction closer for what the batch shows, each observation as often as it was seen; returns the error before."""
        weights = self._visits(batch)
        for module in (*self._target.modules(), *self._predictor.modules()):
            if isinstance(module, ObservationScale | View):
                module.observe(batch.observations.rows.obs, batch.observations.rows.task_ids, weights, total)
        weights = weights / total(weights.sum()).clamp(min=1)
        errors = []
        for _ in range(self._config.updates):
            loss = (weights * self._errors(batch.observations.rows)).sum()
            errors.append(loss.detach())
            self._optimizer.zero_grad()
            loss.backward()
            # Without rows of a kind of observations there are no gradients of its encoder; another learner may have some.
            parameters = list(self._predictor.parameters())
            gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
            for parameter, gradient in zip(parameters, add_up(gradients, total), strict=True):
                parameter.grad = in_order_of(gradient, parameter)
            self._optimizer.step()
        return float(total(errors[0]))

    def weight_at(self, progress: float) -> float:
        """The weight of the bonuses in the reward after this share of the training."""
        return self._config.weight * (max(0.0, 1.0 - progress) if self._config.decay else 1.0)

    def state_dict(self) -> dict[str, Any]:
        """The networks, the optimiser and the scale of the bonuses."""
        return {
            "target": self._target.state_dict(),
            "predictor": self._predictor.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "steps": self._steps.clone(),
            "squares": self._squares.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`."""
        self._target.load_state_dict(state["target"])
        self._predictor.load_state_dict(state["predictor"])
        load_state(self._optimizer, state["optimizer"])
        self._steps.copy_(state["steps"])
        self._squares.copy_(state["squares"])

    def _errors(self, rows: Rows) -> Float[Tensor, " N"]:
        with torch.no_grad():
            wanted = self._target(rows)
        errors: Tensor = (self._predictor(rows) - wanted).square().mean(-1)
        return errors

    def _visits(self, batch: Batch) -> Float[Tensor, " N"]:
        """The number of times that each row's observation was seen, at the beginning of an episode or after a step that counts."""
        places: Tensor = batch.observations.inverse[1:].flatten()
        seen = (_counted(batch) | ~batch.valid).float().flatten()
        return torch.zeros(len(batch.observations.rows.task_ids), device=places.device).index_add(0, places, seen)


def _counted(batch: Batch) -> Bool[Tensor, "T B"]:
    """The steps that something is learned from; not those on levels that are only rated."""
    return batch.valid & (batch.weights > 0)


class _Network(nn.Module):
    """An encoder as the policy's with one expert, the task's own offset, and layers."""

    def __init__(self, model: ModelConfig, suite: TaskSuite, *, layers: int):
        super().__init__()
        self.encoder = make_encoder(suite.observation_space, model.model_copy(update={"experts": 1, "width": 1}), suite.num_tasks)
        self.enter = nn.Linear(int(self.encoder.feature_size), HIDDEN_SIZE)  # type: ignore[arg-type]
        self.task = nn.Embedding(suite.num_tasks, HIDDEN_SIZE)
        self.hidden = nn.ModuleList(nn.Linear(HIDDEN_SIZE, HIDDEN_SIZE) for _ in range(layers - 1))
        self.leave = nn.Linear(HIDDEN_SIZE, CODE_SIZE)

    def forward(self, rows: Rows) -> Float[Tensor, "N C"]:
        """The code of each row."""
        obs = {name: array for name, array in rows.obs.items() if name != MASK}
        x = torch.relu(self.enter(self.encoder(obs, rows.task_ids).squeeze(1)) + self.task(rows.task_ids))
        for layer in self.hidden:
            x = torch.relu(layer(x))
        code: Tensor = self.leave(x)
        return code


def make_novelty(config: NoveltyConfig, model: ModelConfig, suite: TaskSuite, device: torch.device, seed: int) -> Novelty | None:
    """The bonus that the experiment asks for; None where its weight is 0."""
    return Novelty(config, model, suite, device, seed) if config.weight > 0 else None
