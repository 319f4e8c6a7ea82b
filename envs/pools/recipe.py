"""How a script plays EnvPool's environments without this project."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gymnasium.spaces import Box

from envs.observations import MASK
from envs.pools.views import FramesView, Part, VectorView, View
from envs.task import PlayRecipe

SETUP = """\
import numpy

POOLS = {pools}


class Single:
    \"\"\"A pool of one environment, which is made anew with each seed.\"\"\"

    def __init__(self, name):
        self.name, self.options = POOLS[name]

    def reset(self, seed=0):
        self.pool = envpool.make(self.name, env_type="gymnasium", num_envs=1, seed=[seed], **self.options)
        observation, info = self.pool.reset()
        return first(observation), info

    def step(self, action):
        observation, reward, terminated, truncated, info = self.pool.step(to_pool(numpy.asarray(action)[None]))
        return first(observation), reward[0], bool(terminated[0]), bool(truncated[0]), info


def first(value):
    return {{key: first(part) for key, part in value.items()}} if isinstance(value, dict) else numpy.asarray(value)[0]


def to_pool(actions):
    return {to_pool}

"""


def recipe_of(view: View, pools: Mapping[str, tuple[str, Mapping[str, Any]]]) -> PlayRecipe | None:
    """The recipe of tasks with the same view; None where their actions are no choices and have no bounds.

    Args:
        view: how the policy sees and acts.
        pools: for each task EnvPool's id and the arguments of `envpool.make`.
    """
    kind = "float32" if isinstance(view.action_space, Box) else "int32"
    to_pool = f"actions.astype({kind!r})" if view.to_pool is None else view.to_pool.source
    if to_pool is None:
        return None
    read: str | dict[str, str]
    if isinstance(view.adapt, FramesView):
        read = "numpy.ascontiguousarray(numpy.moveaxis(observation, -1, -3))" if view.adapt.channels_last else "observation"
    else:
        read = _reading(view.adapt)
    named = {name: (envpool_id, dict(options)) for name, (envpool_id, options) in pools.items()}
    return PlayRecipe("envpool", 'Single("{task}")', read, SETUP.format(pools=named, to_pool=to_pool))


def _reading(view: VectorView) -> dict[str, str]:
    vector = f"numpy.concatenate([{', '.join(map(_numbers, view.parts))}]).astype('float32')"
    mask = {} if view.choices is None else {MASK: f"numpy.ravel(observation[{MASK!r}]).astype('int8')"}
    return {"vector": vector} | mask


def _numbers(part: Part) -> str:
    """An expression for the numbers of one array."""
    array = "observation" + "".join(f"[{name!r}]" for name in part.path)
    if part.kinds is None:
        return f"numpy.ravel({array})"
    value = f"int({array})" if part.start == 0 else f"int({array}) - {part.start}"
    return f"[({value}) / {max(1, part.kinds - 1)}]" if part.size == 1 else f"numpy.eye({part.kinds})[{value}]"
