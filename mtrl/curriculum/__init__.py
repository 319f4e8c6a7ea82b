"""Curricula: which share of the next frames each task gets. A scheduler is one file here and one line in `SCHEDULERS`."""

from __future__ import annotations

from collections.abc import Callable

from mtrl.config import ConfigError, CurriculumConfig
from mtrl.curriculum.scheduler import Scheduler, with_floor
from mtrl.curriculum.uniform import Uniform

SCHEDULERS: dict[str, Callable[[int], Scheduler]] = {
    "uniform": Uniform,
}

__all__ = ["SCHEDULERS", "Scheduler", "make_scheduler", "with_floor"]


def make_scheduler(config: CurriculumConfig, num_tasks: int) -> Scheduler:
    """The scheduler that the experiment names.

    Raises:
        ConfigError: nobody registered that name.
    """
    if config.scheduler not in SCHEDULERS:
        raise ConfigError(f"curriculum.scheduler: no scheduler {config.scheduler!r}; known are {', '.join(SCHEDULERS)}")
    return SCHEDULERS[config.scheduler](num_tasks)
