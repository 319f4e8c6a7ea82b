"""Tasks: suites of environments behind one vector protocol. NumPy, Gymnasium and one simulator package per file."""

from envs.registry import UnknownSuiteError, list_suites, make_suite
from envs.task import SuiteError, Task, TaskFault, TaskSuite, UnknownTaskError
from envs.vector import Episode, Fault, Step, VectorTasks

__all__ = [
    "Episode",
    "Fault",
    "Step",
    "SuiteError",
    "Task",
    "TaskFault",
    "TaskSuite",
    "UnknownSuiteError",
    "UnknownTaskError",
    "VectorTasks",
    "list_suites",
    "make_suite",
]
