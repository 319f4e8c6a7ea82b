"""Action distributions in a file: the numbers that it gives for one, the encoding that its memory reads, and the lines that act on it.

A distribution is a class here and an entry in `FORMS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mtrl.errors import UserError
from mtrl.models.distributions import Categorical, Distribution, Either, Factored, MultiCategorical, Normal, TanhNormal


class ActionCode(NamedTuple):
    """Expressions of a script. `parameters` is a row of the file's outputs, `action` the value of the first expression."""

    draw: str  # the policy's action, as a tensor
    to_environment: str  # the environment's action
    to_memory: str  # the memory's `last_action`, one row


class Form(Protocol):
    """A distribution in a file."""

    text: str
    """What the numbers of a row are, for people."""
    size: int
    """Numbers in a row."""

    def parameters(self, outputs: Tensor) -> Tensor:
        """The file's outputs `[N, size]` from a head's."""

    def encode(self, actions: Tensor) -> Tensor:
        """The encoding of actions that the memory reads."""

    def narrow(self, actions: Tensor) -> Tensor:
        """The policy's actions as the file's memory takes them."""

    def code(self, greedy: bool, kind: int, row: str = "parameters") -> ActionCode:
        """How a script acts for a task with actions of this kind; `row` is the expression for the numbers."""


def portable_form(distribution: Distribution, kind: int | None = None) -> Form:
    """The form of a distribution.

    Args:
        distribution: the policy's.
        kind: for actions of several kinds, the one that is left.

    Raises:
        UserError: there is none for a distribution of this class.
    """
    if type(distribution) not in FORMS:
        raise UserError(f"the policy cannot be exported: an exported file has no form for a distribution {type(distribution).__name__}")
    form = FORMS[type(distribution)](distribution)
    return form if kind is None or not isinstance(form, EitherForm) else OneKindForm(form, kind)


class CategoricalForm:
    """Logits."""

    def __init__(self, distribution: Categorical):
        self._distribution = distribution
        self.text, self.size = f"logits of the {distribution.num_parameters} actions", distribution.num_parameters

    def parameters(self, outputs: Tensor) -> Tensor:
        """See `Form`."""
        return outputs

    def encode(self, actions: Tensor) -> Tensor:
        """See `Form`."""
        return self._distribution.encode(actions)

    def narrow(self, actions: Tensor) -> Tensor:
        """See `Form`."""
        return actions

    def code(self, greedy: bool, kind: int, row: str = "parameters") -> ActionCode:
        """See `Form`."""
        draw = f"{row}.argmax()" if greedy else f"torch.distributions.Categorical(logits={row}).sample()"
        return ActionCode(draw, "action.item()", "action[None]")


class MultiCategoricalForm(CategoricalForm):
    """Logits of each choice, side by side."""

    def __init__(self, distribution: MultiCategorical):
        self._distribution = distribution  # type: ignore[assignment]
        self._counts, self.size = distribution.counts, distribution.num_parameters
        self.text = f"logits of {len(self._counts)} choices among {', '.join(map(str, self._counts))} values, side by side"

    def code(self, greedy: bool, kind: int, row: str = "parameters") -> ActionCode:
        """See `Form`."""
        own = "part.argmax()" if greedy else "torch.distributions.Categorical(logits=part).sample()"
        return ActionCode(f"torch.stack([{own} for part in {row}.split({list(self._counts)})])", "action.numpy()", "action[None]")


class NormalForm:
    """Means and standard deviations side by side. A script takes the means."""

    squashing = ".clamp(-1, 1)"
    rule = "environments clip actions"

    def __init__(self, distribution: Normal):
        self._distribution = distribution
        self.size = distribution.num_parameters
        self.text = f"{self.size // 2} means and {self.size // 2} standard deviations side by side; {self.rule}"

    def parameters(self, outputs: Tensor) -> Tensor:
        """See `Form`."""
        mean, offset = outputs.chunk(2, dim=-1)
        return torch.cat([mean, Normal.log_scale(offset).exp()], dim=-1)

    def encode(self, actions: Tensor) -> Tensor:
        """See `Form`."""
        return self._distribution.encode(actions)

    def narrow(self, actions: Tensor) -> Tensor:
        """See `Form`."""
        return actions

    def code(self, greedy: bool, kind: int, row: str = "parameters") -> ActionCode:
        """See `Form`."""
        return ActionCode(f"{row}[: {self.size // 2}]", f"action{self.squashing}.numpy()", "action[None]")


class TanhNormalForm(NormalForm):
    """As `NormalForm`, of actions before tanh."""

    squashing = ".tanh()"
    rule = "the environment is given tanh of an action"


class FactoredForm:
    """The numbers of choices, then those of real numbers."""

    def __init__(self, distribution: Factored):
        self._distribution = distribution
        self._parts = [portable_form(part) for part in distribution.parts]
        self._counts = [part.num_parameters for part in distribution.parts]
        self.size = sum(part.size for part in self._parts)
        self.text = "; then ".join(part.text for part in self._parts)

    def parameters(self, outputs: Tensor) -> Tensor:
        """See `Form`."""
        own = outputs.split(self._counts, dim=-1)
        return torch.cat([part.parameters(each) for part, each in zip(self._parts, own, strict=True)], dim=-1)

    def encode(self, actions: Tensor) -> Tensor:
        """See `Form`."""
        return self._distribution.encode(actions)

    def narrow(self, actions: Tensor) -> Tensor:
        """See `Form`."""
        return actions

    def code(self, greedy: bool, kind: int, row: str = "parameters") -> ActionCode:
        """See `Form`."""
        choices, numbers = self._parts
        assert isinstance(numbers, NormalForm)
        drawn = [choices.code(greedy, 0, f"{row}[: {choices.size}]").draw, numbers.code(greedy, 0, f"{row}[{choices.size} :]").draw]
        count = self._distribution.parts[0].size
        acted = f"torch.cat([action[:{count}], action[{count}:]{numbers.squashing}]).numpy()"
        return ActionCode(f"torch.cat([{drawn[0]}.flatten().float(), {drawn[1]}])", acted, "action[None]")


class EitherForm:
    """The kind's number, the numbers of the kind's own form, and zeros to fill up."""

    def __init__(self, distribution: Either):
        self.distribution = distribution
        self.kinds = [portable_form(kind) for kind in distribution.kinds]
        self.size = 1 + max(kind.size for kind in self.kinds)
        own = "; ".join(f"after {number}: {kind.text}" for number, kind in enumerate(self.kinds))
        self.text = f"the number of the row's kind of action, then what its kind has, then zeros ({own})"

    def parameters(self, outputs: Tensor) -> Tensor:
        """See `Form`."""
        rows: Any = 0.0
        for number, (kind, form) in enumerate(zip(self.distribution.kinds, self.kinds, strict=True)):
            own = form.parameters(outputs[:, 1 : 1 + kind.num_parameters])
            own = torch.nn.functional.pad(own, (0, self.size - 1 - form.size))
            rows = torch.where(outputs[:, :1] == number, own, rows)
        return torch.cat([outputs[:, :1], rows], dim=1)

    def encode(self, actions: Tensor) -> Tensor:
        """See `Form`."""
        parts = []
        for number, form in enumerate(self.kinds):
            own = actions[:, :1] == number
            # A row of another kind may hold what is no action of this one.
            features = form.encode(self.distribution.value(number, torch.where(own, actions, 0.0)))
            parts.append(torch.where(own, features, 0.0))
        return torch.cat(parts, dim=1)

    def narrow(self, actions: Tensor) -> Tensor:
        """See `Form`."""
        return actions

    def code(self, greedy: bool, kind: int, row: str = "parameters") -> ActionCode:
        """See `Form`."""
        form, width = self.kinds[kind], self.distribution.width
        own = form.code(greedy, kind, f"{row}[1 : {1 + form.size}]")
        filled = f"torch.cat([torch.tensor([{kind}.0]), action.float().flatten(), torch.zeros({width})])[None, :{width}]"
        return own._replace(to_memory=filled)


class OneKindForm:
    """One kind of an `EitherForm`."""

    def __init__(self, form: EitherForm, kind: int):
        self._either, self._number, self._own = form.distribution, kind, form.kinds[kind]
        features = [each.num_features for each in form.distribution.kinds]
        self._padding = (sum(features[:kind]), sum(features[kind + 1 :]))
        self.text, self.size = self._own.text, self._own.size

    def parameters(self, outputs: Tensor) -> Tensor:
        """See `Form`."""
        return self._own.parameters(outputs[:, 1 : 1 + self._either.kinds[self._number].num_parameters])

    def encode(self, actions: Tensor) -> Tensor:
        """See `Form`."""
        return torch.nn.functional.pad(self._own.encode(actions), self._padding)

    def narrow(self, actions: Tensor) -> Tensor:
        """See `Form`."""
        return self._either.value(self._number, actions)

    def code(self, greedy: bool, kind: int, row: str = "parameters") -> ActionCode:
        """See `Form`."""
        return self._own.code(greedy, kind, row)


FORMS: dict[type, Callable[[Any], Form]] = {
    Categorical: CategoricalForm,
    MultiCategorical: MultiCategoricalForm,
    Normal: NormalForm,
    TanhNormal: TanhNormalForm,
    Factored: FactoredForm,
    Either: EitherForm,
}
