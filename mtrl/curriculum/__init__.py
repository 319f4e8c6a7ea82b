"""Curricula: which share of the next frames each task gets. A scheduler is one file here and one line in `SCHEDULERS`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pydantic

from mtrl.config import ConfigError, CurriculumConfig, explain, look_up
from mtrl.curriculum.scheduler import RatedScheduler, Scheduler, with_floor
from mtrl.curriculum.schedulers.camrl import CAMRL
from mtrl.curriculum.schedulers.drats import DRATS
from mtrl.curriculum.schedulers.ducb import DUCB
from mtrl.curriculum.schedulers.exp3s import Exp3S
from mtrl.curriculum.schedulers.fixed import Fixed
from mtrl.curriculum.schedulers.learnability import Learnability
from mtrl.curriculum.schedulers.learning_progress import LearningProgress
from mtrl.curriculum.schedulers.mastering_rate import MasteringRate
from mtrl.curriculum.schedulers.mbtl import MBTL
from mtrl.curriculum.schedulers.plr import PLR
from mtrl.curriculum.schedulers.rollin import ROLLIN
from mtrl.curriculum.schedulers.smt import SMT
from mtrl.curriculum.schedulers.space import SPaCE
from mtrl.curriculum.schedulers.success_gap import SuccessGap
from mtrl.curriculum.schedulers.t3s import T3S
from mtrl.curriculum.schedulers.teacher_student import TeacherStudent
from mtrl.curriculum.schedulers.uniform import Uniform
from mtrl.curriculum.schedulers.worst_first import WorstFirst

SCHEDULERS: dict[str, type[RatedScheduler]] = {
    "uniform": Uniform,
    "fixed": Fixed,
    "success_gap": SuccessGap,
    "drats": DRATS,
    "worst_first": WorstFirst,
    "t3s": T3S,
    "learning_progress": LearningProgress,
    "learnability": Learnability,
    "teacher_student": TeacherStudent,
    "mastering_rate": MasteringRate,
    "exp3s": Exp3S,
    "ducb": DUCB,
    "plr": PLR,
    "smt": SMT,
    "camrl": CAMRL,
    "space": SPaCE,
    "mbtl": MBTL,
    "rollin": ROLLIN,
}

__all__ = ["SCHEDULERS", "RatedScheduler", "Scheduler", "make_scheduler", "with_floor"]


def make_scheduler(config: CurriculumConfig, names: Sequence[str]) -> Scheduler:
    """The scheduler that the experiment names, for tasks of these names.

    Raises:
        ConfigError: nobody registered that name, or its options are at fault.
    """
    kind = _kind(config)
    try:
        options: Any = kind.Options.model_validate(config.options)
    except pydantic.ValidationError as error:
        faults = explain(error, kind.Options).splitlines()
        raise ConfigError("\n".join(f"curriculum.options.{fault} (scheduler {config.scheduler})" for fault in faults)) from None
    return kind(names, options)


def needs_similarity(config: CurriculumConfig) -> bool:
    """Whether the experiment's scheduler reads the similarity of the tasks' gradients, which the learner then computes."""
    return bool(getattr(_kind(config), "needs_similarity", False))


def _kind(config: CurriculumConfig) -> type[RatedScheduler]:
    return look_up(config.scheduler, SCHEDULERS, "curriculum.scheduler", "scheduler")
