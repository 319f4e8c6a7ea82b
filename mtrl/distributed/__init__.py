"""The trainer on Ray: runners as RLlib EnvRunner actors, the loop as an RLlib Algorithm. The only package that imports ray."""

from mtrl.distributed.algorithm import MultiTaskIMPALA, MultiTaskIMPALAConfig
from mtrl.distributed.cluster import ResourceError, build_ray_trainer

__all__ = ["MultiTaskIMPALA", "MultiTaskIMPALAConfig", "ResourceError", "build_ray_trainer"]
