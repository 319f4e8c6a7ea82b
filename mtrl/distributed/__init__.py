"""The trainer on Ray: runners as RLlib EnvRunner actors, the loop as an RLlib Algorithm. The only package that imports ray.

PyTorch and RLlib take seconds to import, so each part is imported when it is first asked for: a small actor needs none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtrl.distributed.algorithm import MultiTaskIMPALA, MultiTaskIMPALAConfig
    from mtrl.distributed.cluster import ResourceError, build_ray_trainer

__all__ = ["MultiTaskIMPALA", "MultiTaskIMPALAConfig", "ResourceError", "build_ray_trainer"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in ("ResourceError", "build_ray_trainer"):
        from mtrl.distributed import cluster

        return getattr(cluster, name)
    from mtrl.distributed import algorithm

    return getattr(algorithm, name)
