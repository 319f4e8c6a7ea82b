"""Memory: an LSTM as in IMPALA, which reads the mixed feature, what is in sight, the last action and the last reward.

Its largest product, the input weights times the feature, depends on the observation alone and is computed once for each distinct one;
only the recurrent part runs step by step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from envs.vector import Arrays
from mtrl.models.distributions import Distribution
from mtrl.models.view import View


class Recurrence(NamedTuple):
    """What a memory reads of T + 1 observations besides the observations. At an episode's first one nothing has happened yet."""

    last_actions: Tensor  # [T + 1, B, ...]
    last_rewards: Float[Tensor, "T1 B"]
    starts: Bool[Tensor, "T1 B"]  # the observation is the first of its episode
    hidden: Float[Tensor, "B H"]  # before the first observation
    cell: Float[Tensor, "B H"]

    def select(self, slots: Tensor) -> Recurrence:
        """That of some slots."""
        return Recurrence(
            self.last_actions[:, slots], self.last_rewards[:, slots], self.starts[:, slots], self.hidden[slots], self.cell[slots]
        )


def recurrence_of(initial: dict[str, Tensor], actions: Tensor, rewards: Float[Tensor, "T B"], valid: Bool[Tensor, "T B"]) -> Recurrence:
    """From a rollout's `initial_memory` and steps. The step that is not valid is the reset, so what follows it begins an episode."""
    return Recurrence(
        last_actions=torch.cat([initial["last_action"].unsqueeze(0), actions]),
        last_rewards=torch.cat([initial["last_reward"].unsqueeze(0), rewards]),
        starts=torch.cat([initial["start"].unsqueeze(0), ~valid]),
        hidden=initial["hidden"],
        cell=initial["cell"],
    )


class Memory(nn.Module):
    """An LSTM cell in two parts: `project` for observations, `step` for time.

    Args:
        feature_size: of what `project` reads.
        hidden_size: units.
        distribution: of the actions that it reads.
        span: steps that its units keep what they hold at the start, from one to this many.
        view: what `project` reads of the observation itself.
    """

    def __init__(self, feature_size: int, hidden_size: int, distribution: Distribution, span: int, view: View | None = None):
        super().__init__()
        self.view = view
        feature_size += view.size if view is not None else 0
        self.hidden_size = hidden_size
        self._distribution = distribution
        self.feature_weight = nn.Parameter(torch.empty(4 * hidden_size, feature_size))
        self.event_weight = nn.Parameter(torch.empty(4 * hidden_size, distribution.num_features + 1))
        self.hidden_weight = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        # Gates in the order input, forget, cell, output.
        self.bias = nn.Parameter(torch.zeros(4 * hidden_size))
        nn.init.xavier_uniform_(self.feature_weight)
        nn.init.xavier_uniform_(self.event_weight)
        for gate in range(4):
            nn.init.orthogonal_(self.hidden_weight.data[gate * hidden_size : (gate + 1) * hidden_size])
        # Tallec and Ollivier 2018: a unit that forgets 1 / (1 + k) of its state in each step and takes in as much keeps it for k steps.
        forget = torch.empty(hidden_size).uniform_(1.0, max(1.0, span - 1.0)).log()
        self.bias.data[:hidden_size], self.bias.data[hidden_size : 2 * hidden_size] = -forget, forget

    def initial(self, slots: int) -> Arrays:
        """The memory of slots whose episode begins: a rollout's `initial_memory`."""
        return {
            "hidden": np.zeros((slots, self.hidden_size), np.float32),
            "cell": np.zeros((slots, self.hidden_size), np.float32),
            "last_action": self._distribution.no_action(slots),
            "last_reward": np.zeros(slots, np.float32),
            "start": np.ones(slots, bool),
        }

    def project(self, features: Float[Tensor, "N D"], obs: dict[str, Tensor], task_ids: Int[Tensor, " N"]) -> Float[Tensor, "N G"]:
        """What observations contribute to the four gates."""
        if self.view is not None:
            features = torch.cat([features, self.view(obs, task_ids)], dim=-1)
        return functional.linear(features, self.feature_weight, self.bias).float()

    def unroll(self, projected: Float[Tensor, "T1 B G"], recurrence: Recurrence) -> Float[Tensor, "T1 B H"]:
        """What the memory holds after each observation."""
        inputs = projected + self._events(recurrence.last_actions, recurrence.last_rewards, recurrence.starts)
        keep = (~recurrence.starts).float().unsqueeze(-1)
        return Unroll.apply(inputs, keep, recurrence.hidden, recurrence.cell, self.hidden_weight)  # type: ignore[no-any-return, no-untyped-call]

    def step(self, projected: Float[Tensor, "B G"], memory: dict[str, Tensor]) -> tuple[Float[Tensor, "B H"], Float[Tensor, "B H"]]:
        """One observation: the new hidden and cell state of slots whose `memory` is laid out as by `initial`."""
        inputs = projected + self._events(memory["last_action"], memory["last_reward"], memory["start"])
        keep = (~memory["start"]).float().unsqueeze(-1)
        return self._cell(inputs, memory["hidden"] * keep, memory["cell"] * keep)

    def _events(self, actions: Tensor, rewards: Tensor, starts: Tensor) -> Tensor:
        events = torch.cat([self._distribution.encode(actions), rewards.unsqueeze(-1)], dim=-1) * (~starts).float().unsqueeze(-1)
        return functional.linear(events, self.event_weight).float()

    def _cell(self, inputs: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        gates = inputs + functional.linear(hidden, self.hidden_weight).float()
        take, forget, new, show = gates.chunk(4, dim=-1)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(take) * torch.tanh(new)
        return torch.sigmoid(show) * torch.tanh(cell), cell


class Unroll(torch.autograd.Function):
    """The cell, step by step, with a way back of its own: loops of few operations in buffers made once.

    A step's matrices are small, so that each operation costs more to start than to compute. What does not depend on what is carried from
    step to step is computed for all of them at once, and so is the gradient of the weights; states are cleared only in steps where some
    slot begins anew.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, keep: Tensor, hidden: Tensor, cell: Tensor, weight: Tensor) -> Tensor:
        """Hidden states [T, B, H] of `inputs` [T, B, 4 H]; `keep` [T, B, 1] is 0 where a step begins anew, `weight` [4 H, H]."""
        steps, slots, size = len(inputs), inputs.shape[1], hidden.shape[-1]
        transposed = weight.t().contiguous()
        # The gates after their sigmoids; only the third one's is of no use, and cheaper made with the others than left out.
        gates = inputs.new_empty(steps, slots, 4, size)
        # What the third lets in; the state that a step begins with, after clearing; the tanh of its new one; what it shows.
        new, old_cell, squashed, shown = inputs.new_empty(4, steps, slots, size)
        first = hidden
        torch.mul(cell, keep[0], out=old_cell[0])
        hidden = hidden * keep[0]
        last = torch.empty_like(cell)
        begins = _begins(keep)
        loop = zip(inputs, gates.flatten(2), *gates.unbind(2), new, old_cell, [*old_cell[1:], last], squashed, shown, strict=True)
        for t, (given, gate, take, forget, raw, show, let_in, old, state, tanh, held) in enumerate(loop):
            torch.addmm(given, hidden, transposed, out=gate)
            torch.tanh(raw, out=let_in)
            gate.sigmoid_()
            torch.mul(forget, old, out=state).addcmul_(take, let_in)
            hidden = torch.mul(show, torch.tanh(state, out=tanh), out=held)
            if begins[t + 1]:
                state.mul_(keep[t + 1])
                hidden = hidden * keep[t + 1]
        ctx.save_for_backward(keep, weight, gates, new, old_cell, squashed, shown, first)
        return shown

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor, Tensor, Tensor]:
        """Of all arguments but `keep`."""
        keep, weight, gates, new, old_cell, squashed, shown, first = ctx.saved_tensors
        take, forget, _, show = gates.unbind(2)
        # How the sums that enter the gates move the new cell state, and those of the last gate the hidden state.
        cell_by_sums = torch.stack([new * take * (1 - take), old_cell * forget * (1 - forget), take * (1 - new * new)], dim=2)
        hidden_by_sums = squashed * show * (1 - show)
        hidden_by_cell = show * (1 - squashed * squashed)
        cell_by_cell = forget * keep
        sums = torch.empty_like(gates)
        hidden, cell = gradient[-1].clone(), torch.zeros_like(first)
        begins = _begins(keep)
        before = [torch.zeros_like(first), *gradient[:-1]]  # what else the hidden state is asked for by, one step earlier
        of_steps = (cell_by_sums, hidden_by_sums, hidden_by_cell, cell_by_cell, sums[:, :, :3], sums[:, :, 3], sums.flatten(2))
        loop = zip(*(of_step.unbind(0) for of_step in of_steps), strict=True)
        for t, (by_sums, shown_by_sums, by_cell, kept, to_cell, to_shown, flat) in reversed(list(enumerate(loop))):
            cell.addcmul_(hidden, by_cell)
            torch.mul(by_sums, cell.unsqueeze(1), out=to_cell)
            torch.mul(shown_by_sums, hidden, out=to_shown)
            cell.mul_(kept)
            if begins[t]:
                torch.mm(flat, weight, out=hidden).mul_(keep[t]).add_(before[t])
            else:
                torch.addmm(before[t], flat, weight, out=hidden)
        old_hidden = torch.cat([first.unsqueeze(0), shown[:-1]]) * keep
        flat = sums.flatten(2)
        return flat, None, hidden, cell, flat.flatten(0, 1).t() @ old_hidden.flatten(0, 1)


def _begins(keep: Float[Tensor, "T B 1"]) -> list[bool]:
    """Whether some slot begins anew at each step, and at the one after the last: none."""
    return [*(keep == 0).flatten(1).any(1).tolist(), False]
