"""Errors of tasks: those that cannot be served, and those that fail while they are stepped."""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Iterable
from typing import Any


class SuiteError(ValueError):
    """The tasks of a request cannot be served. The message is one sentence."""


class UnknownTaskError(SuiteError):
    """A suite has no task of that name."""


class MissingPackageError(SuiteError):
    """A simulator, or a library that it needs, is not installed."""


class TaskFault(RuntimeError):  # noqa: N818  (not an error of the caller's)
    """An environment of a task raised an error, or returned an observation or a reward that is not allowed."""

    def __init__(self, task_id: int, task: str, reason: str):
        super().__init__(f"{task}: {reason}")
        self.task_id = task_id
        self._arguments = (task, reason)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in another process is made of the same three arguments."""
        return (type(self), (self.task_id, *self._arguments), self.__dict__)


class MisfitError(ValueError):
    """An environment gave something that is not of its own space. The message is one sentence."""


class UnknownSuiteError(SuiteError):
    """There is no suite of that name."""


def portable(error: BaseException) -> BaseException:
    """The error as it can be sent to another process: a plain one if it cannot be copied. Notes are kept."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:  # a constructor of its own, or something in it that cannot leave this process
        plain = RuntimeError(f"{type(error).__name__}: {error}")
        for note in getattr(error, "__notes__", []):
            plain.add_note(note)
        return plain


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.3) -> str:
    """The end of a sentence about an unknown word: `; did you mean NAME?` with the nearest known name, or nothing if none is near.

    Args:
        word: the unknown word.
        known: the names to choose from.
        cutoff: least similarity of the nearest name, 0 … 1 as `difflib` measures it; at 0 there is always one.
    """
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]}?" if near else ""
