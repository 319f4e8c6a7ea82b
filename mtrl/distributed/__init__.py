"""The trainer on Ray: runners as RLlib EnvRunner actors, the loop as an RLlib Algorithm. The only package that imports ray.

RLlib takes seconds to import, so its part is imported when it is first asked for: by then `cluster` may already be starting Ray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mtrl.distributed.cluster import ResourceError, build_ray_trainer

if TYPE_CHECKING:
    from mtrl.distributed.algorithm import MultiTaskIMPALA, MultiTaskIMPALAConfig

__all__ = ["MultiTaskIMPALA", "MultiTaskIMPALAConfig", "ResourceError", "build_ray_trainer"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mtrl.distributed import algorithm

    return getattr(algorithm, name)
