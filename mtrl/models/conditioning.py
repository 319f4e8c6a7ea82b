"""Task conditioning: a vector for every task, which gate, heads and memory read in place of the task's number.

With `model.conditioning` at `one_hot` there are no vectors: gate and heads have rows of their own for each task. With `embedding` and
`sentence` every trunk has vectors of its own, trained by the losses that train the trunk. As in CARE (Sodhani et al. 2021), the vector
decides the weights of the experts, and it is appended to the mixed feature, which heads and memory read.

A policy with vectors also serves tasks that it was not trained on (`weights_for`).
"""

from __future__ import annotations

import hashlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from envs import TaskSuite
from mtrl.config import ModelConfig
from mtrl.models.normalization import Scale

Places = Sequence[int | None]
"""For each task of a suite, its place among the tasks that a policy was trained on; None for tasks that it was not trained on."""

_WORD = re.compile(r"[a-z]+|[-+]?[0-9]+(?:[.][0-9]+)?")


class TaskVectors(nn.Module, ABC):
    """A vector for every task."""

    size: int  # numbers in a vector (E)

    @abstractmethod
    def forward(self) -> Float[Tensor, "tasks E"]:
        """The vectors of all tasks."""

    @abstractmethod
    def rows_for(self, trained: Mapping[str, Tensor], places: Places) -> dict[str, Tensor]:
        """The entries of a state dict for this module's tasks, of which some were not trained.

        Args:
            trained: this module's entries in the state dict of the trained policy.
            places: of this module's tasks among those of the trained policy.
        """


class TaskEmbedding(TaskVectors):
    """A free vector for each task. A task that was not trained has the mean of the trained tasks' vectors."""

    def __init__(self, num_tasks: int, size: int):
        super().__init__()
        self.size = size
        # Of length 1 or so, like the mixed feature that it stands beside.
        self.table = nn.Parameter(torch.randn(num_tasks, size) * size**-0.5)

    def forward(self) -> Float[Tensor, "tasks E"]:
        """The vectors of all tasks."""
        return self.table

    def rows_for(self, trained: Mapping[str, Tensor], places: Places) -> dict[str, Tensor]:
        """See `TaskVectors`."""
        table = trained["table"]
        mean = table.mean(0)
        return {"table": torch.stack([mean if place is None else table[place] for place in places])}


class TaskSentences(TaskVectors):
    """What each task asks for, as the mean of its words' vectors and a linear layer (a bag of words, as in Joulin et al. 2017).

    The order of the words is lost. A suite has few sentences, and with more layers the policy learned each of them by heart: on tasks whose
    words were all trained, but not together, it was no better than chance (docs/results.md).

    Sentences and vocabulary are part of the weights, so that a later version of a suite's sentences does not change a trained policy. The
    words of the suite have vectors of their own; all other words share `BUCKETS` vectors by their hash, which begin at zero, so that a word
    that was never trained says nothing. Numbers are one word each, plus what a linear layer makes of their size: numbers that were never
    trained lie between those that were.
    """

    VOCABULARY = 1024  # words with a vector of their own; the sentences of all families have 441
    BUCKETS = 64
    LENGTH = 48  # words of a sentence that are read
    WORD = 32  # numbers in a word's vector

    def __init__(self, sentences: Sequence[str], size: int):
        super().__init__()
        self.size = size
        self.vocabulary: Tensor
        self.words: Tensor
        self.numbers: Tensor
        found = [_WORD.findall(sentence.lower())[: self.LENGTH] for sentence in sentences]
        codes = torch.zeros(len(found), self.LENGTH, dtype=torch.int64)
        numbers = torch.zeros(len(found), self.LENGTH, 2)
        for row, sentence in enumerate(found):
            for column, word in enumerate(sentence):
                codes[row, column], numbers[row, column] = _code(word), torch.tensor(_size_of(word))
        known = torch.full((self.VOCABULARY,), torch.iinfo(torch.int64).max)
        distinct = codes[codes > 0].unique()[: self.VOCABULARY]
        known[: len(distinct)] = distinct
        self.register_buffer("vocabulary", known)  # ascending codes of the known words, filled up with a code that no word has
        self.register_buffer("words", codes)  # of each sentence, filled up with 0
        self.register_buffer("numbers", numbers)  # the size of those words that are numbers
        self.word_vectors = nn.Embedding(self.VOCABULARY + self.BUCKETS, self.WORD)
        nn.init.zeros_(self.word_vectors.weight.data[self.VOCABULARY :])
        self.number_vectors = nn.Linear(2, self.WORD, bias=False)
        nn.init.normal_(self.number_vectors.weight)
        self.output = nn.Linear(self.WORD, size)
        nn.init.normal_(self.output.weight, std=0.5 * size**-0.5)  # a vector of length 1 or so, like the mixed feature beside it

    def forward(self) -> Float[Tensor, "tasks E"]:
        """The vectors of all tasks."""
        there = (self.words > 0).unsqueeze(-1)
        vectors = self.word_vectors(self._places()) + self.number_vectors(self.numbers)
        means = (vectors * there).sum(1) / there.sum(1).clamp(min=1)
        return self.output(means)  # type: ignore[no-any-return]

    def rows_for(self, trained: Mapping[str, Tensor], places: Places) -> dict[str, Tensor]:
        """See `TaskVectors`: the sentences of tasks that were not trained are their own, read with the trained words."""
        rows = {}
        for name in ("words", "numbers"):
            own = getattr(self, name)
            rows[name] = torch.stack([own[row] if place is None else trained[name][place] for row, place in enumerate(places)])
        return {**trained, **rows}

    def _places(self) -> Int[Tensor, "tasks L"]:
        """The place of each word's vector."""
        at = torch.searchsorted(self.vocabulary, self.words).clamp(max=self.VOCABULARY - 1)
        known = self.vocabulary[at] == self.words
        return torch.where(known, at, self.VOCABULARY + self.words % self.BUCKETS)


def make_task_vectors(model: ModelConfig, suite: TaskSuite) -> TaskVectors | None:
    """The tasks' vectors that the experiment asks for; None for `one_hot`."""
    if model.conditioning == "one_hot":
        return None
    if model.conditioning == "embedding":
        return TaskEmbedding(suite.num_tasks, model.task_vector_size)
    return TaskSentences([task.sentence for task in suite.tasks], model.task_vector_size)


def places_of(suite: TaskSuite, trained: Sequence[str]) -> list[int | None]:
    """The places of a suite's tasks among the names of the trained ones; None for those that were not trained."""
    return [trained.index(name) if name in trained else None for name in suite.names]


def weights_for(network: nn.Module, weights: Mapping[str, Tensor], places: Places) -> dict[str, Tensor]:
    """The weights of a trained policy for a network of other tasks, of which some were not trained.

    What belongs to a task follows the task. A task that was not trained has the vector that `TaskVectors` says, and statistics of its
    observations from those of all trained tasks together.

    Args:
        network: the policy, built for the other tasks.
        weights: of the trained policy.
        places: of the network's tasks among the trained ones.
    """
    fitted = dict(weights)
    for name, module in network.named_modules():
        if isinstance(module, TaskVectors | Scale):
            own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
            fitted |= {f"{name}.{key}": value for key, value in module.rows_for(own, places).items()}
    return fitted


def _code(word: str) -> int:
    """A number above 0 of a word, the same in every process; all numbers have the same."""
    text = "0" if _is_number(word) else word
    return 1 + int.from_bytes(hashlib.sha256(text.encode()).digest()[:7])


def _size_of(word: str) -> tuple[float, float]:
    """A number's order of magnitude, and its sign with a size from 0 to 1; zeros for other words."""
    if not _is_number(word):
        return 0.0, 0.0
    value = float(word)
    return math.log10(abs(value) + 0.01), value / (1 + abs(value))


def _is_number(word: str) -> bool:
    return not word.isalpha()
