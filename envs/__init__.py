"""Tasks: suites of environments behind one vector protocol. NumPy, Gymnasium and one simulator package per file."""

from envs.registry import UnknownSuiteError, list_suites, make_suite
from envs.task import SuiteError, Task, TaskSuite, UnknownTaskError
from envs.vector import Episode, Step, VectorTasks

__all__ = [
    "Episode",
    "Step",
    "SuiteError",
    "Task",
    "TaskSuite",
    "UnknownSuiteError",
    "UnknownTaskError",
    "VectorTasks",
    "list_suites",
    "make_suite",
]
