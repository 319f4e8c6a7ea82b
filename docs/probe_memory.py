"""Whether a policy's memory can learn MemoryS11's question at all when the right turn is told: `python docs/probe_memory.py [STEPS]`.

Walks are scripted: some turn round to see the first object, then all go to where the corridor forks. There the policy is told which turn is
right. Neither the object behind nor those ahead says it alone. One line for each setting: how many turns it takes right, for walks that saw
the first object, by the mean of each fifth of the steps.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gymnasium
import minigrid  # noqa: F401, registers its environments
import numpy as np
import torch

from envs import make_suite
from mtrl.config import load_config, override
from mtrl.models.memory import Recurrence
from mtrl.models.policy import build_policy
from mtrl.models.rows import Rows
from mtrl.parallel import alone

LEFT, RIGHT, FORWARD = 0, 1, 2
BATCH, WALKS = 16, 2000


class Walk(NamedTuple):
    """Views and the actions between them; whether the first object was seen, and which turn is right at the end."""

    views: np.ndarray
    actions: list[int]
    saw: bool
    turn: int


def walk(env: gymnasium.Env, seed: int, look: bool) -> Walk:
    """To the fork, past the first object if `look`."""
    observation, _ = env.reset(seed=seed)
    world, views, actions = env.unwrapped, [observation["image"]], []

    def go(*steps: int) -> None:
        for action in steps:
            views.append(env.step(action)[0]["image"])
            actions.append(action)

    if look:
        go(LEFT, LEFT)
        while world.agent_pos[0] > 5:
            go(FORWARD)
        go(LEFT, LEFT)
    while world.grid.get(world.agent_pos[0] + 1, world.agent_pos[1]) is None:
        go(FORWARD)
    return Walk(np.array(views), actions, look, LEFT if world.success_pos[1] < world.agent_pos[1] else RIGHT)


def probe(walks: list[Walk], steps: int, changes: dict) -> list[float]:
    """Trains on batches of walks; the share of right turns of those that looked, in each fifth of the steps."""
    given = {"suite.name": "minigrid/MemoryS11", "model.memory": True, "learner.minibatch_of": "traces"}
    config = override(load_config("configs/minigrid_mt3.yaml"), given | changes)
    actor = build_policy(config.model, make_suite(config.suite.name), seed=0).actor
    optimizer = torch.optim.Adam(actor.parameters(), lr=1e-3)
    initial = {name: torch.from_numpy(array) for name, array in actor.memory.initial(BATCH).items()}
    rng, right = np.random.default_rng(0), []
    for _ in range(steps):
        drawn = [walks[i] for i in rng.integers(0, len(walks), BATCH)]
        length = max(len(one.views) for one in drawn)
        # All end together; before a walk begins there is nothing, and its first view clears the memory.
        views, actions = np.zeros((length, BATCH, 7, 7, 3), np.uint8), np.zeros((length, BATCH), np.int64)
        starts = np.zeros((length, BATCH), bool)
        for slot, one in enumerate(drawn):
            begin = length - len(one.views)
            views[begin:, slot], actions[begin + 1 :, slot], starts[: begin + 1, slot] = one.views, one.actions, True
        rows = Rows({"image": torch.from_numpy(views).flatten(0, 1)}, torch.zeros(length * BATCH, dtype=torch.int64), (length * BATCH,))
        recurrence = Recurrence(
            torch.from_numpy(actions), torch.zeros(length, BATCH), torch.from_numpy(starts), initial["hidden"], initial["cell"]
        )
        actor.trunk.observe(rows, torch.ones(length * BATCH), alone)
        hidden = actor.memory.unroll(actor(rows).unflatten(0, (length, BATCH)), recurrence)
        logits, turns = actor.head(hidden[-1], (BATCH,))[:, :2], torch.tensor([one.turn for one in drawn])
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, turns).backward()
        optimizer.step()
        looked = torch.tensor([one.saw for one in drawn])
        right.append((logits.argmax(1) == turns)[looked].numpy())
    return [float(np.concatenate(right[i * steps // 5 : (i + 1) * steps // 5]).mean()) for i in range(5)]


def main(steps: int) -> None:
    """Prints a line for each setting."""
    env = gymnasium.make("MiniGrid-MemoryS11-v0")
    for every in (1, 5):
        walks = [walk(env, seed, look=seed % every == 0) for seed in range(WALKS)]
        for normalize in (False, True):
            for span in (2, 30):
                found = probe(walks, steps, {"model.normalize_features": normalize, "model.memory_span": span})
                print(f"1 of {every} looked, unit scale {normalize!s:5}, span {span:2}: " + " ".join(f"{x:.2f}" for x in found), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
