"""A distributed trainer for multi-task reinforcement learning: V-trace, orthogonal experts and a curriculum over tasks.

What is public here is imported when it is first asked for: `import mtrl` itself imports neither torch nor Ray nor any simulator.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtrl.api.policy import Policy, load_policy
    from mtrl.api.run import Run, TrainingError, load_run, train
    from mtrl.config import ExperimentConfig
    from mtrl.errors import UserError

__all__ = ["ExperimentConfig", "Policy", "Run", "TrainingError", "UserError", "load_policy", "load_run", "train"]

_HOMES = {
    "ExperimentConfig": "mtrl.config",
    "Policy": "mtrl.api.policy",
    "Run": "mtrl.api.run",
    "TrainingError": "mtrl.api.run",
    "UserError": "mtrl.errors",
    "load_policy": "mtrl.api.policy",
    "load_run": "mtrl.api.run",
    "train": "mtrl.api.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
