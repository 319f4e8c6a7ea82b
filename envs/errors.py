"""What may go wrong with tasks: asked for in vain, or failing while they are stepped."""

from __future__ import annotations


class SuiteError(ValueError):
    """Tasks were asked for that cannot be served. The message is one sentence."""


class UnknownTaskError(SuiteError):
    """A suite has no task of that name."""


class TaskFault(RuntimeError):  # noqa: N818  (not an error of the caller's)
    """A task's environments did what none may: raised, or returned what is no observation or reward."""

    def __init__(self, task_id: int, task: str, reason: str):
        super().__init__(f"{task}: {reason}")
        self.task_id = task_id


class UnknownSuiteError(SuiteError):
    """There is no suite of that name."""
