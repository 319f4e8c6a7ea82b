"""Memory: an LSTM as in IMPALA, which reads the mixed feature, the raw observation, the last action and the last reward.

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
    """The inputs of an LSTM beside T + 1 observations: last actions and rewards, starts of episodes, and its initial state."""

    last_actions: Tensor  # [T + 1, B, ...]
    last_rewards: Float[Tensor, "T1 B"]
    starts: Bool[Tensor, "T1 B"]  # the observation is the first of its episode
    hidden: Float[Tensor, "B H"]  # before the first observation
    cell: Float[Tensor, "B H"]

    def select(self, slots: Tensor) -> Recurrence:
        """The entries of some slots."""
        return Recurrence(
            self.last_actions[:, slots], self.last_rewards[:, slots], self.starts[:, slots], self.hidden[slots], self.cell[slots]
        )


def recurrence_of(initial: dict[str, Tensor], actions: Tensor, rewards: Float[Tensor, "T B"], valid: Bool[Tensor, "T B"]) -> Recurrence:
    """The recurrence of a rollout. The step that is not valid is the reset, so the observation after it starts an episode."""
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
        feature_size: size of the mixed feature that `project` reads.
        hidden_size: units of the LSTM (H).
        distribution: the distribution of the actions, which encodes the last action.
        t_max: the longest time in steps that a unit keeps its state at initialisation.
        view: the part of the raw observation that `project` reads, if any.
    """

    def __init__(self, feature_size: int, hidden_size: int, distribution: Distribution, t_max: int, view: View | None = None):
        super().__init__()
        self.view = view
        feature_size += view.size if view is not None else 0
        self.hidden_size = hidden_size
        self._distribution = distribution
        self.feature_weight = nn.Parameter(torch.empty(4 * hidden_size, feature_size))
        self.event_weight = nn.Parameter(torch.empty(4 * hidden_size, distribution.num_features + 1))
        self.hidden_weight = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        # Gates in the order input, forget, candidate, output.
        self.bias = nn.Parameter(torch.zeros(4 * hidden_size))
        nn.init.xavier_uniform_(self.feature_weight)
        nn.init.xavier_uniform_(self.event_weight)
        for gate in range(4):
            nn.init.orthogonal_(self.hidden_weight.data[gate * hidden_size : (gate + 1) * hidden_size])
        # Chrono initialisation (Tallec and Ollivier 2018): a unit that forgets 1 / (1 + k) of its state in each step keeps it for k steps.
        forget = torch.empty(hidden_size).uniform_(1.0, max(1.0, t_max - 1.0)).log()
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
        """The observations' part of the sums that enter the four gates, [N, 4 H]."""
        if self.view is not None:
            features = torch.cat([features, self.view(obs, task_ids)], dim=-1)
        return functional.linear(features, self.feature_weight, self.bias).float()

    def unroll(self, projected: Float[Tensor, "T1 B G"], recurrence: Recurrence) -> Float[Tensor, "T1 B H"]:
        """The hidden state after each observation, [T1, B, H]."""
        inputs = projected + self._events(recurrence.last_actions, recurrence.last_rewards, recurrence.starts)
        keep = (~recurrence.starts).float().unsqueeze(-1)
        return Unroll.apply(inputs, keep, recurrence.hidden, recurrence.cell, self.hidden_weight)  # type: ignore[no-any-return, no-untyped-call]

    def step(self, projected: Float[Tensor, "B G"], memory: dict[str, Tensor]) -> tuple[Float[Tensor, "B H"], Float[Tensor, "B H"]]:
        """One observation: the new hidden and cell state of slots whose `memory` is laid out as by `initial`."""
        inputs = projected + self._events(memory["last_action"], memory["last_reward"], memory["start"])
        keep = (~memory["start"]).float().unsqueeze(-1)
        return self._cell(inputs, memory["hidden"] * keep, memory["cell"] * keep)

    def _events(self, actions: Tensor, rewards: Tensor, starts: Tensor) -> Tensor:
        """The part of the last action and the last reward, which is clipped to ±1 as IMPALA's: larger ones saturate the gates."""
        events = torch.cat([self._distribution.encode(actions), rewards.clamp(-1.0, 1.0).unsqueeze(-1)], dim=-1)
        events = events * (~starts).float().unsqueeze(-1)
        return functional.linear(events, self.event_weight).float()

    def _cell(self, inputs: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the cell; `inputs` [B, 4 H] are the sums that enter the gates, without the recurrent part."""
        input_gate, forget_gate, candidate, output_gate = (inputs + functional.linear(hidden, self.hidden_weight).float()).chunk(4, dim=-1)
        cell = torch.sigmoid(forget_gate) * cell + torch.sigmoid(input_gate) * torch.tanh(candidate)
        return torch.sigmoid(output_gate) * torch.tanh(cell), cell


class Unroll(torch.autograd.Function):
    """The LSTM over T steps, with a backward pass of its own: loops of few operations in buffers that are made once.

    With the sums a = inputs + h W^T, split into four gates, and k = `keep`, which clears the state where an episode begins:

        i = σ(a_i)   f = σ(a_f)   g = tanh(a_g)   o = σ(a_o)
        c' = f k c + i g          h' = o tanh(c')

    The matrices of a step are small, so that each operation costs more to start than to compute. What does not depend on the state is
    computed for all steps at once, and so is the gradient of the weights. States are cleared only in steps where some slot begins anew.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, keep: Tensor, hidden: Tensor, cell: Tensor, weight: Tensor) -> Tensor:
        """Hidden states [T, B, H] of `inputs` [T, B, 4 H]; `keep` [T, B, 1] is 0 where a step begins anew, `weight` [4 H, H]."""
        steps, slots, size = len(inputs), inputs.shape[1], hidden.shape[-1]
        transposed = weight.t().contiguous()
        # σ of the four sums in the order i, f, g, o. That of g is not used: leaving it out would cost more than computing it.
        gates = inputs.new_empty(steps, slots, 4, size)
        # [T, B, H] each: the candidate g; the cell state c at the beginning of a step, cleared where an episode begins; tanh(c'); h'.
        candidates, old_cells, tanh_cells, hiddens = inputs.new_empty(4, steps, slots, size)
        first = hidden
        torch.mul(cell, keep[0], out=old_cells[0])
        hidden = hidden * keep[0]
        last = torch.empty_like(cell)
        begins = _begins(keep)
        buffers = (candidates, old_cells, [*old_cells[1:], last], tanh_cells, hiddens)
        loop = zip(inputs, gates.flatten(2), *gates.unbind(2), *buffers, strict=True)
        for t, (sums, gate, i, f, a_g, o, g, c, new_c, tanh_c, h) in enumerate(loop):
            torch.addmm(sums, hidden, transposed, out=gate)
            torch.tanh(a_g, out=g)
            gate.sigmoid_()
            torch.mul(f, c, out=new_c).addcmul_(i, g)
            hidden = torch.mul(o, torch.tanh(new_c, out=tanh_c), out=h)
            if begins[t + 1]:
                new_c.mul_(keep[t + 1])
                hidden = hidden * keep[t + 1]
        ctx.save_for_backward(keep, weight, gates, candidates, old_cells, tanh_cells, hiddens, first)
        return hiddens

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor, Tensor, Tensor]:
        """Gradients of all arguments but `keep`."""
        keep, weight, gates, g, c, tanh_c, hiddens, first = ctx.saved_tensors
        i, f, _, o = gates.unbind(2)
        # Partial derivatives, [T, B, …, H]: of c' by the sums of i, f and g; of h' by the sum of o and by c'; of c' by the state before.
        cell_by_sums = torch.stack([g * i * (1 - i), c * f * (1 - f), i * (1 - g * g)], dim=2)
        hidden_by_sum = tanh_c * o * (1 - o)
        hidden_by_cell = o * (1 - tanh_c * tanh_c)
        cell_by_cell = f * keep
        # Gradients of the loss: by the sums of all steps, and by the states of the step that the loop is at.
        sums = torch.empty_like(gates)
        grad_hidden, grad_cell = gradient[-1].clone(), torch.zeros_like(first)
        begins = _begins(keep)
        outer = [torch.zeros_like(first), *gradient[:-1]]  # by h of the step before, from the outputs themselves
        of_steps = (cell_by_sums, hidden_by_sum, hidden_by_cell, cell_by_cell, sums[:, :, :3], sums[:, :, 3], sums.flatten(2))
        loop = zip(*(of_step.unbind(0) for of_step in of_steps), strict=True)
        for t, (c_by_sums, h_by_sum, h_by_c, c_by_c, sums_ifg, sum_o, flat) in reversed(list(enumerate(loop))):
            grad_cell.addcmul_(grad_hidden, h_by_c)
            torch.mul(c_by_sums, grad_cell.unsqueeze(1), out=sums_ifg)
            torch.mul(h_by_sum, grad_hidden, out=sum_o)
            grad_cell.mul_(c_by_c)
            if begins[t]:
                torch.mm(flat, weight, out=grad_hidden).mul_(keep[t]).add_(outer[t])
            else:
                torch.addmm(outer[t], flat, weight, out=grad_hidden)
        old_hidden = torch.cat([first.unsqueeze(0), hiddens[:-1]]) * keep
        flat = sums.flatten(2)
        return flat, None, grad_hidden, grad_cell, flat.flatten(0, 1).t() @ old_hidden.flatten(0, 1)


def _begins(keep: Float[Tensor, "T B 1"]) -> list[bool]:
    """Whether some slot begins anew at each step, and at the one after the last: none."""
    return [*(keep == 0).flatten(1).any(1).tolist(), False]
