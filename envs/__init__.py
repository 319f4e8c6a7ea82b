"""Tasks: suites of environments behind one vector protocol. Needs NumPy and Gymnasium; each family of suites also its simulator."""

from envs.build import make_vector, step_once
from envs.errors import SuiteError, TaskFault, UnknownSuiteError, UnknownTaskError
from envs.registry import list_suites, make_suite, single_task
from envs.task import EvaluationProtocol, PlayRecipe, Task, TaskSuite
from envs.vector import Arrays, Episode, Fault, Step, VectorTasks

__all__ = [
    "Arrays",
    "Episode",
    "EvaluationProtocol",
    "Fault",
    "PlayRecipe",
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
    "make_vector",
    "single_task",
    "step_once",
]
