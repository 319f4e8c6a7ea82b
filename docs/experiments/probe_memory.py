"""How soon a policy's memory learns MemoryS11's question when the right turn is told:

`python docs/experiments/probe_memory.py [SEEDS] [STEPS]`.

Walks are scripted: some turn round to see the first object, then all go to where the corridor forks. There the policy is told which turn is
right. Neither the object behind nor those ahead says it alone. One line for each setting: the steps of the optimiser, for each seed, until
nine of ten turns are right where the first object was seen; `-` if that many steps were not enough.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

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
BATCH, WALKS, WINDOW = 16, 4000, 150
SETTINGS = (  # experts, whether the memory reads the observation itself, span of the memory, whether all walks saw the first object
    (2, False, 30, True),
    (4, False, 30, True),
    (2, True, 2, True),
    (2, True, 30, True),
    (2, True, 30, False),
)


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


def probe(walks: list[Walk], steps: int, experts: int, view: bool, span: int, seed: int) -> int | None:
    """Trains on batches of walks; steps until 0.9 of the last 150 turns of those that looked were right."""
    given = {"suite.name": "minigrid/MemoryS11", "model.memory": True, "learner.minibatch_of": "traces"}
    config = override(load_config("configs/minigrid_mt3.yaml"), given | {"model.experts": experts, "model.memory_t_max": span})
    actor = build_policy(config.model, make_suite(config.suite.name), seed).actor
    if not view:
        actor.memory.feature_weight.data[:, actor.trunk.feature_size :] = 0
        actor.memory.view.forward = lambda obs, task_ids: torch.zeros(len(task_ids), actor.memory.view.size)
    optimizer = torch.optim.Adam(actor.parameters(), lr=1e-3)
    initial = {name: torch.from_numpy(array) for name, array in actor.memory.initial(BATCH).items()}
    rng, right = np.random.default_rng(seed), []
    for step in range(steps):
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
        actor.memory.view.observe(rows.obs, rows.task_ids, torch.ones(length * BATCH), alone)
        projected, read = actor(rows).unflatten(0, (length, BATCH)).tensor_split([4 * actor.memory.hidden_size], dim=-1)
        hidden = actor.memory.unroll(projected, recurrence)
        logits = actor.head.answer(read[-1] + actor.head.recall(hidden[-1], (BATCH,)), (BATCH,))[:, :2]
        turns = torch.tensor([one.turn for one in drawn])
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, turns).backward()
        optimizer.step()
        right.extend((logits.argmax(1) == turns)[torch.tensor([one.saw for one in drawn])].tolist())
        if len(right) >= WINDOW and np.mean(right[-WINDOW:]) >= 0.9:
            return step + 1
    return None


def main(seeds: int = 3, steps: int = 600) -> None:
    """Prints a line for each setting."""
    env = gymnasium.make("MiniGrid-MemoryS11-v0")
    walks = [walk(env, seed, look=seed % 5 == 0) for seed in range(WALKS)]
    for experts, view, span, all_looked in SETTINGS:
        drawn, budget = ([one for one in walks if one.saw], steps) if all_looked else (walks, 3 * steps)
        found = [probe(drawn, budget, experts, view, span, seed) for seed in range(seeds)]
        reads, who = "feature and view" if view else "feature", "all looked" if all_looked else "a fifth looked"
        print(
            f"{who}, {experts} experts, memory reads {reads}, span {span}, of {budget}: " + " ".join(str(n or "-") for n in found),
            flush=True,
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
