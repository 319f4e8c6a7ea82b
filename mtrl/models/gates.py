"""Gates: the weights of the experts for each task. A gate maps task ids [N] to weights [N, K]; `GATES` gives it a name.

Where tasks have vectors (`mtrl.models.conditioning`), a layer that reads them gives the numbers that a `LinearGate` has for each task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from mtrl.config import ConfigError, ModelConfig, look_up
from mtrl.models.conditioning import TaskVectors


class Gate(nn.Module, ABC):
    """The weights of the experts for each task."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors: TaskVectors | None = None
        """The tasks' vectors, which the trunk appends to the mixed feature; None where tasks have none."""

    @abstractmethod
    def task_weights(self) -> Float[Tensor, "tasks K"]:
        """The weights of every task."""

    def forward(self, task_ids: Int[Tensor, " N"]) -> Float[Tensor, "N K"]:
        """The weights of the experts for rows of the given tasks."""
        return self.task_weights()[task_ids]

    def seed(self, seed: int) -> None:
        """Begins the gate's random numbers, if it draws some while learning."""

    def regularizer(self) -> Float[Tensor, ""] | None:
        """A term that `learner.gate_cost` weighs in the loss; None for gates without one."""
        return None

    def private_share(self) -> Float[Tensor, " tasks"] | None:
        """The share, 0 to 1, of each task's private branch in its mixed feature; None for gates without private branches."""
        return None


class LinearGate(Gate):
    """MOORE's task weights: a number for each task and expert, neither normalised nor made positive.

    The numbers are free, or with `read_vectors` a linear layer of the task's vector, as the free ones are of a one-hot vector.
    """

    def __init__(self, num_tasks: int, num_experts: int):
        super().__init__()
        self.weight: nn.Parameter | None = nn.Parameter(torch.empty(num_tasks, num_experts))
        # The initial values of a linear layer that reads the task as one-hot.
        nn.init.uniform_(self.weight, -(num_tasks**-0.5), num_tasks**-0.5)
        self.layer: nn.Linear | None = None

    def read_vectors(self, vectors: TaskVectors) -> None:
        """Replaces the free numbers by a linear layer of the tasks' vectors."""
        assert self.weight is not None
        self.layer = nn.Linear(vectors.size, self.weight.shape[1])
        self.weight = None

    def numbers(self) -> Float[Tensor, "tasks K"]:
        """What the rule of the gate makes the weights of."""
        if self.weight is not None:
            return self.weight
        assert self.layer is not None and self.vectors is not None
        return self.layer(self.vectors())  # type: ignore[no-any-return]

    def task_weights(self) -> Float[Tensor, "tasks K"]:
        """The weights of every task."""
        return self.numbers()


class SoftmaxGate(LinearGate):
    """Positive weights that sum to 1."""

    def task_weights(self) -> Float[Tensor, "tasks K"]:
        """The weights of every task."""
        return self.numbers().softmax(-1)


class TopKGate(LinearGate):
    """A softmax over each task's k largest entries; the other experts get 0 and no gradient from the task."""

    def __init__(self, num_tasks: int, num_experts: int, k: int):
        super().__init__(num_tasks, num_experts)
        if k > num_experts:
            raise ConfigError(f"model.gate_experts is {k}, but there are {num_experts} experts to choose from")
        self._k = k

    def task_weights(self) -> Float[Tensor, "tasks K"]:
        """The weights of every task."""
        numbers = self.numbers()
        largest = numbers.topk(self._k, dim=-1)
        return torch.zeros_like(numbers).scatter(-1, largest.indices, largest.values.softmax(-1))


class DSelectKGate(Gate):
    """DSelect-k (Hazimeh et al. 2021): k selectors, each a product of smoothed binary digits that name an expert, mixed by a softmax.

    Digits saturate at exactly 0 and 1, so that a trained gate is sparse and yet was differentiable on the way.
    """

    WIDTH = 1.0  # γ of the smooth step

    def __init__(self, num_tasks: int, num_experts: int, k: int):
        super().__init__()
        digits = max(1, (num_experts - 1).bit_length())
        self.digits = nn.Parameter(torch.empty(num_tasks, k, digits).uniform_(-self.WIDTH / 100, self.WIDTH / 100))
        self.mixture = nn.Parameter(torch.zeros(num_tasks, k))
        self.codes: Tensor
        codes = (torch.arange(num_experts)[:, None] >> torch.arange(digits)) & 1
        self.register_buffer("codes", codes.bool(), persistent=False)

    def task_weights(self) -> Float[Tensor, "tasks K"]:
        """The weights of every task."""
        steps = smooth_step(self.digits, self.WIDTH).unsqueeze(-2)  # [tasks, k, 1, digits]
        selectors = torch.where(self.codes, steps, 1 - steps).prod(-1)  # [tasks, k, K]
        # Codes that name no expert (K not a power of 2) take their share with them; what is left is made to sum to 1.
        selectors = selectors / selectors.sum(-1, keepdim=True).clamp(min=1e-6)
        return torch.einsum("ts,tsk->tk", self.mixture.softmax(-1), selectors)

    def regularizer(self) -> Float[Tensor, ""]:
        """The paper's two: the selectors' entropy, which falls to 0 as digits become 0 and 1, and the reciprocal of their sums over
        experts, which keeps them off codes that name none. Means over tasks and selectors.
        """
        steps = smooth_step(self.digits, self.WIDTH).unsqueeze(-2)
        selectors = torch.where(self.codes, steps, 1 - steps).prod(-1)
        entropy = -(selectors * selectors.clamp(min=1e-6).log()).sum(-1)
        reachable = selectors.sum(-1).clamp(min=1e-6)
        return (entropy + 1 / reachable - 1).mean()


def smooth_step(x: Tensor, width: float) -> Tensor:
    """0 below -width/2, 1 above width/2, and the cubic between them that is smooth at both ends."""
    x = x.clamp(-width / 2, width / 2)
    return -2 * x**3 / width**3 + 1.5 * x / width + 0.5


class SkillsGate(LinearGate):
    """Polytropon's task-skill matrix (Ponti et al. 2022): each task uses a soft subset of the experts in equal parts.

    Membership is a relaxed Bernoulli variable while learning and its mean otherwise; rows are normalised by the number of members.
    """

    TEMPERATURE = 1.0

    def __init__(self, num_tasks: int, num_experts: int):
        super().__init__(num_tasks, num_experts)
        self._seed = self._draws = 0

    def seed(self, seed: int) -> None:
        """Begins the noise of the relaxed memberships."""
        self._seed, self._draws = seed, 0

    def task_weights(self) -> Float[Tensor, "tasks K"]:
        """The weights of every task."""
        logits = self.numbers()
        if self.training and torch.is_grad_enabled():
            # Logistic noise makes the sigmoid a relaxed coin with the right probability of heads.
            generator = torch.Generator().manual_seed(self._seed + self._draws)
            self._draws += 1
            uniform = torch.rand(logits.shape, generator=generator).to(logits.device).clamp(1e-6, 1 - 1e-6)
            logits = (logits + uniform.logit()) / self.TEMPERATURE
        members = logits.sigmoid()
        return members / members.sum(-1, keepdim=True).clamp(min=1e-6)


class OnePerTaskGate(Gate):
    """One expert for each task, and nothing shared."""

    def __init__(self, num_tasks: int, num_experts: int):
        super().__init__()
        if num_experts != num_tasks:
            raise ConfigError(f"model.gate 'one_per_task' gives each task an expert: set model.experts to {num_tasks}, not {num_experts}")
        self.num_tasks = num_tasks
        self.one: Tensor
        self.register_buffer("one", torch.eye(num_tasks), persistent=False)

    def forward(self, task_ids: Int[Tensor, " N"]) -> Float[Tensor, "N K"]:
        """Weights of the experts for rows of the given tasks."""
        return functional.one_hot(task_ids, self.num_tasks).to(self.one.dtype)

    def task_weights(self) -> Float[Tensor, "tasks K"]:
        """The weights of every task."""
        return self.one


class UniformGate(Gate):
    """Every task takes the same of every expert; with one expert, a shared trunk."""

    def __init__(self, num_tasks: int, num_experts: int):
        super().__init__()
        self.weights: Tensor
        self.register_buffer("weights", torch.full((num_tasks, num_experts), 1 / num_experts), persistent=False)

    def task_weights(self) -> Float[Tensor, "tasks K"]:
        """The weights of every task."""
        return self.weights


class SafeGate(LinearGate):
    """Deep Safe Multi-Task Learning (Yue et al. 2021): the mixture of the shared experts with `LinearGate`'s weights, and beside it a
    private branch of each task. A share s of each task makes the mixed feature s · private + (1 - s) · shared, so that a task which the
    others disturb can turn to its own branch.

    Args:
        num_tasks: tasks of the suite.
        num_experts: shared experts (K).
        share: of the private branches at the start.
        learned: whether the shares are learned, through a sigmoid of a number of each task.

    Raises:
        ConfigError: a share of 0 or 1, which a sigmoid does not reach, is to be learned.
    """

    def __init__(self, num_tasks: int, num_experts: int, share: float, *, learned: bool):
        super().__init__(num_tasks, num_experts)
        if learned and not 0 < share < 1:
            raise ConfigError(
                f"model.private_share {share:g} cannot be learned from: take a share between 0 and 1, or set model.learn_private_share to "
                "false"
            )
        self.share_logit: nn.Parameter | None = None
        self.fixed_share: Tensor
        if learned:
            self.share_logit = nn.Parameter(torch.full((num_tasks,), share).logit())
        self.register_buffer("fixed_share", torch.full((num_tasks,), share), persistent=False)

    def private_share(self) -> Float[Tensor, " tasks"]:
        """See `Gate`."""
        return self.fixed_share if self.share_logit is None else self.share_logit.sigmoid()


GATES: dict[str, Callable[[int, ModelConfig], Gate]] = {
    "linear": lambda num_tasks, model: LinearGate(num_tasks, model.experts),
    "softmax": lambda num_tasks, model: SoftmaxGate(num_tasks, model.experts),
    "topk": lambda num_tasks, model: TopKGate(num_tasks, model.experts, model.gate_experts),
    "dselect_k": lambda num_tasks, model: DSelectKGate(num_tasks, model.experts, model.gate_experts),
    "skills": lambda num_tasks, model: SkillsGate(num_tasks, model.experts),
    "safe": lambda num_tasks, model: SafeGate(num_tasks, model.experts, model.private_share, learned=model.learn_private_share),
    "one_per_task": lambda num_tasks, model: OnePerTaskGate(num_tasks, model.experts),
    "uniform": lambda num_tasks, model: UniformGate(num_tasks, model.experts),
}


def make_gate(model: ModelConfig, num_tasks: int, vectors: TaskVectors | None = None) -> Gate:
    """The gate that the experiment names.

    Args:
        model: names it.
        num_tasks: tasks of the suite.
        vectors: of the tasks, if they have some.

    Raises:
        ConfigError: there is none of that name, or it does not go with the number of experts or with vectors of the tasks.
    """
    gate = look_up(model.gate, GATES, "model.gate", "gate")(num_tasks, model)
    if vectors is None:
        return gate
    if isinstance(gate, LinearGate) and gate.private_share() is None:
        gate.read_vectors(vectors)
    elif not isinstance(gate, UniformGate):
        raise ConfigError(
            f"model.gate {model.gate!r} has parameters of its own for each task, and model.conditioning {model.conditioning!r} needs "
            "weights that depend on the task's vector: set model.gate to linear, softmax, topk, skills or uniform"
        )
    gate.vectors = vectors
    return gate
